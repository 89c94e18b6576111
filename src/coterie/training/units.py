"""Lists of trainings as units of a store; with an executor, those that are missing are trained all at once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from coterie._context import Context, keywords_into
from coterie._process_lock import process_lock
from coterie._units import Payload, look
from coterie.training.fit import cut, fit
from coterie.training.job import Fit, Job
from coterie.training.shares import Shares, train_there
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
