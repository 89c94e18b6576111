"""Which time steps of a denoiser want the same change of its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from coterie._check import choice, whole_number
from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._files import atomic_write
from coterie._json import reading, text, whole
from coterie._sealed import pack, read_sealed
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.diffusion.gradients import USUAL_PROBE, ProbeSettings, check_gradient, probed_steps, probing
from coterie.diffusion.schedule import NoiseSchedule
from coterie.diffusion.sketch import LONGEST, CountSketch
from coterie.errors import SettingError, require
from coterie.grouping.intervals.programme import Intervals
from coterie.grouping.matrix import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("cosine", "lookahead")
#: 1 had no checksum
_KIND = "coterie step affinity 2"
#: a stored map of more steps would not fit the memory
_MOST_STEPS = 20_000
#: columns of gradients that are in double precision at a time
_COLUMNS = 1 << 16


@short_repr
@dataclass(frozen=True, eq=False)
class StepAffinity:
    """How much time steps agree; larger is better.

    Attributes:
        steps: (m,) the steps that were probed, ascending.
        values: (m, m) ``values[target, source]``.
        n_steps: T, number of steps of the schedule.
        kind: ``"cosine"`` of gradients (symmetric, diagonal 1) or ``"lookahead"`` (share of the target's loss that one
            step of gradient descent on the source saves; not symmetric).
        facts: how it was measured; can be written as JSON.

    Example:
        >>> found = StepAffinity(np.array([0, 2, 4]), np.array([[1, 0.8, 0], [0.8, 1, 0.4], [0, 0.4, 1]]), 5)
        >>> found.full()[0].round(3).tolist()
        [1.0, 0.9, 0.8, 0.4, 0.0]
        >>> [part.round(3).tolist() for part in found.by_gap()], round(found.falling(), 2)
        ([[0, 2, 4], [1.0, 0.6, 0.0]], -0.87)
    """

    steps: IntArray
    values: FloatArray
    n_steps: int
    kind: str = "cosine"
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        given, steps = np.asarray(self.steps), probed_steps(self.n_steps, self.steps, 1)
        if len(given) == len(steps) and not np.array_equal(given, steps):
            raise SettingError(f"Parameter `steps` should be ascending, as rows and columns. Found {given.tolist()}.")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        size = len(self.steps)
        if self.values.shape != (size, size) or not np.isfinite(self.values).all():
            raise SettingError(
                f"Parameter `values` should be a finite ({size}, {size}) matrix for {size} different steps. Found "
                f"shape {self.values.shape}."
            )
        choice(self.kind, "kind", KINDS, of="a step affinity")

    def full(self) -> FloatArray:
        """(T, T): bilinear between the probed steps, exact at them; held constant beyond the first and the last.

        The interpolated diagonal of cosines dips below 1 between probed steps: it is their smooth part.
        """
        hats = np.eye(len(self.steps))
        weights = np.stack([np.interp(np.arange(self.n_steps), self.steps, hat) for hat in hats], axis=1)
        return weights @ self.values @ weights.T

    def by_gap(self) -> tuple[IntArray, FloatArray]:
        """The gaps ``abs(t1 - t2)`` between probed steps, ascending, and the mean affinity at each of them."""
        gap = np.abs(self.steps[:, None] - self.steps[None, :]).ravel()
        gaps, where = np.unique(gap, return_inverse=True)
        return gaps, np.bincount(where, weights=self.values.ravel()) / np.bincount(where)

    def against_snr_gap(self, schedule: NoiseSchedule) -> tuple[FloatArray, FloatArray]:
        """Gap in log SNR and affinity (mean of both directions) of each pair of different probed steps."""
        if schedule.n_steps != self.n_steps:
            raise SettingError(f"Parameter `schedule` should have {self.n_steps} steps. Found {schedule.n_steps}.")
        place = schedule.log_snr.numpy()[self.steps]
        return self._pairs(place)

    def falling(self) -> float:
        """Spearman correlation of the affinity with the gap ``abs(t1 - t2)`` over pairs of different steps.

        Near -1: the affinity falls with the gap, as the paper observes. NaN with fewer than three steps.
        """
        from scipy.stats import spearmanr

        if len(self.steps) < 3:
            return float("nan")
        correlation: Any = spearmanr(*self._pairs(self.steps.astype(np.float64)))
        return float(correlation.statistic)

    def _pairs(self, place: FloatArray) -> tuple[FloatArray, FloatArray]:
        first, second = np.triu_indices(len(self.steps), 1)
        both = (self.values + self.values.T) / 2
        return np.abs(place[first] - place[second]), both[first, second]

    def save(self, path: str | Path) -> None:
        """Write to one safetensors file.

        Raises:
            StoreError: when the file cannot be written.
        """
        facts = {"n_steps": self.n_steps, "kind": self.kind, "facts": self.facts}
        arrays = {"steps": torch.tensor(self.steps), "values": torch.tensor(self.values)}
        atomic_write(path, pack(_KIND, facts, arrays))

    @staticmethod
    def load(path: str | Path) -> StepAffinity:
        """The inverse of :meth:`save`.

        Raises:
            StoreError: when the file cannot be read, is damaged or is something else.
        """
        facts, arrays = read_sealed(_KIND, path)
        with reading(path, "a step affinity"):
            steps, values = (arrays[name].numpy() for name in ("steps", "values"))
            return StepAffinity(steps, values, check_steps(facts["n_steps"]), text(facts["kind"]), dict(facts["facts"]))

    def plot(self, intervals: Intervals | None = None, ax: Axes | None = None) -> Axes:
        """Heat map over all steps: blue helps, red harms; boxes are the intervals.

        Raises:
            MissingDependencyError: without matplotlib.
        """
        plt = require("matplotlib.pyplot", extra="plot", purpose="StepAffinity.plot()")
        axes: Axes = plt.subplots(figsize=(5.8, 5), layout="constrained")[1] if ax is None else ax
        limit = 1.0 if self.kind == "cosine" else float(np.abs(self.values).max()) or 1.0
        image = axes.imshow(self.full(), cmap="RdBu", vmin=-limit, vmax=limit, origin="lower")
        for first, last in intervals.spans if intervals is not None else ():
            low, size = first - 0.5, last - first + 1
            axes.add_patch(plt.Rectangle((low, low), size, size, fill=False, edgecolor="black", linewidth=1))
        axes.set(xlabel="source: time step", ylabel="target: time step", title="affinity of time steps")
        title = "cosine of gradients" if self.kind == "cosine" else "share of the loss saved by one step"
        axes.figure.colorbar(image, ax=axes, label=title)
        return axes


@keywords_into(probe=ProbeSettings, context=Context)
@known_arguments
def step_affinity(
    model: nn.Module,
    images: Tensor,
    schedule: NoiseSchedule,
    probe: ProbeSettings = USUAL_PROBE,
    context: Context = DEFAULT_CONTEXT,
    *,
    sketch: int | None = 4096,
) -> StepAffinity:
    """Cosines of the gradients of time steps, at the present parameters.

    All steps see the same images with the same noise: what differs between two steps is the step, not the draw. The
    price is that steps share the error of the draw, which makes neighbours look more alike the fewer examples there
    are; take more examples where absolute numbers matter. The model is in evaluation mode; its parameters, their
    ``.grad``, its modes and the random numbers are left as they were.

    Args:
        model: called as ``model(x_t, t, *condition)``; give it the moving average of the weights or the raw ones.
        images: (n, C, H, W), scaled as in training.
        schedule: noise schedule.
        probe: which steps, images and parameters.
        context: seed, which draws images, noise and sketch, and progress, told of the stage "affinity"; nothing else
            of it is used.
        sketch: length of the sketches of the gradients, see :class:`CountSketch`: cosines c err by a standard
            deviation of (1 - c^2) / sqrt(sketch), at most 0.016 for 4096. None keeps all gradients: exact, with
            memory for (steps, parameters) numbers. No sketch is made when it would be as long as the gradient.

    Returns:
        The affinity. Its `facts` have ``sketch_error``, the largest standard deviation from the sketch.

    Raises:
        ModelError: for a gradient that is zero or not finite, or a loss that depends on no parameter.
        SettingError: for an argument that is out of range.

    Cost:
        steps x examples forward and backward passes. A sketch takes one addition a parameter and step.

    Source:
        Go et al., "Addressing Negative Transfer in Diffusion Models", arXiv 2306.00354, task affinity scores: mean
        over checkpoints (see :func:`average`) of the cosine of gradients. The authors keep all gradients of all steps;
        sketch, stride and common noise are ours.

    Example:
        >>> class Denoiser(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.scale = nn.Parameter(torch.tensor([0.1, 0.2]))
        ...
        ...     def forward(self, x, t):
        ...         return self.scale[0] * x + self.scale[1] * t[:, None, None, None] / 100
        >>> images = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
        >>> found = step_affinity(Denoiser(), images, NoiseSchedule.linear(100))
        >>> found.steps.tolist(), found.values.shape
        ([0, 25, 50, 75, 99], (5, 5))
    """
    probed, seed = probed_steps(schedule.n_steps, probe.steps, probe.stride), context.seed
    sketch = None if sketch is None else whole_number(sketch, "sketch", low=1, high=LONGEST)
    rows: list[Tensor] = []
    with probing(model, images, schedule, probe, seed) as found:
        size, used = sum(found.sizes.values()), len(found.images)
        shrink = None if sketch is None or sketch >= size else CountSketch(found.sizes, sketch, seed)
        for step in probed.tolist():
            gradient = found.gradient(step)
            flat = torch.cat([g.flatten() for g in gradient.values()]) if shrink is None else shrink(gradient)
            rows.append(check_gradient(flat, step).cpu())
            context.progress("affinity", len(rows), len(probed))
    facts = {
        "examples": used,
        "seed": seed,
        "parameters": size,
        "prediction": schedule.prediction,
        "sketch": None if shrink is None else shrink.size,
        "sketch_error": 0.0 if shrink is None else shrink.size**-0.5,
    }
    return StepAffinity(probed, _cosines(rows), schedule.n_steps, "cosine", facts)


def check_steps(n_steps: Any) -> int:
    """The number of steps of a stored map.

    Raises:
        TypeError, ValueError: it is no number, or larger than any schedule.
    """
    if whole(n_steps) > _MOST_STEPS:
        raise ValueError(f"more than {_MOST_STEPS:,} time steps")
    return n_steps


def average(affinities: Sequence[StepAffinity]) -> StepAffinity:
    """Mean of affinities of the same steps, such as those of several checkpoints of one training.

    Raises:
        SettingError: when there is none, or they are of other steps or another kind.
    """
    if not affinities:
        raise SettingError("Parameter `affinities` is empty. Measure at least one with step_affinity.")
    first = affinities[0]
    for other in affinities[1:]:
        same = np.array_equal(other.steps, first.steps) and other.n_steps == first.n_steps
        if not same or other.kind != first.kind:
            raise SettingError(
                "Parameter `affinities` should be of the same steps and kind. Found "
                f"{len(first.steps)} of {first.n_steps} steps ({first.kind}) and {len(other.steps)} of "
                f"{other.n_steps} steps ({other.kind}). Measure all with the same `steps`."
            )
    facts = {**first.facts, "averaged": len(affinities)}
    return StepAffinity(first.steps, np.mean([a.values for a in affinities], axis=0), first.n_steps, first.kind, facts)


def _cosines(rows: Sequence[Tensor]) -> FloatArray:
    """(m, m) cosines of m vectors, added up in double precision."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, len(rows[0]), _COLUMNS):
        part = torch.stack([row[start : start + _COLUMNS].double() for row in rows])
        gram.addmm_(part, part.T)
    norm = gram.diagonal().sqrt()
    cosine = (gram / norm[:, None] / norm[None, :]).clamp(-1, 1)
    return ((cosine + cosine.T) / 2).numpy()
