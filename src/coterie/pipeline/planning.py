"""What a run would do, and what it would take, before it is begun."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from coterie._progress import Progress, silent
from coterie.affinity import Estimator, GradTAE, get_estimator
from coterie.affinity.grad_tae import LONG_FORKS
from coterie.affinity.surrogates.budget import MOST_BASES
from coterie.affinity.surrogates.fused import Fused
from coterie.balancing import Balancing, as_balancing
from coterie.errors import SettingError
from coterie.features import plan_features
from coterie.pipeline.candidates import group_counts, has_overlapping
from coterie.pipeline.check import as_workload, check_settings
from coterie.training import Job, UnitCost, fit, is_stackable, measure_cost
from coterie.workload import Structure, Workload, find_structure, validate
from coterie.workload.checks import whole_number

#: steps of the short training that is timed
_TIMED_STEPS = 20
#: forward-mode passes move more memory for a FLOP than training does
_ITEM = 4
NOTE = "Trainings are counted to the last epoch of the recipe; early stopping usually ends them sooner."


@dataclass(frozen=True)
class _Numbers:
    """What the rows of a plan are made from."""

    epochs: float
    rows: int
    validation: int
    parameters: int
    run: float
    seconds_per_flop: float
    unit: UnitCost


def plan(
    workload: Workload | str,
    *,
    method: str | Estimator = "fused",
    groups: int | None = None,
    budget: int | None = None,
    seeds: int = 5,
    compare_runs: int | None = None,
    balancing: Balancing | str | None = None,
    memory: int = 2**30,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Say which backend runs where and why, and the memory, time and disk that a run takes at most.

    Trainings are counted to the last epoch of the recipe; early stopping usually ends them sooner. Seconds come from a
    few timed steps on this machine.

    Returns:
        ``{"rows": [{"stage", "what", "why", "memory_bytes", "flops", "seconds", "disk_bytes"}], "notes": [...]}``.

    Raises:
        ResourceError: when the features cannot fit the memory.
    """
    (progress or silent)("plan", 0, 1)
    estimator = get_estimator(method, **options)
    balancing = as_balancing(balancing)
    workload = as_workload(workload)
    check_settings(workload, groups, budget, seeds, 0, memory)
    check_runs(workload, groups, budget, seeds, compare_runs)
    validate(workload)
    base, runs, spend = _parts(estimator)
    structure = find_structure(workload, workload.build_model(0).to(workload.labels.device))
    numbers = _measure(workload)
    stackable, why = is_stackable(workload)
    backend = "population training" if stackable else "one model after the other"
    models = sum(group_counts(workload.n_tasks, groups, budget))
    if budget is not None and has_overlapping(workload.n_tasks, groups, budget):
        models += budget
    most = min(seeds * (1 + workload.n_tasks + models), compare_runs or sys.maxsize)
    state = _ITEM * numbers.parameters
    rows = _estimate_rows(base, workload, structure, numbers, backend, why, memory)
    if spend is not None:
        rows = [_within(rows, spend, numbers, why)]
    if runs:
        rows.append(
            _row("real trainings of subsets", f"{runs} ordinary trainings", backend, min(memory, 6 * state * runs),
                 runs * numbers.run, numbers, 8 * runs * workload.n_tasks)
        )  # fmt: skip
    more = min(seeds * (1 + models), most) * _extra(workload, balancing, numbers)
    rows.append(
        _row("comparison", f"{most} real trainings", _with_balancing(f"{backend}: {why}", balancing),
             min(memory, 6 * state * most), most * numbers.run + more, numbers, min(2**30, most * state))
    )  # fmt: skip
    linear = sum(head.linear for head in structure.heads)
    heads = f"trunk: {len(structure.trunk)} parameter tensors; heads: {linear} linear of {workload.n_tasks}"
    (progress or silent)("plan", 1, 1)
    return {"rows": rows, "notes": [NOTE, heads]}


def check_runs(workload: Workload, groups: int | None, budget: int | None, seeds: int, runs: int | None) -> None:
    """Refuse a budget of the comparison that is too small, before anything was estimated.

    Raises:
        SettingError: with the smallest useful budget.
    """
    if runs is None:
        return
    whole_number(runs, "compare_runs", low=1)
    counts, simple = group_counts(workload.n_tasks, groups, budget), 1 + workload.n_tasks
    least = min(2, seeds) * (simple + max(counts, default=0)) + (sum(counts) if len(counts) > 1 else 0)
    if runs < least:
        raise SettingError(
            f"Parameter `compare_runs` should be at least {least} for groupings into {counts} groups: each of them "
            f"trained once, and a final with {min(2, seeds)} seeds beside all-in-one and single-task models, which "
            f"take {simple} a seed. Found {runs}. Allow more runs, or name one number of groups with `groups`."
        )


def _parts(estimator: Estimator) -> tuple[GradTAE, int, float | None]:
    """The base models of a method, how many subsets it really trains, and its budget in trainings if it has one.

    Raises:
        SettingError: a method of another kind.
    """
    base: Any = getattr(estimator, "base", estimator)
    if not isinstance(base, GradTAE):
        raise SettingError(
            f"Parameter `method`: no plan can be made for {estimator.name!r}, only for methods that are built on base "
            "models. Use 'fused', 'secants', 'task-vectors' or 'grad-tag'."
        )
    if not isinstance(estimator, Fused):
        return base, 0, None
    if estimator.bases is None and estimator.runs is None:
        return replace(base, bases=MOST_BASES), 0, estimator.trainings
    return replace(base, bases=estimator.bases or base.bases), estimator.runs or 0, None


def _extra(workload: Workload, balancing: Balancing | None, numbers: _Numbers) -> float:
    """FLOPs that balancing adds to a training of all tasks; single-task models have nothing to balance."""
    if balancing is None:
        return 0.0
    more = numbers.unit.step(balancing.passes(workload.n_tasks)) - numbers.unit.step()
    return numbers.epochs * numbers.rows * more


def _with_balancing(why: str, balancing: Balancing | None) -> str:
    if balancing is None:
        return why
    return f"{why}; balancing: {balancing}" + ("" if balancing.stackable else ", which trains groups one by one")


def _within(rows: list[dict[str, Any]], trainings: float, numbers: _Numbers, why: str) -> dict[str, Any]:
    """One row for an estimate that spends a budget."""
    memory, disk = max(row["memory_bytes"] for row in rows), sum(row["disk_bytes"] for row in rows)
    what = f"base models and real runs for at most {trainings:g} ordinary trainings"
    return _row("estimate within its budget", what, why, memory, trainings * numbers.run, numbers, disk)


def _estimate_rows(
    estimator: GradTAE,
    workload: Workload,
    structure: Structure,
    numbers: _Numbers,
    backend: str,
    why: str,
    memory: int,
) -> list[dict[str, Any]]:
    """Base models, short trainings and features."""
    state, bases, n = _ITEM * numbers.parameters, estimator.bases, workload.n_tasks
    found = [
        _row("base models", f"{bases + 1} trainings on all tasks", why, 6 * state * (bases + 1),
             (bases + 1) * numbers.run, numbers, (bases + 1) * state)
    ]  # fmt: skip
    if estimator.directions in ("secants", "task-vectors"):
        forks = bases * n
        found.append(
            _row("task vectors", f"{forks} short trainings", backend, 20 * state * n,
                 forks * estimator.fork * numbers.run, numbers, forks * state)
        )  # fmt: skip
    if estimator.ridge == "matched" and estimator.share > 0:
        found.append(
            _row("choice of the ridge", f"{LONG_FORKS} longer trainings", backend, 6 * state * LONG_FORKS,
                 LONG_FORKS * 3 * estimator.fork * numbers.run, numbers, LONG_FORKS * state)
        )  # fmt: skip
    rows = numbers.rows + numbers.validation
    if estimator.directions == "secants":
        size = _ITEM * int(workload.observed.sum()) * n
        found.append(
            _row("secant features", f"forward passes, d = {n}", "margins at the ends of the short trainings",
                 2 * size, bases * rows * (1 + n) * numbers.unit.forward, numbers, 2 * bases * size)
        )  # fmt: skip
        return found
    count = estimator.count if estimator.directions == "random" else n
    features = plan_features(workload, structure, count, memory)
    unit = numbers.unit
    passes = bases * rows * (unit.forward + count * (unit.jvp - unit.forward))
    found.append(
        _row("gradient features", f"{features.mode} mode, d = {count}", features.reason,
             features.bytes + features.feature_bytes, passes, numbers, 2 * bases * features.feature_bytes)
    )  # fmt: skip
    return found


def _measure(workload: Workload) -> _Numbers:
    unit = measure_cost(workload)
    rows = len(workload.split.train)
    everything = tuple(range(workload.n_tasks))
    steps = -(-rows // workload.recipe.batch_size)
    checks = steps / (workload.recipe.check_every or steps)  # an epoch
    start = time.perf_counter()
    job = Job(subset=everything, seed=0, max_steps=_TIMED_STEPS, early_stopping=False)
    fit(workload, [job])
    seconds = time.perf_counter() - start
    flops = _TIMED_STEPS * workload.recipe.batch_size * unit.training
    return _Numbers(
        epochs=workload.recipe.epochs,
        rows=rows,
        validation=len(workload.split.validation),
        parameters=sum(p.numel() for p in workload.build_model(0).parameters()),
        run=workload.recipe.epochs * (rows * unit.training + checks * len(workload.split.validation) * unit.forward),
        seconds_per_flop=seconds / max(flops, 1.0),
        unit=unit,
    )


def _row(
    stage: str, what: str, why: str, memory: float, flops: float, numbers: _Numbers, disk: float
) -> dict[str, Any]:
    return {
        "stage": stage,
        "what": what,
        "why": why,
        "memory_bytes": int(memory),
        "flops": float(flops),
        "seconds": float(flops * numbers.seconds_per_flop),
        "disk_bytes": int(disk),
    }
