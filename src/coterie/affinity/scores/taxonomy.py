"""Taxonomical distance: how far apart two tasks are in a tree of transfer affinities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from torch.utils.flop_counter import FlopCounterMode

from coterie._context import DEFAULT_CONTEXT, Context
from coterie._surface import known_arguments
from coterie._units import Payload
from coterie.affinity.costs import Prepared, prepare, timed
from coterie.affinity.estimator import Estimate, Estimator
from coterie.affinity.scores.single_tasks import as_estimate, single_task_fits
from coterie.affinity.scores.transfer import transfer_losses
from coterie.errors import SettingError
from coterie.training.job import Fit
from coterie.workload import Workload

STAGE = "transfer to new heads"


def transfer_similarity(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric (T, T) similarities from transfer losses [target, source]; the diagonal is 0.

    Losses of a target are compared over the T - 1 other sources: their negative z-score (0 where all are equal), since
    losses of different targets have no common scale. Both directions are averaged.

    Example:
        >>> transfer_similarity(np.array([[0, 1, 3], [2, 0, 4], [5, 7, 0]]))
        array([[ 0.,  1.,  0.],
               [ 1.,  0., -1.],
               [ 0., -1.,  0.]])
    """
    others = ~np.eye(len(losses), dtype=bool)
    mean = np.mean(losses, axis=1, where=others, keepdims=True)
    scale = np.std(losses, axis=1, where=others, keepdims=True)
    flat = scale <= 1e-12 * np.abs(mean)
    z = np.where(others & ~flat, (mean - losses) / np.where(flat, 1.0, scale), 0.0)
    return (z + z.T) / 2


def merge_tree(similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Agglomerative tree with average linkage, in the form of ``scipy.cluster.hierarchy.linkage``: (T - 1, 4)."""
    distance = np.round(similarity.max() - similarity, 9)  # ties are common, and rounding must not break them
    np.fill_diagonal(distance, 0.0)
    return linkage(squareform(distance, checks=False), "average")


def path_lengths(merges: NDArray[np.float64]) -> NDArray[np.int64]:
    """(T, T) number of edges between every two leaves of a binary tree with a root."""
    n = len(merges) + 1
    above = np.zeros((2 * n - 1, n), dtype=np.int64)  # [node, leaf]: is the leaf at or below the node?
    above[np.arange(n), np.arange(n)] = 1
    for number, (left, right, *_) in enumerate(merges):
        above[n + number] = above[int(left)] + above[int(right)]
    depth = above.sum(0)
    return depth[:, None] + depth[None, :] - 2 * (above.T @ above)


def cut_tree(merges: NDArray[np.float64], groups: int) -> NDArray[np.int64]:
    """Label 0..groups-1 of each leaf after the last ``groups - 1`` merges are undone.

    Raises:
        SettingError: when `groups` is not from 1 to the number of leaves.
    """
    n = len(merges) + 1
    if not 1 <= groups <= n:
        raise SettingError(f"Parameter `groups` should be from 1 to {n}, the number of tasks. Found {groups!r}.")
    members = {leaf: [leaf] for leaf in range(n)}
    for number in range(n - groups):
        left, right = (int(child) for child in merges[number, :2])
        members[n + number] = members.pop(left) + members.pop(right)
    labels = np.zeros(n, dtype=np.int64)
    for label, leaves in enumerate(sorted(members.values(), key=min)):
        labels[leaves] = label
    return labels


@known_arguments
@dataclass(frozen=True)
class Taxonomy(Estimator):
    """Minus the number of edges between two tasks in a tree of transfer affinities; symmetric, larger is closer.

    The trunk of every single-task model is frozen and every task gets a new linear head on it (ridge or logistic
    regression to the optimum); the validation losses, compared for each target over its sources, are similarities; the
    tree is their agglomerative clustering with average linkage. Ties are common: path lengths are small whole numbers.
    The estimate brings the cuts of the tree as a clustering of its own. The diagonal of the affinity is 0.

    A reconstruction: the score reads distances off the published tree of the 26 Taskonomy tasks, which no other tasks
    have; this grows such a tree for the tasks at hand. Published transfer trains small networks and ranks sources by
    tournaments (analytic hierarchy process); here heads are linear and losses are standardised.

    Args:
        ridge: strength of the ridge of the new heads, on standardised features and beside the mean loss.

    Raises:
        SettingError: when `ridge` is not positive.

    Cost: one training a task, one forward pass over the training and validation part a task, and n^2 linear fits.

    Limits: the tree is a coarse view of n^2 numbers; a symmetric score cannot say who gains from whom.

    Source: "It's a MATCH!", arXiv 2301.02873 (taxonomical distance); A. Zamir et al., Taskonomy, CVPR 2018 (transfer
    affinities and their tree).

    Example:
        >>> Taxonomy(ridge=0.1).name
        'taxonomy'
    """

    needs_one_output: ClassVar[bool] = True

    ridge: float = 0.01

    def __post_init__(self) -> None:
        if isinstance(self.ridge, bool) or not (math.isfinite(self.ridge) and self.ridge > 0):
            raise SettingError(f"Parameter `ridge` should be positive. Found {self.ridge!r}.")

    @property
    def name(self) -> str:
        """Name of the method."""
        return "taxonomy"

    def estimate(self, workload: Workload, context: Context = DEFAULT_CONTEXT, subset_size: int = 2) -> Estimate:
        """Train the single-task models, fit new heads on their trunks, and grow the tree.

        Raises:
            ModelError: when a head is no module, so that what it reads cannot be found.
        """
        del subset_size
        prepared = prepare(workload, context)
        fits = single_task_fits(prepared)
        key = {"seed": context.seed, "ridge": self.ridge}
        payload = timed(
            prepared.context.store, prepared.costs, STAGE, "transfer", key, lambda: self._transfer(prepared, fits)
        )
        prepared.costs.add(STAGE, float(payload.meta["flops"]))
        losses = np.asarray(payload.arrays["losses"])
        merges = merge_tree(transfer_similarity(losses))
        values = -path_lengths(merges).astype(np.float64)
        own = np.diag(losses)[:, None]
        others = ~np.eye(len(losses), dtype=bool)
        facts = {"transfers that beat the own trunk": float((losses < own)[others].mean())}
        return as_estimate(
            workload,
            prepared.costs,
            values,
            self.name,
            ["tree of linear transfers between single-task models (a reconstruction)"],
            facts,
            lambda groups: cut_tree(merges, groups),
        )

    def _transfer(self, prepared: Prepared, fits: list[Fit]) -> Payload:
        counter = FlopCounterMode(display=False)  # how many steps the fits take is not known beforehand
        with counter:
            losses = transfer_losses(prepared, fits, self.ridge, lambda a, b: prepared.context.progress(STAGE, a, b))
        return Payload({"losses": losses}, {"flops": float(counter.get_total_flops())})
