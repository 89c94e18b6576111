"""A plain training loop for denoisers: vanilla, with intervals as tasks, or an expert of some time steps."""

from __future__ import annotations

import copy
import operator
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._check import positive, whole_number
from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._random import random_numbers
from coterie._show import short_repr
from coterie._surface import known_arguments, warn
from coterie._units import NoStore, Payload
from coterie.affinity.costs import digest
from coterie.balancing import Weighting
from coterie.diffusion.checks import check_denoiser, check_images
from coterie.diffusion.denoising import denoising_losses
from coterie.diffusion.ema import moving_average
from coterie.diffusion.schedule import NoiseSchedule
from coterie.diffusion.tasks import IntervalTasks
from coterie.errors import NumericsWarning, SettingError

State = dict[str, Tensor]


@short_repr
@dataclass(frozen=True, eq=False)
class Trained:
    """A trained denoiser.

    Attributes:
        state: averaged weights, for ``model.load_state_dict``; on the CPU, as the others are.
        raw: weights after the last step, not averaged.
        checkpoints: weights, not averaged, after the steps that were asked for.
        losses: (steps, k) training losses of the intervals, NaN where a batch had none; (steps, 1) without intervals.
        seconds: of the training loop alone.
        steps: of the optimiser.
        seed: of batches, noise and time steps.
        balancing: the method, or None without intervals.
    """

    state: State
    raw: State
    checkpoints: dict[int, State]
    losses: NDArray[np.float64]
    seconds: float
    steps: int
    seed: int
    balancing: str | None


@known_arguments
@dataclass(frozen=True)
class DenoiserRecipe:
    """How a denoiser is trained: what determines it besides model, images, schedule, tasks and seed.

    Args:
        steps: of the optimiser.
        batch: images of a step. Every image is seen once before the next round begins.
        learning_rate: of AdamW.
        max_norm: the norm of the gradient is clipped to this; None does not clip.
        ema: decay of the averaged weights, see :func:`coterie.diffusion.moving_average`.
        span: first and last time step, both included, that an expert is trained on; only without tasks.
        checkpoints: steps after which the weights are kept.

    Raises:
        SettingError: a value out of range or of another type. Span and decay are checked when training begins.
    """

    steps: int
    batch: int = 40
    learning_rate: float = 1e-3
    max_norm: float | None = 1.0
    ema: float = 0.995
    span: tuple[int, int] | None = None
    checkpoints: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, low=1))
        kept = tuple(whole_number(step, "checkpoints", low=1, high=self.steps) for step in self.checkpoints)
        object.__setattr__(self, "checkpoints", kept)
        for name in ("learning_rate", "max_norm"):
            value = getattr(self, name)
            if value is not None or name == "learning_rate":
                object.__setattr__(self, name, positive(value, name))


@keywords_into(recipe=DenoiserRecipe, context=Context)
@known_arguments
def train_denoiser(
    model: nn.Module,
    images: Tensor,
    schedule: NoiseSchedule,
    recipe: DenoiserRecipe,
    context: Context = DEFAULT_CONTEXT,
    *,
    tasks: IntervalTasks | None = None,
) -> Trained:
    """Train a copy of a denoiser on images; the model that is given is left as it is.

    AdamW with a constant learning rate and no decay, in float32. The same seed gives the same batches of images and the
    same noise whatever the tasks are, so that two methods can be compared pair by pair; time steps come from a random
    stream of their own.

    Args:
        model: any denoiser that is a module, see :func:`coterie.diffusion.denoising_losses`; on the device where it
            should be trained.
        images: (N, C, H, W) in [-1, 1], on any device.
        schedule: noise schedule.
        recipe: steps, batches, optimiser, average and checkpoints.
        context: seed of batches, noise, time steps and PyTorch's own random numbers while training lasts; store, from
            which a finished training is read; progress, told of the stage "train" now and then. Nothing else of it is
            used.
        tasks: intervals as tasks, which start anew; None draws all time steps with the same chance (vanilla).

    Returns:
        The weights, and losses of each step. A loss that is not finite at the end is warned of.

    Raises:
        SettingError: a value out of range or of another type, tasks together with a span, or tasks for another number
            of time steps.

    Cost: steps times the passes of the balancer; memory for three copies of the weights and one a checkpoint.

    Source: Go et al., NeurIPS 2023, and their code, for optimiser and stratified batches.
    """
    check_denoiser(model)
    check_images(images, ndim=4)
    draw = _steps_of(schedule, tasks, recipe)
    name = None if tasks is None else tasks.name

    def compute() -> Payload:
        return _train(copy.deepcopy(model), images, schedule, draw, tasks, recipe, context)

    if isinstance(context.store, NoStore):  # which needs no key
        return _trained(compute(), recipe, context.seed, name)
    key = {**_key(model, images, schedule, tasks, recipe), "seed": context.seed}
    return _trained(context.store.unit("denoiser", key, compute), recipe, context.seed, name)


def batches(count: int, size: int, generator: torch.Generator) -> Generator[Tensor]:
    """Endless batches of row numbers: every row once in random order, then all again in another order.

    Example:
        >>> stream = batches(3, 2, torch.Generator().manual_seed(0))
        >>> sorted(torch.cat([next(stream) for _ in range(3)]).tolist())
        [0, 0, 1, 1, 2, 2]
    """
    rows = torch.empty(0, dtype=torch.long)
    while True:
        while len(rows) < size:
            rows = torch.cat([rows, torch.randperm(count, generator=generator)])
        yield rows[:size]
        rows = rows[size:]


def _steps_of(
    schedule: NoiseSchedule, tasks: IntervalTasks | None, recipe: DenoiserRecipe
) -> Callable[[torch.Generator], Tensor]:
    """How the time steps of a batch are drawn."""
    if tasks is not None:
        if recipe.span is not None:
            raise SettingError("Parameters `tasks` and `span` exclude each other: an expert has one task. Give one.")
        if tasks.intervals.n != schedule.n_steps:
            raise SettingError(
                f"Parameter `tasks` should have intervals of the schedule's {schedule.n_steps} time steps. Found "
                f"{tasks.intervals.n}. Make the intervals from this schedule."
            )
        return lambda generator: tasks.sample(recipe.batch, generator)
    first, last = _span_of(recipe.span, schedule.n_steps)
    return lambda generator: torch.randint(first, last + 1, (recipe.batch,), generator=generator)


def _span_of(span: Any, n_steps: int) -> tuple[int, int]:
    """First and last time step of a span; all for None."""
    try:
        first, last = (0, n_steps - 1) if span is None else map(operator.index, span)
    except (TypeError, ValueError):  # not two of them, or no whole numbers
        first, last = 1, 0
    if not 0 <= first <= last < n_steps:
        raise SettingError(
            f"Parameter `span` should be the first and the last of some time steps in 0..{n_steps - 1}, whole numbers. "
            f"Found {span!r}."
        )
    return first, last


def _key(
    model: nn.Module, images: Tensor, schedule: NoiseSchedule, tasks: IntervalTasks | None, recipe: DenoiserRecipe
) -> dict[str, Any]:
    """Everything that determines a training."""
    if tasks is not None and tasks.choice is None:
        raise SettingError(
            "With `store`, the tasks' balancing should be a name or a coterie.balancing.Balancing, so that it can be "
            f"written down. Found a {tasks.name} object."
        )
    assert schedule.given is not None  # noqa: S101 - set when it is made
    process = {"signal": schedule.signal, "noise": schedule.noise, "given": schedule.given}
    return {
        "model": digest(model.state_dict()),
        # weights do not tell dropout or activations
        "architecture": f"{type(model).__module__}.{type(model).__qualname__} {model}",
        "images": digest({"images": images}),
        "schedule": [schedule.prediction, digest(process)],
        "starts": None if tasks is None else list(tasks.intervals.starts),
        "balancing": None if tasks is None or tasks.choice is None else tasks.choice.to_dict(),
        **asdict(recipe),
    }


def _train(
    model: nn.Module,
    images: Tensor,
    schedule: NoiseSchedule,
    draw: Callable[[torch.Generator], Tensor],
    tasks: IntervalTasks | None,
    recipe: DenoiserRecipe,
    context: Context,
) -> Payload:
    device = next(model.parameters()).device
    seeds = np.random.SeedSequence(context.seed).generate_state(4)
    rows_rng, noise_rng, t_rng = (torch.Generator().manual_seed(int(seed)) for seed in seeds[:3])
    stream = batches(len(images), recipe.batch, rows_rng)
    if tasks is not None:
        tasks = tasks.renewed(seed=context.seed, window=max(1, len(images) // recipe.batch))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    average = moving_average(model, recipe.ema)
    losses: list[Tensor] = []
    kept: dict[str, Tensor] = {}
    model.train()
    with random_numbers(device, int(seeds[3])):
        start = _now(device)
        for step in range(1, recipe.steps + 1):
            rows = next(stream)
            clean = images[rows.to(images.device)].to(device)
            noise = torch.randn(clean.shape, generator=noise_rng).to(clean)
            t = draw(t_rng).to(device)
            batch = clean, noise, t
            losses.append(training_step(model, optimizer, schedule, batch, tasks=tasks, max_norm=recipe.max_norm))
            # whatever the method: weights that are not averaged would be compared with averaged ones
            average.update_parameters(model)
            if step in recipe.checkpoints:
                kept |= _named(f"step-{step}", model)
            if step % 50 == 0 or step == recipe.steps:
                context.progress("train", step, recipe.steps)
        seconds = _now(device) - start
    found = torch.stack(losses).double().cpu()
    if bool(found[-1].isinf().any()) or bool(found[-1].isnan().all()):
        warn(
            f"The loss is not finite after {recipe.steps} steps: training diverged. Take a smaller learning rate.",
            NumericsWarning,
        )
    arrays = {**_named("ema", average.module), **_named("raw", model), **kept, "losses": found}
    return Payload(dict(arrays), {"seconds": seconds})


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: NoiseSchedule,
    batch: tuple[Tensor, Tensor, Tensor],
    *,
    tasks: IntervalTasks | None = None,
    max_norm: float | None = None,
) -> Tensor:
    """One step of :func:`train_denoiser`.

    Args:
        model: denoiser.
        optimizer: of its parameters.
        schedule: noise schedule.
        batch: images, noise and time steps.
        tasks: intervals as tasks; None takes the mean of the losses.
        max_norm: the norm of the gradient is clipped to this.

    Returns:
        (k,) losses before the step, detached; (1,) without tasks.
    """
    clean, noise, t = batch
    if tasks is not None and not isinstance(tasks.balancer, Weighting):
        return tasks.step_apart(
            lambda rows: denoising_losses(model, schedule, clean[rows], noise[rows], t[rows]),
            t, optimizer, model=model, max_norm=max_norm,
        )  # fmt: skip
    if tasks is not None:
        return tasks.step(
            lambda: denoising_losses(model, schedule, clean, noise, t), t, optimizer, model=model, max_norm=max_norm
        )
    loss = denoising_losses(model, schedule, clean, noise, t).mean()
    optimizer.zero_grad()
    loss.backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.detach().unsqueeze(0)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _named(kind: str, model: nn.Module) -> State:
    return {f"{kind}/{name}": value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _trained(payload: Payload, recipe: DenoiserRecipe, seed: int, balancing: str | None) -> Trained:
    states: dict[str, State] = {}
    for key, value in payload.arrays.items():
        if key != "losses":
            kind, name = key.split("/", 1)
            states.setdefault(kind, {})[name] = torch.as_tensor(value)
    return Trained(
        state=states["ema"],
        raw=states["raw"],
        checkpoints={step: states[f"step-{step}"] for step in recipe.checkpoints},
        losses=torch.as_tensor(payload.arrays["losses"]).numpy(),
        seconds=float(payload.meta["seconds"]),
        steps=recipe.steps,
        seed=seed,
        balancing=balancing,
    )
