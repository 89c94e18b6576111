"""Train every candidate grouping for real, with the same recipe and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._check import is_whole, named_choice, whole_number
from coterie._context import Context
from coterie._progress import Progress, silent
from coterie._show import short_repr
from coterie._surface import known_arguments, said_once, warn
from coterie._units import NoStore, UnitStore
from coterie.balancing import Balancing
from coterie.balancing.criterion import ROUNDING
from coterie.balancing.methods import as_balancing, balancing_key
from coterie.errors import CoterieWarning, DataWarning, SettingError
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.halving import Halving, race, smallest_runs
from coterie.evaluation.labels import LabelIndex, LabelLosses, Losses
from coterie.evaluation.metric_values import metric_values, resampled
from coterie.evaluation.metrics import Judge, as_judges, check_judges
from coterie.evaluation.rates import NAMED
from coterie.evaluation.trainings import RaceEntries, RunOutcomes, Subset, Trainings, subsets_of
from coterie.grouping import Grouping
from coterie.training import fit
from coterie.training.job import Fit, pack_fits, unpack_fits
from coterie.training.trainer import PARTS, Outcome, Trainer
from coterie.workload import Split, Workload
from coterie.workload.sparse import SparseLabels


def as_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Training seeds: a number of them, or they themselves.

    Raises:
        SettingError: when there is none, or something is no whole number from 0.

    Example:
        >>> as_seeds(2), as_seeds((7, 9))
        ([0, 1], [7, 9])
    """
    given: Any = _listed(seeds)
    if is_whole(given):
        given = range(int(given))
    found: list[Any] = list(given) if isinstance(given, Sequence) else []
    good = all(is_whole(seed) and seed >= 0 for seed in found)
    if not found or not good or len(set(found)) < len(found):
        raise SettingError(
            "Parameter `seeds` should be a number of seeds, at least 1, or different whole numbers from 0. "
            f"Found {seeds!r}."
        )
    return [int(seed) for seed in found]


def as_groupings(candidates: Mapping[str, Any], tasks: tuple[str, ...]) -> dict[str, Grouping]:
    """Candidates as groupings of the workload's tasks.

    Raises:
        SettingError: when they are no mapping, name other tasks, or do not put each task into one group.
    """
    if not isinstance(candidates, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(
            f"Parameter `candidates` should map names to groupings. Found {type(candidates).__name__}. "
            "Write {'mine': [['a', 'b'], ['c']]}."
        )
    return {str(name): _grouping(str(name), value, tasks) for name, value in candidates.items()}


def _grouping(name: str, value: Any, tasks: tuple[str, ...]) -> Grouping:
    if isinstance(value, Mapping) or hasattr(value, "iloc"):  # a label of each task
        return Grouping.from_labels(tasks, value, method="given")
    if isinstance(value, Grouping):
        if set(value.tasks) == set(tasks):
            return value if value.tasks == tasks else _reordered(value, tasks)
        raise SettingError(
            f"Parameter `candidates`: the grouping {name!r} is of other tasks ({list(value.tasks)[:3]}...) than "
            f"the workload ({list(tasks)[:3]}...). Group the affinity of this workload."
        )
    labels: dict[str, int] = {}
    value = _listed(value)
    groups: list[Any] = list(map(_listed, value)) if isinstance(value, Sequence) else []
    for number, group in enumerate(groups):
        members: list[Any] = list(group) if isinstance(group, Sequence) and not isinstance(group, str) else []
        for task in members:
            known = tasks[int(task)] if is_whole(task) and 0 <= task < len(tasks) else task
            if known not in tasks or known in labels:
                raise SettingError(
                    f"Parameter `candidates`: the grouping {name!r} names {task!r}, which is no task or is named twice."
                )
            labels[str(known)] = number
    missing = [task for task in tasks if task not in labels]
    if missing:
        raise SettingError(
            f"Parameter `candidates`: the grouping {name!r} should be a Grouping, or lists that hold each task once. "
            f"Missing: {missing[:5]}."
        )
    return Grouping.from_labels(tasks, [labels[task] for task in tasks], method="given")


def _listed(values: Any) -> Any:
    """Arrays, tensors and indexes of pandas as lists; everything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def _reordered(grouping: Grouping, tasks: tuple[str, ...]) -> Grouping:
    """The same groups for the same tasks in another order."""
    place = {name: number for number, name in enumerate(tasks)}
    groups = tuple(tuple(sorted(place[name] for name in names)) for names in grouping.names)
    order = sorted(range(len(groups)), key=groups.__getitem__)
    serves = [order.index(grouping.serves[grouping.tasks.index(name)]) for name in tasks]
    return replace(grouping, tasks=tasks, groups=tuple(groups[group] for group in order), serves=tuple(serves))


# A single-task model stops where its own validation loss is lowest, a group where the mean over its tasks is: the
# first looks better on those rows than it is. Rows that no training has seen, not even to stop, give every candidate
# the same chance.


def halve_validation(workload: Workload) -> tuple[Workload, Tensor]:
    """A workload that stops on one half of the validation rows, and the rows of the other half.

    Rows are dealt out in turn after sorting by which labels they have and what they are, so that both halves look
    alike. Where a task would have no label in one of the halves, all validation rows serve both ends and a DataWarning
    says so.
    """
    rows = workload.split.validation
    known: Any = workload.labels
    sparse = isinstance(known, SparseLabels)
    if sparse:
        order = np.array(known.alike(rows))
    else:
        labels = known[rows].cpu().double().numpy()
        order = np.lexsort(np.nan_to_num(labels, nan=-np.inf).T)
    stop = torch.as_tensor(np.sort(order[0::2]), device=rows.device)
    choose = torch.as_tensor(np.sort(order[1::2]), device=rows.device)
    halves = [
        known.tasks_with(half) if sparse else workload.observed[half].any(0) for half in (rows[stop], rows[choose])
    ]
    if bool((halves[0] & halves[1]).all()):
        split = Split(workload.split.train, rows[stop], workload.split.test)
        return replace(workload, split=split), rows[choose]
    warn(
        "A task has too few validation labels to stop trainings on one half and choose on the other, so all of them "
        "serve both ends, which flatters small groups. Give more validation rows.",
        DataWarning,
    )
    return workload, rows


STAGE = "compare: training candidates"


@short_repr
@dataclass(frozen=True, eq=False)
class TrainedComparison:
    """A comparison and the trainings behind it.

    Attributes:
        comparison: losses of all candidates.
        workload: the workload as it was trained: stopped on one half of the validation part; or the trainer.
        fits: the training of each (subset, seed); its state is empty where parameters were too large to keep.
        losses: (subset, seed, part) -> loss of each label of the subset's tasks.
        index: the labels of the part that chooses (``"validation"``) and of the test part.
        seconds: how long the trainings took, in this or an earlier process.
        raced: trainings of the rungs of successive halving, without their parameters; they serve nothing.
        runs: the outcome of each (subset, seed) of a trainer that is no workload; such a comparison has no fits.
    """

    comparison: Comparison
    workload: Workload | Trainer = field(repr=False)
    fits: Mapping[tuple[Subset, int], Fit] = field(default_factory=dict[tuple[Subset, int], Fit], repr=False)
    losses: Mapping[tuple[Subset, int, str], NDArray[np.float32]] = field(
        default_factory=dict[tuple[Subset, int, str], NDArray[np.float32]], repr=False
    )
    index: Mapping[str, LabelIndex] = field(default_factory=dict[str, LabelIndex], repr=False)
    seconds: float = 0.0
    raced: Mapping[tuple[Subset, int], Fit] = field(default_factory=dict[tuple[Subset, int], Fit], repr=False)
    runs: Mapping[tuple[Subset, int], Outcome] = field(default_factory=dict[tuple[Subset, int], Outcome], repr=False)

    def _repr_html_(self) -> str:
        """The comparison's table, for notebooks."""
        return self.comparison._repr_html_()  # pyright: ignore[reportPrivateUsage]

    def best_state(self, subset: Sequence[int], memory: int, store: UnitStore) -> Mapping[str, Tensor]:
        """Parameters of the seed with the lowest validation loss; trained again where they were not kept.

        Raises:
            SettingError: when the subset was not trained, or by a trainer that keeps its models to itself.
        """
        key = tuple(sorted(subset))
        fits = [fitted for (trained, _), fitted in self.fits.items() if trained == key]
        if not fits or not isinstance(self.workload, Workload):
            raise SettingError(f"Parameter `subset`: no model of {list(key)} was trained here, so none can be served.")
        best = min(fits, key=lambda fitted: (fitted.loss, fitted.job.seed))
        if best.state:
            return best.state
        jobs = [best.job]
        workload = self.workload
        unit = {"subset": list(key), "seed": best.job.seed, **balancing_key(best.job.balancing)}
        payload = store.unit("served", unit, lambda: pack_fits(fit(workload, jobs, Context(memory=memory))))
        return unpack_fits(jobs, payload)[0].state


def all_in_one(tasks: tuple[str, ...]) -> Grouping:
    """One group of all tasks."""
    return Grouping.from_labels(tasks, [0] * len(tasks), method=JOINT)


def single_task(tasks: tuple[str, ...]) -> Grouping:
    """One group a task."""
    return Grouping.from_labels(tasks, list(range(len(tasks))), method=BASELINE)


@known_arguments
@said_once
def compare(
    workload: Workload | Trainer,
    candidates: Mapping[str, Grouping | Sequence[Sequence[int | str]]],
    *,
    seeds: int | Sequence[int] = 3,
    runs: int | None = None,
    budget: int | None = None,
    balancing: Balancing | str | None = None,
    metrics: Any = None,
    decide_by: Any = None,
    memory: int = 2**30,
    store: UnitStore | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> TrainedComparison:
    """Train candidate groupings, all-in-one and single-task models, and evaluate them on validation and test data.

    A subset that several candidates share is trained once a seed. Trainings stop on one half of the validation part;
    the validation losses of the comparison are those of the other half (see :mod:`coterie.evaluation.compare`).

    With `runs`, candidates are eliminated by successive halving on that other half until those that are left can be
    trained with all seeds within the budget (see :mod:`coterie.evaluation.halving`). The comparison then holds the
    finalists and the simple candidates, all with the same seeds, none of which was used before, and
    ``comparison.halving`` tells who left when. With enough runs for everything nothing is eliminated.

    Args:
        workload: tasks, data, model and recipe; or a trainer, such as :class:`coterie.training.FunctionTrainer`. What a
            trainer reports as validation losses chooses, and its test losses are reported; where it reports no losses
            of single examples, intervals cover seeds only.
        candidates: name -> grouping, or its groups as lists of task names or numbers; the two simple candidates are
            added when missing.
        seeds: training seeds, or their number; each fixes initialisation and batch order, and is one unit of the store.
        runs: largest number of real trainings (of one distinct subset with one seed each); None for no limit. Where
            it is small, the finalists get fewer seeds, but two at least.
        budget: largest number of models that may be served; with `runs`, none is spent on candidates with more models,
            which could not be recommended.
        balancing: how tasks are balanced inside every group, all-in-one included: a name of
            :data:`coterie.balancing.METHODS` or a :class:`coterie.balancing.Balancing`; None for the recipe's loss,
            pooled over labels. A single-task model has nothing to balance.
        metrics: what predictions are judged by beside the loss: names (``"auroc"``, ``"average_precision"``,
            ``"accuracy"``, ``"f1"``, ``"r2"``, ``"rmse"``, ``"spearman"``), functions of scikit-learn or torchmetrics,
            :class:`coterie.evaluation.Metric` objects, or a mapping of every task to one of these; or a list of them.
        decide_by: one such metric that judges every task: gains, intervals and the choice are then about it in place of
            the loss, on which trainings go on to stop.
        memory: working memory of population training in bytes.
        store: where finished units are kept.
        progress: called with the number of finished trainings.
        executor: where trainings run; None is this process. See docs/cluster.md.

    Returns:
        The comparison and the trained models.

    Raises:
        SettingError: `runs` is too small, and the message has the smallest useful number; `balancing` or a metric is
            unknown, or a metric cannot be computed.

    Cost: (distinct subsets) x (seeds) ordinary trainings, and never more than `runs`.
    """
    balancing = as_balancing(balancing)
    judges, decider = chosen_judges(workload, metrics, decide_by)
    context = Context(0, memory, store or NoStore(), progress or silent, executor)
    wanted = as_seeds(seeds)
    rungs: Trainings | RunOutcomes
    final: Trainings | RunOutcomes
    if isinstance(workload, Workload):
        names = workload.task_names
        halved, choose = halve_validation(workload)
        index = {"validation": LabelIndex.of(workload, choose), "test": LabelIndex.of(workload, workload.split.test)}
        chosen = {"validation": index["validation"]}
        rungs = Trainings(halved, chosen, context, "halving", balancing=balancing, predicting=decider is not None)
        final = Trainings(halved, index, context, "compare", balancing=balancing, predicting=bool(judges))
    else:
        rungs = final = RunOutcomes.of(workload, context, balancing)
        names = final.trainer.tasks
    everything = {JOINT: all_in_one(names), **as_groupings(candidates, names), BASELINE: single_task(names)}
    halving = None
    if runs is not None:
        halving = _eliminate(everything, wanted, whole_number(runs, "runs", low=1), budget, rungs, decider)
        everything, wanted = {name: everything[name] for name in halving.finalists}, list(halving.seeds)
    final.train(subsets_of(everything.values()), wanted, keep=None, stage=STAGE)
    found = {part: final.measure(list(everything.values()), wanted, part) for part in PARTS}
    labels = {part: losses.labels for part, losses in found.items() if isinstance(losses.labels, LabelLosses)}
    judged = (
        tuple(metric_values(judge, final, list(everything.values()), wanted) for judge in judges)
        if isinstance(final, Trainings)
        else ()
    )
    comparison = Comparison(
        names, tuple(everything), tuple(everything.values()), tuple(wanted), found["validation"].means,
        found["test"].means, labels, halving, judged, None if decider is None else decider.title,
    )  # fmt: skip
    _warn_below_zero(comparison)
    if isinstance(final, RunOutcomes):
        return TrainedComparison(comparison, final.trainer, runs=final.runs, seconds=final.seconds)
    raced, seconds = rungs.fits if isinstance(rungs, Trainings) else {}, final.seconds + rungs.seconds
    return TrainedComparison(comparison, final.workload, final.fits, final.losses, final.index, seconds, raced)


def _warn_below_zero(comparison: Comparison) -> None:
    """Say for which tasks a gain, which is a ratio of losses, does not tell what became better."""
    lowest = np.minimum(comparison.validation, comparison.test).min((0, 1))
    below = [repr(name) for name, loss in zip(comparison.tasks, lowest, strict=True) if loss < -ROUNDING]
    if below:
        more = f" and {len(below) - 5} more" if len(below) > 5 else ""
        warn(
            f"Mean losses of {', '.join(below[:5])}{more} are below 0. Gains are ratios of losses, in which these "
            "count as 0: what becomes better below 0 shows neither in gains nor in the verdict. Let the loss return "
            "its distance from the lowest value that it can take.",
            DataWarning,
        )


def chosen_judges(workload: Any, metrics: Any, decide_by: Any) -> tuple[tuple[Judge, ...], Judge | None]:
    """All metrics, and the one that decides, looked at before anything is trained.

    Raises:
        SettingError: when one is unknown or cannot be computed, the one that decides leaves out tasks, or the workload
            is a trainer, whose predictions are not known.
    """
    if metrics is None and decide_by is None:
        return (), None
    if not isinstance(workload, Workload):
        raise SettingError(
            f"Parameters `metrics` and `decide_by` need a torch workload: {workload!r} reports losses only. "
            "Report what should decide as the loss, for example 1 - AUROC."
        )
    judges = list(as_judges(metrics, workload))
    decider = None
    if decide_by is not None:
        decider = _decider(decide_by, judges, workload)
        missing = [name for number, name in enumerate(workload.task_names) if number not in decider.tasks]
        if missing:
            raise SettingError(
                f"Parameter `decide_by`={decider.title!r} does not judge the tasks {missing[:5]}. Give a mapping of "
                "every task to a metric, such as {'sick': 'auroc', 'weight': 'r2'}."
            )
        titles = [judge.title for judge in judges]
        judges = [decider if title == decider.title else judge for title, judge in zip(titles, judges, strict=True)]
        judges += [] if decider.title in titles else [decider]
    if judges:
        check_judges(judges, workload, {"validation": halve_validation(workload)[1], "test": workload.split.test})
    return tuple(judges), decider


def _decider(decide_by: Any, judges: list[Judge], workload: Workload) -> Judge:
    """The metric that decides: one of those in `metrics` by its name, or another."""
    if isinstance(decide_by, str):
        named = {judge.title: judge for judge in judges}
        named_choice(decide_by, "decide_by", [*named, *(name for name in NAMED if name not in named)])
        if decide_by in named:
            return replace(named[decide_by], decides=True)
    return replace(as_judges([decide_by], workload)[0], decides=True)


def metric_settings(workload: Any, metrics: Any, decide_by: Any) -> dict[str, Any]:
    """Names of the metrics and of the one that decides, as far as there are any; raises as :func:`chosen_judges`."""
    judges, decider = chosen_judges(workload, metrics, decide_by)
    named = {"metrics": [judge.title for judge in judges]} if judges else {}
    return named if decider is None else {**named, "decide_by": decider.title}


def affordable(
    candidates: Mapping[str, Grouping], seeds: int, runs: int | None, budget: int | None = None
) -> dict[str, Grouping]:
    """The first candidates, as many as can be compared with some real trainings; a warning names the others.

    For candidates that come out of long work, which an error would waste.
    """
    kept = dict(candidates)
    while runs is not None and kept:
        tasks = next(iter(kept.values())).tasks
        everything = {JOINT: all_in_one(tasks), **kept, BASELINE: single_task(tasks)}
        least = smallest_runs(RaceEntries.of(everything, (JOINT, BASELINE), budget).prices, seeds)
        if least <= runs:
            break
        name, _ = kept.popitem()
        warn(
            f"{runs} runs are too few to compare all candidates ({least} would do), so {name!r} is left out.",
            CoterieWarning,
        )
    return kept


def _eliminate(
    everything: Mapping[str, Grouping],
    seeds: Sequence[int],
    runs: int,
    budget: int | None,
    rungs: Trainings | RunOutcomes,
    decider: Judge | None,
) -> Halving:
    """Successive halving on validation losses, or on the metric that decides."""
    entry = RaceEntries.of(everything, (JOINT, BASELINE), budget)

    def measure(names: Sequence[str], used: Sequence[int]) -> Losses:
        groupings = [everything[name] for name in names]
        subsets = subsets_of(groupings)
        new = [seed for seed in used if not rungs.trained(subsets[0], seed)]
        rungs.train(subsets, new, keep=False, stage=f"compare: choosing among {len(names)}")
        if decider is not None and isinstance(rungs, Trainings):
            found = resampled(decider, rungs, groupings, used, "validation")
            return Losses(found.draws[..., 0].astype(np.float64), found, found.floor)
        return rungs.measure(groupings, used, "validation")

    models = {name: len(grouping.groups) for name, grouping in everything.items()}
    return entry.complete(race(entry.prices, seeds, runs, measure, models))
