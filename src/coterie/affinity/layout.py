"""Displacements of many subsets at once: where they are stored and how they are combined.

Subset l has a trunk displacement ``u[l]`` and one head displacement for each of its tasks. The (subset, task) pairs are
sorted by task, so that what concerns one task is one slice, and one matrix product serves all subsets with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Which subset holds which task.

    Attributes:
        mask: (m, T) bool tensor.
    """

    mask: Tensor

    @staticmethod
    def from_mask(mask: NDArray[np.bool_], device: torch.device) -> Layout:
        """The layout of a bool array (m, T)."""
        return Layout(torch.as_tensor(mask, device=device))

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """(task, subset) of each of the P pairs, sorted by task."""
        task, subset = torch.nonzero(self.mask.mT, as_tuple=True)
        return task, subset

    @cached_property
    def starts(self) -> list[int]:
        """Where the pairs of each task start: T + 1 numbers."""
        return [0, *self.mask.sum(0).cumsum(0).tolist()]

    def pairs_of(self, task: int) -> slice:
        """The pairs of a task."""
        return slice(self.starts[task], self.starts[task + 1])

    def subsets_of(self, task: int) -> Tensor:
        """The subsets with a task, in the order of its pairs."""
        return self.pairs[1][self.pairs_of(task)]

    def sum_pairs(self, values: Tensor) -> Tensor:
        """(m, ...) sums over the pairs of each subset of (P, ...) values."""
        total = torch.zeros((self.mask.shape[0], *values.shape[1:]), dtype=values.dtype, device=values.device)
        return total.index_add_(0, self.pairs[1], values)

    def select(self, keep: Tensor) -> Layout:
        """The layout of some subsets (bool tensor (m,))."""
        return Layout(self.mask[keep])


@dataclass(frozen=True, eq=False)
class Point:
    """Displacements, or gradients, of all subsets of a layout, each in one floating-point type.

    Attributes:
        u: (m, d) trunk part.
        w: (P, q) head part of each pair, zero beyond the task's own q_t columns.
    """

    u: Tensor
    w: Tensor

    @staticmethod
    def zeros(layout: Layout, d: int, q: int, kind: torch.dtype = torch.float64) -> Point:
        """No displacement."""
        device = layout.mask.device
        return Point(
            torch.zeros(layout.mask.shape[0], d, dtype=kind, device=device),
            torch.zeros(layout.pairs[1].shape[0], q, dtype=kind, device=device),
        )

    def step(self, scale: Tensor, direction: Point, layout: Layout) -> Point:
        """``self + scale[l] * direction`` for each subset l; `scale` is (m,)."""
        scale = scale.to(self.u.dtype)
        return Point(
            torch.addcmul(self.u, scale[:, None], direction.u),
            torch.addcmul(self.w, scale[layout.pairs[1], None], direction.w),
        )

    def minus(self, other: Point) -> Point:
        """Difference."""
        return Point(self.u - other.u, self.w - other.w)

    def scaled(self, scale: Tensor, layout: Layout) -> Point:
        """``scale[l] * self``."""
        scale = scale.to(self.u.dtype)
        return Point(scale[:, None] * self.u, scale[layout.pairs[1], None] * self.w)

    def dot(self, other: Point, layout: Layout) -> Tensor:
        """(m,) inner product of each subset, in float64."""
        return ((self.u * other.u).sum(1) + layout.sum_pairs((self.w * other.w).sum(1))).double()

    def where(self, keep: Tensor, other: Point, layout: Layout) -> Point:
        """This point for the subsets in `keep` (bool (m,)), the other one elsewhere."""
        return Point(
            torch.where(keep[:, None], self.u, other.u), torch.where(keep[layout.pairs[1], None], self.w, other.w)
        )

    def select(self, keep: Tensor, layout: Layout) -> Point:
        """The part of the subsets in `keep`, to be used with ``layout.select(keep)``."""
        return Point(self.u[keep], self.w[keep[layout.pairs[1]]])

    def put(self, keep: Tensor, part: Point, layout: Layout) -> None:
        """Write back what :meth:`select` took out."""
        self.u[keep] = part.u.to(self.u.dtype)
        self.w[keep[layout.pairs[1]]] = part.w.to(self.w.dtype)
