"""Label injection: does a single-task model learn better when it is told the label of another task?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._check import choice, whole_number
from coterie._context import DEFAULT_CONTEXT, Context
from coterie._surface import known_arguments
from coterie.affinity.costs import Prepared, prepare, training_flops
from coterie.affinity.estimator import Estimate, Estimator
from coterie.affinity.scores.single_tasks import as_estimate, floating_inputs
from coterie.errors import SettingError
from coterie.training.job import Job, derive, pack_fits, unpack_fits
from coterie.training.units import FitUnit, fit_units
from coterie.workload import Workload
from coterie.workload.lazy.inputs import in_memory
from coterie.workload.workload import Batch

STAGE = "label injection"
PURPOSE = "Label injection"
CONTROLS = ("target", "pair")
#: trainings of one unit of work: enough to train together, few enough to lose little when a run is killed
BLOCK = 64
#: where the labels stand among the inputs of the derived workload
_LABELS = "injected labels"
_INPUTS = "inputs"


class Injected(nn.Module):
    """A user's model with labels added to its inputs: x + A(labels), A a trained linear map that starts at 0.

    Which labels are taken is a buffer, `choose`, so that models with different labels are members of one population.

    Args:
        workload: calls the model.
        inner: the model.
        columns: number of label columns on offer.
        width: label columns taken at most.
    """

    choose: Tensor

    def __init__(self, workload: Workload, inner: nn.Module, columns: int, width: int) -> None:
        super().__init__()
        self.inner = inner
        self._workload = [workload]
        shapes = {name: value.shape[1:] for name, value in floating_inputs(workload, PURPOSE).items()}
        self._names = list(shapes)
        self.maps = nn.ParameterList(torch.zeros(width, *shape) for shape in shapes.values())
        self.register_buffer("choose", torch.zeros(columns, width))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Raw outputs (rows, sum of widths)."""
        given: Batch = {name: value for name, value in batch.items() if name != _LABELS}
        chosen = batch[_LABELS] @ self.choose
        for name, weights in zip(self._names, self.maps, strict=True):
            key = name or _INPUTS
            given[key] = given[key] + torch.tensordot(chosen.to(weights.dtype), weights, 1).to(given[key].dtype)
        return self._workload[0].outputs(self.inner, given if "" not in self._names else given[_INPUTS])


def label_codes(workload: Workload) -> list[Tensor]:
    """For each task the (rows, w) numbers that stand for its label: one indicator a class, else the label itself.

    Centred and scaled on the training part; 0, the mean, where the label is missing.
    """
    train = torch.zeros(len(workload.labels), dtype=torch.bool, device=workload.labels.device)
    train[workload.split.train] = True
    codes: list[Tensor] = []
    for index, task in enumerate(workload.tasks):
        seen, label = workload.observed[:, index], workload.targets[:, index].double()
        several = task.loss.per_class
        raw = (label[:, None] == torch.arange(task.width, device=label.device)).double() if several else label[:, None]
        known = raw[seen & train]
        mean, scale = (known.mean(0), known.std(0, unbiased=False)) if len(known) else (raw.new_zeros(()),) * 2
        codes.append(torch.where(seen[:, None], (raw - mean) / torch.where(scale > 0, scale, 1.0), 0.0).float())
    return codes


def shuffled(codes: Tensor, seen: Tensor, seed: int) -> Tensor:
    """The rows with a label exchanged at random: the same numbers in the same rows, without information."""
    rows = torch.nonzero(seen).flatten()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows))).to(rows.device)
    result = codes.clone()
    result[rows] = codes[rows[order]]
    return result


@dataclass(frozen=True, eq=False)
class Injection:
    """A workload whose models receive labels, and the jobs that differ in which.

    Attributes:
        workload: the derived workload.
        widths: label columns of each task; its true labels come first, those of all tasks, then the shuffled ones.
        seed: of all trainings: models of a target start alike and see the same batches.
    """

    workload: Workload
    widths: tuple[int, ...]
    seed: int

    @staticmethod
    def of(workload: Workload, seed: int, epochs: float) -> Injection:
        """Derive the workload; `epochs` is a share of the recipe's epochs."""
        codes = label_codes(workload)
        noise = [shuffled(c, workload.observed[:, t], derive(seed, 63, t)) for t, c in enumerate(codes)]
        columns, width = 2 * sum(c.shape[1] for c in codes), max(c.shape[1] for c in codes)
        inputs = in_memory(workload.inputs, "Label injection")
        inputs = inputs if isinstance(inputs, dict) else {_INPUTS: inputs}
        derived = replace(
            workload,
            tasks=tuple(replace(task, head=()) for task in workload.tasks),
            inputs={**inputs, _LABELS: torch.cat([*codes, *noise], 1)},
            build_model=lambda seed: Injected(workload, workload.build_model(seed), columns, width),
            forward=_call,
            recipe=replace(workload.recipe, epochs=max(1, round(epochs * workload.recipe.epochs))),
            model_spec=None,
            input_center=None,
            input_scale=None,
            input_names=None,
            reference=None,
        )
        return Injection(derived, tuple(c.shape[1] for c in codes), seed)

    def jobs(self, wanted: Sequence[tuple[int, int, bool]]) -> list[Job]:
        """One job for each (target, source, whether the source's label is shuffled)."""
        base = {name: value.detach() for name, value in self.workload.build_model(self.seed).state_dict().items()}
        starts = np.cumsum([0, *self.widths])
        jobs: list[Job] = []
        for target, source, noise in wanted:
            choose = torch.zeros_like(base["choose"])
            first, width = int(starts[source] + noise * starts[-1]), self.widths[source]
            choose[first : first + width, :width] = torch.eye(width, dtype=choose.dtype, device=choose.device)
            jobs.append(Job((target,), self.seed, start={**base, "choose": choose}))
        return jobs


def _call(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch)


@known_arguments
@dataclass(frozen=True)
class LabelInjection(Estimator):
    """Relative drop of a task's loss when its single-task model is told another task's label; directed.

    ``A[a, b] = (L_a(control) - L_a(with the label of b)) / L_a(control)``: positive when the label of b helps to
    predict a. The label is added to the inputs through a linear map that is trained with the model and starts at 0, so
    that any model with floating-point inputs will do (published: one more channel). The control is told noise in the
    same way: shuffled labels. Missing labels are told as 0, their mean. Pairs without common training rows are not
    trained: nothing would be told, so they have 0. The diagonal of the affinity is 0.

    Args:
        epochs: length of the trainings, as a share of the recipe's epochs.
        control: ``"target"``: one control a target, told the target's own labels, shuffled. ``"pair"``: one control a
            pair, told the source's labels, shuffled where they are known; twice the trainings, but also fair when
            labels of a source are few or have several classes.
        pairs: ordered pairs that are trained, drawn at random, the same number for each target up to one; the others
            have the mean of their target's. None trains all.

    Raises:
        SettingError: when a value is unknown or out of range.

    Cost: n (n - 1) + n trainings for n tasks with control="target", 2 n (n - 1) with "pair". For more than about 15
        tasks that is more than training every pair for real: give `pairs` or a smaller `epochs`, or choose another
        score.

    Limits: the label of b is the upper bound of what a model can know about b; a task may gain from another one's
    features without its labels. Early stopping is by validation loss, as everywhere.

    Source: "It's a MATCH!", arXiv 2301.02873 (label injection; the definition is a reconstruction, the linear map and
    the shuffled control are ours).

    Example:
        >>> LabelInjection(epochs=0.5, pairs=40).name
        'label-injection'
    """

    epochs: float = 1.0
    control: str = "target"
    pairs: int | None = None

    def __post_init__(self) -> None:
        choice(self.control, "control", CONTROLS)
        if not 0 < self.epochs <= 1:
            raise SettingError(f"Parameter `epochs` should be a share: 0 < epochs <= 1. Found {self.epochs!r}.")
        if self.pairs is not None:
            whole_number(self.pairs, "pairs", low=1)

    @property
    def name(self) -> str:
        """Name of the method."""
        return "label-injection"

    def estimate(self, workload: Workload, context: Context = DEFAULT_CONTEXT, subset_size: int = 2) -> Estimate:
        """Train with labels and with noise.

        Raises:
            WorkloadError: when no input is a floating-point number.
        """
        del subset_size
        prepared = prepare(workload, context)
        told = common_pairs(workload)
        chosen = choose_pairs(told, self.pairs, context.seed)
        noise = [(a, a) for a in sorted({a for a, _ in chosen})] if self.control == "target" else chosen
        wanted = sorted([(a, b, False) for a, b in chosen] + [(a, b, True) for a, b in noise])
        losses = _losses(prepared, Injection.of(workload, context.seed, self.epochs), wanted, self.epochs)
        values = np.zeros((workload.n_tasks, workload.n_tasks))
        for a, b in chosen:
            control = losses[a, a if self.control == "target" else b, True]
            values[a, b] = (control - losses[a, b, False]) / control if control > 0 else 0.0
        notes = [f"{len(wanted)} trainings: {len(chosen)} with labels, {len(noise)} with noise"]
        silent_pairs = workload.n_tasks * (workload.n_tasks - 1) - len(told)
        if silent_pairs:
            notes.append(f"{silent_pairs} ordered pairs have no common training rows and 0")
        if len(chosen) < len(told):
            _fill(values, set(told), set(chosen))
            notes.append(f"{len(told) - len(chosen)} pairs that were not trained have the mean of their target")
        return as_estimate(workload, prepared.costs, values, self.name, notes)


def common_pairs(workload: Workload) -> list[tuple[int, int]]:
    """Ordered pairs (target, source) with training rows in common."""
    seen = workload.observed[workload.split.train].double()
    common = (seen.T @ seen).cpu().numpy() > 0
    return [(int(a), int(b)) for a, b in np.argwhere(common & ~np.eye(len(common), dtype=bool))]


def choose_pairs(pairs: Sequence[tuple[int, int]], count: int | None, seed: int) -> list[tuple[int, int]]:
    """At most `count` of the pairs, in ascending order; each target has the same number of them up to one.

    Example:
        >>> [a for a, _ in choose_pairs([(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)], 3, seed=0)]
        [0, 1, 2]
    """
    if count is None or count >= len(pairs):
        return list(pairs)
    rng = np.random.default_rng(derive(seed, 62))
    turns: list[tuple[int, float, tuple[int, int]]] = []
    taken: dict[int, int] = {}
    for index in rng.permutation(len(pairs)):
        target = pairs[index][0]
        taken[target] = taken.get(target, 0) + 1
        turns.append((taken[target], float(rng.random()), pairs[index]))
    return sorted(pair for _, _, pair in sorted(turns)[:count])


def _fill(values: NDArray[np.float64], told: set[tuple[int, int]], chosen: set[tuple[int, int]]) -> None:
    everyone = float(np.mean([values[pair] for pair in chosen]))
    own = {a: [values[pair] for pair in chosen if pair[0] == a] for a in range(len(values))}
    for a, b in told - chosen:
        values[a, b] = float(np.mean(own[a])) if own[a] else everyone


def _losses(
    prepared: Prepared, injection: Injection, wanted: Sequence[tuple[int, int, bool]], epochs: float
) -> dict[tuple[int, int, bool], float]:
    """Validation loss of the target of every training, block by block."""
    found: dict[tuple[int, int, bool], float] = {}
    blocks = [list(wanted[start : start + BLOCK]) for start in range(0, len(wanted), BLOCK)]
    units = [
        FitUnit(
            {
                "seed": prepared.context.seed,
                "epochs": epochs,
                "trainings": [[a, b, int(noise)] for a, b, noise in block],
            },
            injection.jobs(block),
        )
        for block in blocks
    ]
    payloads = fit_units(
        injection.workload, "label-injection", units, partial(pack_fits, states=False), prepared.context,
        stage=STAGE, keep_states=False,
    )  # fmt: skip
    for block, unit, payload in zip(blocks, units, payloads, strict=True):
        fits = unpack_fits(unit.jobs, payload)
        flops = sum(training_flops(injection.workload, done, prepared.costs.unit) for done in fits)
        prepared.costs.add(STAGE, flops, float(payload.meta["seconds"]))
        found.update({one: float(done.validation[one[0]]) for one, done in zip(block, fits, strict=True)})
    return found
