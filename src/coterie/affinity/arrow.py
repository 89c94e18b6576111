"""The Hessian of many subsets at the base model: an arrow each, solved without ever being formed.

The Hessian of a subset couples the trunk with every head, but no two heads. In the eigenbasis of each task's own
head block (found once, for all subsets and all ridges) the heads are eliminated by a diagonal scaling; what remains is
one (d, d) system a subset, for which there are two ways: a batch of Cholesky factors, and conjugate gradients whose
products are shared by all subsets with a task (:mod:`coterie.affinity.conjugate`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from coterie._surface import warn
from coterie.affinity.layout import Layout, Point
from coterie.affinity.statistics import Penalty, Statistics
from coterie.errors import NumericsWarning


@dataclass(frozen=True, eq=False)
class Shifts:
    """What the ridge adds to the diagonal of the summed Hessian: (m,) for trunk and heads, ``lambda N_S weight``."""

    trunk: Tensor
    heads: Tensor

    @staticmethod
    def of(statistics: Statistics, layout: Layout, ridge: Tensor, penalty: Penalty) -> Shifts:
        """The shifts of every subset for ridge (m,)."""
        scaled = ridge * examples(statistics, layout)
        return Shifts(scaled * penalty.trunk, scaled * penalty.heads)

    def select(self, keep: Tensor) -> Shifts:
        """The shifts of some subsets."""
        return Shifts(self.trunk[keep], self.heads[keep])

    def apply(self, point: Point, layout: Layout) -> Point:
        """The gradient of the ridge at a point."""
        kind = point.u.dtype
        return Point(self.trunk.to(kind)[:, None] * point.u, self.heads.to(kind)[layout.pairs[1], None] * point.w)


def examples(statistics: Statistics, layout: Layout) -> Tensor:
    """(m,) labelled training examples N_S of each subset."""
    return layout.mask.double() @ statistics.counts.double()


@dataclass(frozen=True, eq=False)
class ArrowSolver(ABC):
    """Solves with the ridge Hessian of every subset of a layout.

    Attributes:
        shifts: the ridge.
        heads: (P, q) reciprocals of the shifted eigenvalues of the head blocks.
    """

    statistics: Statistics
    layout: Layout
    shifts: Shifts
    heads: Tensor

    def solve(self, gradient: Point, tolerance: float) -> Point:
        """``H^-1 gradient`` of every subset; `tolerance` is the relative residual where the way is iterative."""
        layout, kind = self.layout, gradient.u.dtype
        rotated, w = torch.zeros_like(gradient.w), torch.zeros_like(gradient.w)
        heads, u = self.heads.to(kind), gradient.u.clone()
        present = [task for task, q in enumerate(self.statistics.head_widths) if q and len(layout.subsets_of(task))]
        bases = {task: tuple(part.to(kind) for part in self.statistics.eigen[task][1:3]) for task in present}
        for task, (vectors, mixed) in bases.items():
            part, q = layout.pairs_of(task), vectors.shape[0]
            rotated[part, :q] = gradient.w[part, :q] @ vectors
            u.index_add_(0, layout.subsets_of(task), (heads[part, :q] * rotated[part, :q]) @ mixed.mT, alpha=-1)
        u = self.trunk(u, tolerance)
        for task, (vectors, mixed) in bases.items():
            part, q = layout.pairs_of(task), vectors.shape[0]
            left = rotated[part, :q] - u[layout.subsets_of(task)] @ mixed
            w[part, :q] = (heads[part, :q] * left) @ vectors.mT
        return Point(u, w)

    @abstractmethod
    def trunk(self, right: Tensor, tolerance: float) -> Tensor:
        """Solve the (m, d) systems that are left when the heads are eliminated."""

    @abstractmethod
    def select(self, keep: Tensor) -> ArrowSolver:
        """The solver of some subsets (bool (m,))."""


@dataclass(frozen=True, eq=False)
class CholeskySolver(ArrowSolver):
    """Exact: one Cholesky factor a subset, for few directions or few subsets.

    Attributes:
        factors: (m, d, d), lower.
    """

    factors: Tensor

    @staticmethod
    def of(statistics: Statistics, layout: Layout, shifts: Shifts) -> CholeskySolver:
        """Factor all subsets. Cost: ``d^3 / 3`` multiply-adds a subset; memory: ``24 m d^2`` bytes."""
        heads = inverse_heads(statistics, layout, shifts)
        matrices = _schur(statistics, layout, shifts, heads)
        matrices.diagonal(dim1=1, dim2=2).add_(shifts.trunk[:, None])
        return CholeskySolver(statistics, layout, shifts, heads, _cholesky(matrices, shifts.trunk))

    def trunk(self, right: Tensor, tolerance: float) -> Tensor:
        """Two triangular solves."""
        del tolerance
        half = torch.linalg.solve_triangular(self.factors, right.double()[..., None], upper=False)
        return torch.linalg.solve_triangular(self.factors.mT, half, upper=True)[..., 0].to(right.dtype)

    def select(self, keep: Tensor) -> CholeskySolver:
        """The factors of some subsets."""
        layout, pairs = self.layout.select(keep), keep[self.layout.pairs[1]]
        return CholeskySolver(self.statistics, layout, self.shifts.select(keep), self.heads[pairs], self.factors[keep])


def inverse_heads(statistics: Statistics, layout: Layout, shifts: Shifts) -> Tensor:
    """(P, q) reciprocals of the eigenvalues of each pair's head block with its ridge."""
    q = max(statistics.head_widths)
    eigenvalues = torch.stack([pad(values, (0, q - values.shape[0])) for values, *_ in statistics.eigen])
    tasks, subsets = layout.pairs
    return 1.0 / (eigenvalues[tasks] + shifts.heads[subsets, None])


def reduced_blocks(statistics: Statistics, shift: Tensor) -> Tensor:
    """(T, d, d): trunk block of each task with its head eliminated, ``A - B (C + shift)^-1 B^T``, for one shift."""
    return torch.stack(
        [
            block - (mixed / (values + shift)) @ mixed.mT
            for block, (values, _, mixed) in zip(statistics.trunk, statistics.eigen, strict=True)
        ]
    )


def _schur(statistics: Statistics, layout: Layout, shifts: Shifts, heads: Tensor) -> Tensor:
    """(m, d, d) sums of reduced blocks over the tasks of each subset, by whichever way needs fewer products."""
    m, d = layout.mask.shape[0], statistics.width
    groups, group = torch.unique(shifts.heads, return_inverse=True)
    mask = layout.mask.double()
    if len(groups) * statistics.n_tasks > layout.pairs[1].shape[0]:
        matrices = (mask @ statistics.trunk.flatten(1)).view(m, d, d)
        for task, (_, _, mixed) in enumerate(statistics.eigen):
            scaled = mixed * heads[layout.pairs_of(task), None, : mixed.shape[1]]
            matrices.index_add_(0, layout.subsets_of(task), scaled @ mixed.mT, alpha=-1)
        return matrices
    matrices = torch.empty(m, d, d, dtype=torch.float64, device=mask.device)
    for number, shift in enumerate(groups):
        members = group == number
        matrices[members] = (mask[members] @ reduced_blocks(statistics, shift).flatten(1)).view(-1, d, d)
    return matrices


def _cholesky(matrices: Tensor, floor: Tensor) -> Tensor:
    """Lower factors; where rounding made a matrix indefinite, its eigenvalues are lifted to the ridge."""
    factors, info = torch.linalg.cholesky_ex(matrices)
    bad = torch.nonzero(info)[:, 0]
    if len(bad):
        warn(
            f"The ridge is too small for the precision of the features in {len(bad)} of {len(info)} subsets; "
            "directions that the data do not determine were damped. Use a larger ridge or float64 features.",
            NumericsWarning,
        )
        values, vectors = torch.linalg.eigh(matrices[bad])
        least = torch.maximum(floor[bad], 1e-10 * values[:, -1])
        values = values.clamp_min(least[:, None])
        factors[bad] = torch.linalg.cholesky((vectors * values[:, None]) @ vectors.mT)
    return factors
