"""What balancing is worth on real data: one model of all tasks with each method, against single-task models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._progress import silent
from coterie._units import Payload
from coterie.affinity.costs import training_flops
from coterie.balancing import Balancing
from coterie.balancing.methods import WEIGHTINGS, as_balancing, balancing_key
from coterie.errors import SettingError
from coterie.evaluation.compare import halve_validation
from coterie.evaluation.intervals import t_interval
from coterie.training import measure_cost
from coterie.training.evaluate import load_state
from coterie.training.job import Fit, Job
from coterie.training.units import FitUnit, UnitCost, fit_units
from coterie.workload import Split, Workload

Floats = NDArray[np.float64]
#: the recipe's own loss, pooled over labels
POOLED = "pooled"
#: what every other method is paired with
REFERENCE = "equal"
#: methods that are compared when none are named: all that need losses only
DEFAULT: tuple[str, ...] = (POOLED, *WEIGHTINGS)


def choose_methods(names: Sequence[Balancing | str] | None) -> dict[str, Balancing | None]:
    """Name -> method, the reference first; ``"pooled"`` is the recipe's own loss.

    Raises:
        SettingError: when a name is unknown.

    Example:
        >>> list(choose_methods(["famo", "pooled"]))
        ['equal', 'famo', 'pooled']
    """
    wanted = [None if name == POOLED else as_balancing(name) for name in (REFERENCE, *(names or DEFAULT))]
    return {POOLED if method is None else str(method): method for method in wanted}


@keywords_into(context=Context)
def compare_balancing(
    workload: Workload,
    methods: Sequence[Balancing | str] | None = None,
    context: Context = DEFAULT_CONTEXT,
    *,
    seeds: Sequence[int] = range(5),
) -> dict[str, Any]:
    """Train one model of all tasks with each method and every task alone, all with the same recipe and seeds.

    Training stops on one half of the validation part; losses are those of the other half and the test part together.
    The same seed means the same start and the same order of rows for all methods.

    Args:
        workload: tasks, data, model and recipe.
        methods: names of :data:`coterie.balancing.METHODS`, choices with options, or ``"pooled"``; None for all that
            need losses only. ``"equal"`` is always among them.
        context: memory, store, progress and executor.
        seeds: of the trainings.

    Returns:
        JSON-ready: facts about the workload and a row a method. `delta` is the mean over tasks of the relative change
        of the loss against training alone, `against_equal` its difference to equal weights with the same seeds, both
        with 95 % intervals over seeds; lower is better. `better` is the share of tasks whose mean loss is lower than
        alone. `score` is the mean AUC of binary tasks or the mean R2 of regressions; higher is better. `flops` is the
        mean number of FLOPs of a training, and `steps` that of its steps.

    Raises:
        SettingError: when a method is unknown, or there are fewer than two seeds.

    Cost: (methods + tasks) x (seeds) trainings.
    """
    chosen, seeds = choose_methods(methods), [int(seed) for seed in seeds]
    if len(seeds) < 2:
        raise SettingError(f"Parameter `seeds` should have at least two seeds, for the intervals. Found {seeds}.")
    unit, work, progress = measure_cost(workload), measured(workload), context.progress
    everything = tuple(range(work.n_tasks))
    total = len(chosen) + 1
    progress("balancing: single tasks", 0, total)
    jobs = [Job((task,), seed) for seed in seeds for task in everything]
    single = _train(work, jobs, unit, context, {"seeds": seeds, "alone": True})
    alone = {name: np.nansum(single[name].reshape(len(seeds), work.n_tasks, -1), 1) for name in ("losses", "scores")}
    found: dict[str, dict[str, Floats]] = {}
    for done, (name, method) in enumerate(chosen.items()):
        progress(f"balancing: {name}", done + 1, total)
        jobs = [Job(everything, seed, balancing=method) for seed in seeds]
        found[name] = _train(work, jobs, unit, context, {"seeds": seeds, **balancing_key(method)})
    progress("balancing", total, total)
    return {
        "workload": work.name,
        "tasks": work.n_tasks,
        "rows": {part: len(work.split.part(part)) for part in ("train", "validation", "test")},
        "missing": 1 - int(work.observed.sum()) / work.labels.numel(),
        "recipe": work.recipe.to_dict(),
        "seeds": seeds,
        "score": _score_name(work),
        "alone": {"loss": float(alone["losses"].mean()), "score": float(alone["scores"].mean())},
        "methods": _rows(chosen, found, alone["losses"]),
    }


def measured(workload: Workload) -> Workload:
    """The workload with the rows on which methods are measured as its test part; see :func:`compare_balancing`."""
    halved, other = halve_validation(workload)
    if halved is workload:
        return workload
    test = torch.cat([other, workload.split.test])
    return replace(workload, split=Split(workload.split.train, halved.split.validation, test.sort().values))


def deltas(losses: Floats, alone: Floats) -> Floats:
    """(seeds,) mean over tasks of the change of the loss, relative to the mean loss of the task alone.

    Args:
        losses: (seeds, tasks) of one model of all tasks.
        alone: (seeds, tasks) of single-task models.

    Example:
        >>> deltas(np.array([[1.1, 1.8]]), np.array([[1.0, 2.0]])).round(6)
        array([0.])
    """
    return ((losses - alone) / alone.mean(0)).mean(1)


def _rows(
    chosen: Mapping[str, Balancing | None], found: Mapping[str, Mapping[str, Floats]], alone: Floats
) -> list[dict[str, Any]]:
    reference = deltas(found[REFERENCE]["losses"], alone)
    rows: list[dict[str, Any]] = []
    for name, method in chosen.items():
        own = found[name]
        delta = deltas(own["losses"], alone)
        rows.append(
            {
                "name": name,
                "method": None if method is None else method.to_dict(),
                "delta": t_interval(delta).to_dict(),
                "against_equal": None if name == REFERENCE else t_interval(delta - reference).to_dict(),
                "by_seed": delta.tolist(),
                "by_task": ((own["losses"] - alone) / alone.mean(0)).mean(0).tolist(),
                "better": float((own["losses"].mean(0) < alone.mean(0)).mean()),
                "score": t_interval(own["scores"].mean(1)).to_dict(),
                "flops": float(own["flops"].mean()),
                "steps": float(own["steps"].mean()),
                "seconds": float(own["seconds"]),
            }
        )
    return rows


def _train(
    work: Workload, jobs: Sequence[Job], unit: UnitCost, context: Context, key: Mapping[str, Any]
) -> dict[str, Floats]:
    """Test losses (jobs, tasks), scores alike, FLOPs and steps (jobs,), seconds."""

    def pack(fits: list[Fit]) -> Payload:
        arrays: dict[str, Any] = {
            "losses": np.stack([done.test for done in fits]),
            "scores": _scores(work, fits),
            "flops": np.array([training_flops(work, done, unit) for done in fits]),
            "steps": np.array([float(done.steps) for done in fits]),
        }
        return Payload(arrays, {})

    units = [FitUnit(key, jobs)]
    quiet = replace(context, progress=silent)  # methods are told of, not their trainings
    (payload,) = fit_units(work, "balancing", units, pack, quiet, stage="balancing")
    kept: dict[str, Any] = {"seconds": payload.meta.get("seconds"), **payload.arrays}  # older units have an array
    return {name: np.asarray(array, dtype=float) for name, array in kept.items()}


def _score_name(work: Workload) -> str | None:
    scores = {task.loss.score for task in work.tasks}
    return scores.pop() if len(scores) == 1 else None


def _scores(work: Workload, fits: Sequence[Fit]) -> Floats:
    """(fits, tasks) AUC or R2 on the test part, NaN outside the subset; NaN throughout for other kinds of tasks."""
    rows = work.split.test
    known = work.observed[rows].cpu().numpy()
    labels = work.targets[rows].cpu().double().numpy()
    scores = np.full((len(fits), work.n_tasks), np.nan)
    name = _score_name(work)
    if name == "R2":
        spread = np.array([labels[known[:, task], task].var() for task in range(work.n_tasks)])
        scores[:] = 1 - np.stack([done.test for done in fits]) / spread
    elif name == "AUC":
        model = work.build_model(0).to(work.labels.device).eval()
        for position, done in enumerate(fits):
            load_state(model, done.state)
            with torch.no_grad():
                margins = work.outputs(model, work.batch(rows)).cpu().double().numpy()
            for task in done.job.subset:
                own = known[:, task]
                scores[position, task] = auc(margins[own, task], labels[own, task] > 0)
    return scores


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Chance that a positive example has a higher score than a negative one, ties counted half.

    Example:
        >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
        0.875
    """
    from scipy.stats import rankdata

    count = int(positive.sum())
    if not 0 < count < len(positive):
        return float("nan")
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(positive) - count)))
