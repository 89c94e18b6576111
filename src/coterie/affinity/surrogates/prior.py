"""What is believed before a run: the estimate of base models, label correlation where it tells, or next to nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from coterie._process_lock import process_lock
from coterie.affinity.scores.label_correlation import LabelCorrelation, label_overlap
from coterie.affinity.surrogates.covariance import Floats
from coterie.affinity.surrogates.process import SubsetProcess, Sums, covariance_of_sums
from coterie.affinity.surrogates.task_ridge import TINY, ValueModel
from coterie.affinity.surrogates.views import WeighedProcess
from coterie.errors import DataWarning
from coterie.workload import Workload

#: tasks whose labelled rows overlap by a mean share between these are measured on partly different examples: there a
#: partner with correlated labels brings labels that the task itself lacks
PARTIAL = (0.02, 0.6)
#: a standard deviation of label correlation counts as much as this many of the estimate
WEIGHT = 0.7
#: reduction of a task's loss when its subset doubles, where no estimate says how large differences are
USUAL = 0.2


def partial_correlation(workload: Workload) -> Floats | None:
    """(T, T) absolute label correlation where tasks share some examples but not most; None elsewhere.

    With complete labels a task's partners bring no new examples, and label correlation ranks subsets no better than
    chance; without common examples it is not known (docs/benchmark.md).
    """
    overlap = label_overlap(workload)
    between = overlap[~np.eye(len(overlap), dtype=bool)]
    if not len(between) or not PARTIAL[0] < float(np.nanmean(between)) < PARTIAL[1]:
        return None
    with process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # correlations that are not known do no harm: all are 0
        matrix = LabelCorrelation().estimate(workload).model.pairwise().values
    return np.where(np.eye(len(matrix), dtype=bool), 0.0, matrix)


@dataclass(frozen=True, eq=False)
class Prior:
    """Values (m, T) of subsets before any run: an estimate, moved by label correlation.

    Attributes:
        estimate: bool subsets (m, T) -> values (m, T).
        matrix: (T, T) label correlation, or None.
        centre: (T,) mean of the matrix score of each task over random subsets.
        scale: (T,) how much a standard deviation of the matrix score moves the value of each task.
    """

    estimate: Callable[[NDArray[np.bool_]], Floats]
    matrix: Floats | None
    centre: Floats
    scale: Floats

    def __call__(self, subsets: NDArray[np.bool_]) -> Floats:
        """(m, T) values, NaN outside the subset."""
        values = self.estimate(subsets)
        if self.matrix is None:
            return values
        moved = np.where(subsets.sum(1, keepdims=True) > 1, _partners(subsets, self.matrix) - self.centre, 0.0)
        return np.where(subsets, values - self.scale * moved, np.nan)


def make_prior(
    estimate: Callable[[NDArray[np.bool_]], Floats], matrix: Floats | None, reference: NDArray[np.bool_]
) -> Prior:
    """Blend an estimate with label correlation, both in standard deviations over random subsets.

    Args:
        estimate: bool subsets (m, T) -> values (m, T), NaN outside the subset.
        matrix: from :func:`partial_correlation`.
        reference: bool (m, T), random subsets that say what is usual.
    """
    n = reference.shape[1]
    if matrix is None:
        return Prior(estimate, None, np.zeros(n), np.zeros(n))
    together = reference & (reference.sum(1, keepdims=True) > 1)  # a task alone has no partners that could be scored
    score = np.where(together, _partners(reference, matrix), np.nan)
    centre, _ = _centred(score)
    spread = float(np.sqrt(np.nanmean((score - centre) ** 2)))
    _, usual = _centred(estimate(reference))
    usual = np.sqrt(usual**2 + (np.median(usual) / 2) ** 2)
    return Prior(estimate, matrix, centre, WEIGHT * usual / max(spread, 1e-12))


def guess(workload: Workload, values: Floats) -> Callable[[NDArray[np.bool_]], Floats]:
    """Values without base models: the usual share of each task's loss for the best constant prediction.

    A bit less in larger subsets. That tasks differ from this is left to the process, which sees the same runs.

    Args:
        workload: tasks and data.
        values: (N, T) losses of real runs, NaN outside the subset.
    """
    level = np.ones(workload.n_tasks)
    varied = np.array([task.loss.labels_vary for task in workload.tasks])
    level[varied] = [constant_loss(workload, task) for task in np.flatnonzero(varied).tolist()]
    shares = (values / level)[:, varied]
    if (seen := np.isfinite(shares)).any():
        level[varied] *= np.median(shares[seen])
    for task in np.flatnonzero(~varied):  # labels of whole answers say nothing about the size of their loss
        if (seen := np.isfinite(values[:, task])).any():
            level[task] = np.median(values[seen, task])

    def predict(asked: NDArray[np.bool_]) -> Floats:
        size = asked.sum(1, keepdims=True)
        return np.where(asked, level * (1 - USUAL * np.log2(np.maximum(size, 1))), np.nan)

    return predict


def constant_loss(workload: Workload, task: int) -> float:
    """Loss of the best prediction that is the same for every example, on the training labels of a task."""
    rows = workload.rows_of((task,), "train")
    labels = workload.targets[rows, task].double()
    return max(workload.tasks[task].loss.constant(labels), 1e-6)


def _partners(subsets: NDArray[np.bool_], matrix: Floats) -> Floats:
    """(m, T) mean matrix score of each task's partners; the diagonal of the matrix is 0."""
    return (subsets.astype(np.float64) @ matrix.T) / np.maximum(subsets.sum(1, keepdims=True) - 1, 1)


def _centred(values: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each task; 0 where it is in no subset."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0.0).sum(0) / count
    return mean, np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(0) / count)


#: rows of cheap estimates that are kept
_KEPT = 20_000


@final
class FusedModel(ValueModel):
    """Predicted values and gains, with standard errors, of any subset.

    Args:
        tasks: names.
        method: name for tables.
        process: corrects the estimate.
        cheap: the estimate: bool subsets (m, T) -> values (m, T), NaN outside the subset.
    """

    def __init__(
        self,
        tasks: tuple[str, ...],
        method: str,
        process: SubsetProcess | WeighedProcess,
        cheap: Callable[[NDArray[np.bool_]], Floats],
    ) -> None:
        super().__init__(tasks, method)
        self.process = process
        self.cheap = cheap
        self._kept: dict[bytes, Floats] | None = None

    @property
    def uncertainty(self) -> str:
        """Standard errors are those of the posterior."""
        return "posterior"

    def forget(self) -> None:
        """Drop the kept estimates: those of a subset differ by rounding with the subsets that are solved beside it."""
        self._kept = None

    def _values(self, subsets: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        return self.process.predict(subsets, self._estimates(subsets))

    def _means(self, subsets: NDArray[np.bool_]) -> Floats:
        return self.process.predict(subsets, self._estimates(subsets), errors=False)[0]

    def _with_alone(self, subsets: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        return self.process.covariance_with_single(subsets, self._estimates(subsets), self._alone)

    def _total_covariance(self, subsets: NDArray[np.bool_]) -> Floats:
        # first order in the errors of both values: a gain is 1 - f(S, t) / f({t}, t)
        alone, estimates = np.maximum(self._alone_values, TINY), self._estimates(subsets)
        values = self.process.predict(subsets, estimates, errors=False)[0]
        weights = np.where(subsets, -1.0 / alone, 0.0)
        alone_weights = np.where(subsets, values / alone**2, 0.0)
        sums = Sums(subsets, estimates, weights, self._alone, alone_weights)
        return _covariance(self.process, sums)

    def task_covariance(self, subsets: NDArray[np.bool_], task: int) -> Floats:
        """Posterior covariance (m, m) of one task's values, over the square of its value alone."""
        weights = np.zeros(subsets.shape)
        weights[:, task] = -1.0 / max(self._alone_values[task], TINY)
        sums = Sums(subsets, self._estimates(subsets), weights, self._alone, np.zeros(subsets.shape))
        return _covariance(self.process, sums)

    @cached_property
    def _alone(self) -> Floats:
        """(T,) cheap estimates of tasks alone, solved beside each other whatever was asked before."""
        return np.diag(self.cheap(np.eye(len(self.tasks), dtype=bool))).copy()

    def _single_tasks(self) -> dict[bytes, Floats]:
        """What is kept of each task alone."""
        alone = np.eye(len(self.tasks), dtype=bool)
        return dict(zip(_keys(alone), np.where(alone, self._alone[:, None], np.nan), strict=True))

    def _estimates(self, subsets: NDArray[np.bool_]) -> Floats:
        """(m, T) cheap estimates. They take most of the time, and a search comes back to the same groups."""
        keys = _keys(subsets)
        kept = self._single_tasks() if self._kept is None else self._kept
        fresh = {key: row for row, key in enumerate(keys) if key not in kept}
        if len(kept) + len(fresh) > _KEPT:
            kept = self._single_tasks()
            fresh = {key: row for row, key in enumerate(keys) if key not in kept}
        self._kept = kept
        if fresh:
            rows = list(fresh.values())
            kept.update(zip(fresh, self.cheap(subsets[rows]), strict=True))
        return np.stack([kept[key] for key in keys]) if keys else np.zeros(subsets.shape)


def _covariance(process: SubsetProcess | WeighedProcess, sums: Sums) -> Floats:
    """(m, m) posterior covariance of weighted sums of values."""
    if isinstance(process, WeighedProcess):
        return process.covariance_of_sums(sums)
    return covariance_of_sums(process, sums)


def _keys(subsets: NDArray[np.bool_]) -> list[bytes]:
    """What subsets are kept by."""
    return [row.tobytes() for row in np.packbits(subsets, axis=1)]
