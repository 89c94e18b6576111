"""Lists of trainings as units of a store; with an executor, those that are missing are trained all at once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.utils.flop_counter import FlopCounterMode

from coterie._context import Context, keywords_into
from coterie._process_lock import process_lock
from coterie._random import random_numbers
from coterie._units import Payload, look
from coterie.training.evaluate import row_losses
from coterie.training.fit import Shares, cut, fit, train_there
from coterie.training.job import Fit, Job, derive
from coterie.training.stack import Outputs, open_kernels
from coterie.workload.graph import whole_pass
from coterie.workload.workload import Workload


@dataclass(frozen=True, eq=False)
class FitUnit:
    """Trainings that are kept together.

    Attributes:
        key: of the unit in the store.
        jobs: what to train.
    """

    key: Mapping[str, Any]
    jobs: Sequence[Job]


@keywords_into(context=Context)
def fit_units(
    workload: Workload,
    name: str,
    units: Sequence[FitUnit],
    pack: Callable[[list[Fit]], Payload],
    context: Context,
    *,
    stage: str,
    keep_states: bool = True,
) -> list[Payload]:
    """Train what is not in the store yet, each unit as :func:`coterie.training.fit` would.

    Args:
        workload: tasks, data, model and recipe.
        name: of the units in the store.
        units: lists of trainings; a kill loses those that are not finished.
        pack: what is kept of the trainings of a unit.
        context: memory, store, progress and executor; progress is told in jobs.
        stage: for the progress.
        keep_states: whether `pack` needs parameters.

    Returns:
        One payload a unit. ``meta["seconds"]`` is how long training and packing took, added up over processes.
    """
    if context.executor is not None:
        return _elsewhere(context.executor, workload, name, units, pack, context, stage, keep_states)
    total = sum(len(unit.jobs) for unit in units)
    found: list[Payload] = []
    before = 0
    for unit in units:

        def compute(unit: FitUnit = unit, before: int = before) -> Payload:
            def step(_: str, done: int, of: int) -> None:
                context.progress(stage, before + len(unit.jobs) * done // max(of, 1), total)

            start = time.perf_counter()
            fits = fit(workload, unit.jobs, context=replace(context, progress=step), keep_states=keep_states)
            return _with_seconds(pack(fits), time.perf_counter() - start)

        found.append(context.store.unit(name, unit.key, compute))
        before += len(unit.jobs)
        context.progress(stage, before, total)
    return found


def _elsewhere(
    executor: Executor,
    workload: Workload,
    name: str,
    units: Sequence[FitUnit],
    pack: Callable[[list[Fit]], Payload],
    context: Context,
    stage: str,
    keep_states: bool,
) -> list[Payload]:
    found = [look(context.store, name, unit.key) for unit in units]
    missing = [number for number, payload in enumerate(found) if payload is None]
    several: list[Shares] = []
    for number in missing:
        with process_lock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            shares = cut(workload, units[number].jobs, backend="auto", memory=context.memory, keep_states=keep_states)
        # said again when the unit is made, so that a store that keeps warnings has them
        shares.warned = tuple((item.category, str(item.message)) for item in caught)
        several.append(shares)
    total = sum(len(unit.jobs) for unit in units)
    before = total - sum(len(shares.jobs) for shares in several)

    def tell(_: str, done: int, of: int) -> None:
        del of
        context.progress(stage, before + done, total)

    def complete(position: int) -> None:
        number, shares = missing[position], several[position]

        def compute() -> Payload:
            start = time.perf_counter()
            payload = pack(shares.result())
            return _with_seconds(payload, shares.seconds + time.perf_counter() - start)

        found[number] = context.store.unit(name, units[number].key, compute)
        shares.fits.clear()  # kept in the store now
        shares.warned = ()

    train_there(executor, workload, several, tell, complete)
    context.progress(stage, total, total)
    return [payload for payload in found if payload is not None]


def _with_seconds(payload: Payload, seconds: float) -> Payload:
    return Payload(payload.arrays, {**payload.meta, "seconds": seconds})


_ROWS = 8


@dataclass(frozen=True)
class UnitCost:
    """FLOPs of one example: multiplications and additions of matrix products and convolutions.

    Attributes:
        forward: a forward pass.
        training: a forward and a backward pass.
        jvp: a forward pass with one forward-mode tangent, the pass without it included; three forward passes where
            every layer is a matrix product of weights and activations, since both have tangents.
    """

    forward: float
    training: float
    jvp: float

    def step(self, passes: tuple[float, float] = (1.0, 1.0)) -> float:
        """One example in a training step of so many forward and backward passes, as balancing may ask for more.

        Example:
            >>> UnitCost(forward=2.0, training=6.0, jvp=4.0).step((2.0, 1.0))
            8.0
        """
        forward, backward = passes
        return self.training + (forward - 1) * self.forward + (backward - 1) * (self.training - self.forward)


def measure_cost(workload: Workload) -> UnitCost:
    """Count the FLOPs of one example with torch's FlopCounterMode, on a few rows of the training part.

    Element-wise work is not counted, as is usual. Where the model has no forward-mode derivative the JVP counts as the
    forward pass and two more, which is what it takes for matrix products.

    Returns:
        The costs of one example.

    Example:
        >>> UnitCost(forward=2.0, training=6.0, jvp=4.0).training
        6.0
    """
    device = workload.labels.device
    train = workload.split.train
    with random_numbers(device):
        model = workload.build_model(0).to(device)
        # rows of a batch share a pass that costs the same for any
        count = min(workload.recipe.batch_size, len(train)) if whole_pass(model) else _ROWS
        rows = train[torch.arange(count, device=train.device) % len(train)]
        model.train()
        training = _count(lambda: row_losses(workload, model, rows)[0].sum().backward())
        model.eval()
        with torch.no_grad():
            forward = _count(lambda: workload.outputs(model, workload.batch(rows)))
        tangent = _tangent_cost(workload, model, rows, forward)
    return UnitCost(forward / count, training / count, tangent / count)


def _tangent_cost(workload: Workload, model: nn.Module, rows: Tensor, forward: float) -> float:
    wrapped = Outputs(workload, model)
    values = {name: value.detach() for name, value in wrapped.named_parameters()}
    generator = torch.Generator().manual_seed(derive(0, 3))
    direction = {name: torch.randn(v.shape, generator=generator).to(v) for name, v in values.items()}
    batch = workload.batch(rows)

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(wrapped, parameters, (batch,))

    try:
        return max(_count(lambda: jvp(outputs, (values,), (direction,))), forward)
    except (RuntimeError, NotImplementedError):
        return 3 * forward


def _count(run: Callable[[], object]) -> float:
    counter = FlopCounterMode(display=False)
    with open_kernels(recurrent=True), counter:
        run()
    return float(counter.get_total_flops())
