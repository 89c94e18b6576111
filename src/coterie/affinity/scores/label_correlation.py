"""Correlation of labels: the affinity that needs no model at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._check import flag, whole_number
from coterie._context import DEFAULT_CONTEXT, Context
from coterie._surface import known_arguments, warn
from coterie.affinity.costs import Costs
from coterie.affinity.estimator import Estimate, Estimator
from coterie.affinity.scores.single_tasks import as_estimate
from coterie.errors import DataWarning, SettingError
from coterie.training.units import UnitCost
from coterie.workload import Workload

STAGE = "correlation of labels"


def label_overlap(workload: Workload, part: str = "train") -> NDArray[np.float64]:
    """(T, T) rows labelled for both tasks as a share of the rows of the task that has fewer; from 0 to 1, symmetric.

    Scores from gradients are said to mean little where tasks share less than 30 % of their examples, and to be
    reliable above 40 % (arXiv 2604.07848). A task without labels overlaps with nothing: 0.

    Example:
        >>> from coterie.workload import from_arrays
        >>> y = np.array([[0, 1], [1, np.nan], [0, np.nan], [1, 0]] * 30)
        >>> label_overlap(from_arrays(np.random.default_rng(0).normal(size=(120, 2)), y)).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    seen = workload.observed[workload.split.part(part)].double()
    both = (seen.T @ seen).cpu().numpy()
    counts = np.diag(both)
    smaller = np.minimum(counts[:, None], counts[None, :])
    return np.divide(both, smaller, out=np.zeros_like(both), where=smaller > 0)


def label_columns(workload: Workload, rows: Tensor) -> tuple[Tensor, list[int]]:
    """Labels (rows, C) as numbers, NaN where missing, and the task of each column; classes are one column each."""
    labels = workload.labels[rows].double()
    parts: list[Tensor] = []
    owner: list[int] = []
    for index, task in enumerate(workload.tasks):
        own = labels[:, index]
        if not task.loss.per_class:
            parts.append(own[:, None])
        else:
            classes = torch.arange(task.width, device=labels.device)
            is_class = (own[:, None] == classes).double()
            parts.append(torch.where(torch.isnan(own)[:, None], torch.nan, is_class))
        owner += [index] * (task.width if task.loss.per_class else 1)
    return torch.cat(parts, 1), owner


def correlations(columns: Tensor, minimum: int) -> NDArray[np.float64]:
    """(C, C) Pearson correlation of every two columns over the rows where both are known; float64.

    NaN where fewer than `minimum` rows are common, or one of the two is constant on them.
    """
    seen = ~torch.isnan(columns)
    mask = seen.double()
    known = torch.nan_to_num(columns)
    counts = mask.sum(0).clamp_min(1)
    mean = known.sum(0) / counts
    scale = (((known - mean) * mask).square().sum(0) / counts).sqrt()
    x = (known - mean) / torch.where(scale > 0, scale, 1.0) * mask
    n = mask.T @ mask
    safe = n.clamp_min(1)
    sums, squares = x.T @ mask, (x * x).T @ mask  # [i, j]: of column i over the rows that it shares with column j
    cov = x.T @ x - sums * sums.T / safe
    var = squares - sums.square() / safe
    enough = (n >= minimum) & (var > 1e-9 * safe) & (1e-9 * safe < var.T)
    r = cov / torch.where(enough, (var * var.T).clamp_min(1e-30), 1.0).sqrt()
    return torch.where(enough, r.clamp(-1, 1), torch.nan).cpu().numpy()


@known_arguments
@dataclass(frozen=True)
class LabelCorrelation(Estimator):
    """Absolute Pearson correlation of two tasks' labels; symmetric, from 0 to 1, larger is more alike.

    Over training rows on which both labels are known. A multi-class task counts with one indicator a class, and the
    largest absolute correlation of any two indicators is taken. Pairs with fewer than `minimum` common rows, or with a
    label that is constant on them, have the mean of the known pairs; where no pair is known, as when every task has
    rows of its own, all scores are 0. The diagonal of the affinity is 0.

    Args:
        signed: True keeps the sign; for binary and regression tasks only.
        minimum: common rows from which on a correlation counts as known.

    Raises:
        SettingError: when a value is out of range.

    Cost: no FLOPs of any model.

    Limits: tasks may share features without sharing labels, and the other way round; correlated labels say nothing
    about how much data a task needs. A baseline that others must beat.

    Source: the usual baseline; the fill-in for missing pairs is ours.

    Example:
        >>> LabelCorrelation(signed=True).name
        'label-correlation'
    """

    signed: bool = False
    minimum: int = 10

    def __post_init__(self) -> None:
        whole_number(self.minimum, "minimum", low=2)
        flag(self.signed, "signed")

    @property
    def name(self) -> str:
        """Name of the method."""
        return "label-correlation"

    def estimate(self, workload: Workload, context: Context = DEFAULT_CONTEXT, subset_size: int = 2) -> Estimate:
        """Correlate the labels.

        Raises:
            SettingError: for `signed` with a multi-class task.
        """
        del subset_size
        several = [task.name for task in workload.tasks if task.loss.per_class]
        if self.signed and several:
            raise SettingError(
                f"Parameter `signed`=True has no meaning for tasks with several classes. Found {several[:5]}. Use "
                "signed=False."
            )
        costs = context.costs or Costs(UnitCost(0.0, 0.0, 0.0))
        costs.add(STAGE, 0.0)
        values, unknown = self._values(workload)
        context.progress(STAGE, 1, 1)
        notes = [f"{unknown} pairs without enough common labels have the mean of the others"] if unknown else []
        if unknown and unknown == workload.n_tasks * (workload.n_tasks - 1) // 2:
            notes = ["no two tasks have labels in the same rows, so their correlations are not known: all are 0"]
            warn(
                "No two tasks have enough labels in the same training rows, so correlations of labels are not known "
                "and all scores are 0. Tasks with rows of their own are the likely cause. Choose another score.",
                DataWarning,
            )
        return as_estimate(workload, costs, values, self.name, notes)

    def _values(self, workload: Workload) -> tuple[NDArray[np.float64], int]:
        """(T, T) scores, and the number of pairs that are filled in."""
        columns, owner = label_columns(workload, workload.split.train)
        found = correlations(columns, self.minimum)
        found = found if self.signed else np.abs(found)
        starts = np.flatnonzero(np.diff([-1, *owner]))
        # fmax: an indicator may be constant where another one of the same task is not
        values = np.fmax.reduceat(np.fmax.reduceat(found, starts, axis=0), starts, axis=1)
        others = ~np.eye(len(values), dtype=bool)
        known = others & ~np.isnan(values)
        unknown = int((others & ~known).sum()) // 2
        values[others & ~known] = values[known].mean() if known.any() else 0.0
        np.fill_diagonal(values, 0.0)
        return values, unknown
