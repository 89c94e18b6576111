"""The features of one part of the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coterie._show import short_repr
from coterie.errors import SettingError
from coterie.features.heads import HeadFeatures, HeadMove, head_displacement
from coterie.features.plan import FeaturePlan
from coterie.features.storage import FeatureMatrix
from coterie.workload.structure import Structure


@short_repr
@dataclass(frozen=True, eq=False)
class TaskFeatures:
    """Features of one task's labelled examples.

    The margin near the model is ``offset + g @ u + head @ w`` for a move of ``P u`` in the trunk and w in the head.

    Attributes:
        g: (n, d) projected gradient of the margin.
        head: (n, q) gradient of the margin with respect to the task's own head; q = 0 where there is none.
        offset: (n,) margin at the model itself.
        targets: (n,) labels.
    """

    g: Tensor
    head: Tensor
    offset: Tensor
    targets: Tensor


@short_repr
@dataclass(frozen=True, eq=False)
class PartFeatures:
    """Projected gradients of the margins of every labelled (example, task) pair of a part, sorted by task.

    Attributes:
        part: ``"train"``, ``"validation"`` or ``"test"``.
        tasks: names.
        starts: (T + 1,) the pairs of task t are starts[t] .. starts[t + 1] - 1.
        rows: (N,) row number of each pair in the workload.
        local: (N,) position of the pair's row among the labelled rows of the part.
        offset: (N,) margins at the model.
        targets: (N,) labels.
        matrix: (N, d) projected gradients as they are stored; mapped from a file where they were spilt.
        heads: ``"exact"``, ``"projected"`` or ``"none"``.
        head_features: what the head gradients are made of.
        structure: trunk and heads; None for projected heads.
        plan: how the features were computed, and why.
    """

    part: str
    tasks: tuple[str, ...]
    starts: Tensor
    rows: Tensor
    local: Tensor
    offset: Tensor
    targets: Tensor
    matrix: FeatureMatrix
    heads: str
    head_features: HeadFeatures
    structure: Structure | None
    plan: FeaturePlan

    @property
    def count(self) -> int:
        """Number of directions d."""
        return self.matrix.stored.shape[1]

    @property
    def g(self) -> Tensor:
        """(N, d) projected gradients in full precision; a copy where they are stored in fewer bits."""
        return self.matrix.read()

    def pairs_of(self, task: int) -> slice:
        """Which of the N pairs belong to a task."""
        if not 0 <= task < len(self.tasks):
            raise SettingError(f"Parameter `task` should be between 0 and {len(self.tasks) - 1}. Found {task}.")
        return slice(int(self.starts[task]), int(self.starts[task + 1]))

    def stored(self, task: int) -> FeatureMatrix:
        """The trunk features of one task as they are stored: nothing is read or copied."""
        return self.matrix.rows(self.pairs_of(task))

    def task(self, task: int) -> TaskFeatures:
        """Everything of one task, in full precision; the head block is built on the fly."""
        own = self.pairs_of(task)
        trunk = self.stored(task).read(self.offset.device)
        return TaskFeatures(trunk, self.head(task), self.offset[own], self.targets[own])

    def head(self, task: int) -> Tensor:
        """(n, q) gradient of the task's margins with respect to its own head.

        Linear heads: exact, slope x (representation, 1) for each of the task's outputs; other heads: along random
        directions of their own; q = 0 for heads that are projected with the trunk or left out.
        """
        own = self.pairs_of(task)
        return self.head_features.of(task, self.local[own], own)

    def head_width(self, task: int) -> int:
        """Number of columns q of :meth:`head`."""
        return self.head_features.width(task)

    def head_apply(self, task: int, w: Tensor) -> HeadMove:
        """What head coefficients w (q,) add to the model: name -> (rows or None for the whole tensor, numbers)."""
        if self.structure is None or self.heads != "exact" or not w.numel():
            return {}
        if w.shape != (self.head_width(task),):
            raise SettingError(
                f"Parameter `w` should have shape ({self.head_width(task)},) for task {self.tasks[task]!r}. "
                f"Found {tuple(w.shape)}."
            )
        return head_displacement(self.structure, task, w, self.head_features.directions)

    @property
    def nbytes(self) -> int:
        """Bytes of the features in memory or file, without the heads."""
        return self.matrix.nbytes

    def linear_margins(self, task: int, u: Tensor, w: Tensor | None = None) -> Tensor:
        """Margins after a move, by the first-order prediction: offset + g u (+ head w)."""
        own = self.task(task)
        margins = own.offset + own.g @ u
        return margins if w is None or not w.numel() else margins + torch.mv(own.head, w)
