"""Conjugate gradients for many subsets at once: no subset ever has a matrix of its own.

Multiplying the Hessians of all subsets with a vector each takes one matrix product a task, shared by all subsets with
that task. With the mean Hessian of the subsets as preconditioner, one for each strength of the ridge, about ten
products are enough: several times less work than a Cholesky factor of every subset once there are more than about a
hundred directions, or once every subset has head blocks of its own, which is so where tasks have different examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from coterie._check import choice
from coterie._surface import warn
from coterie.affinity.blocks import Layout, Penalty, Point, Statistics
from coterie.errors import NumericsWarning

# The Hessian of a subset couples the trunk with every head, but no two heads. In the eigenbasis of each task's own
# head block (found once, for all subsets and all ridges) the heads are eliminated by a diagonal scaling; what remains
# is one (d, d) system a subset, for which there are two ways: a batch of Cholesky factors, and conjugate gradients
# whose products are shared by all subsets with a task (:mod:`coterie.affinity.conjugate`).


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


#: up to so many directions Cholesky factors are faster where all subsets share the strength of the ridge on their heads
CROSSOVER = 96
METHODS = ("auto", "cholesky", "conjugate")
_LIMIT = 60
#: up to so many subsets a task, on average, all tasks are multiplied at once, with room for the most that one has
_FEW = 48
#: strengths of the ridge that get preconditioners of their own
_LEVELS = 16
#: products that conjugate gradients take for one exact step, and for all rough steps of an iteration
ONE_STEP, ITERATED = 8, 30
#: multiply-adds in double precision that take as long as what Python adds to a task in a product
_OVERHEAD = 100_000
#: condition number up to which float32 is good enough
CONDITION = 1e5


@dataclass(frozen=True, eq=False)
class ConjugateSolver(ArrowSolver):
    """Iterative, in float32; subsets that do not converge are handed to Cholesky.

    Attributes:
        blocks: (T, d, d) trunk blocks, with the heads eliminated where all subsets share one shift.
        mixed: T tensors (d, q_t) to eliminate the heads with at each product; None where that is done.
        precondition: (L, d, d) inverses of mean Hessians for one example, one a strength of the ridge.
        levels: (m,) which of them is that of a subset.
    """

    blocks: Tensor
    mixed: tuple[Tensor, ...] | None
    precondition: Tensor
    levels: Tensor

    @staticmethod
    def of(statistics: Statistics, layout: Layout, shifts: Shifts) -> ConjugateSolver:
        """Prepare: cost and memory do not depend on the number of subsets but for vectors."""
        heads, levels = inverse_heads(statistics, layout, shifts), _levels(statistics, layout, shifts)
        blocks, mixed = statistics.single[:2]
        if bool((shifts.heads == shifts.heads[0]).all()):
            blocks, mixed = reduced_blocks(statistics, shifts.heads[0]).float(), None
        precondition = torch.stack(
            [
                _mean_inverse(statistics, layout.select(own), shifts.select(own))
                for own in (levels == level for level in range(int(levels.max()) + 1))
            ]
        )
        return ConjugateSolver(statistics, layout, shifts, heads, blocks, mixed, precondition, levels)

    def trunk(self, right: Tensor, tolerance: float) -> Tensor:
        """Preconditioned conjugate gradients until the residual of every subset is `tolerance` of what it was."""
        residual, product, steer = right.float(), self._products(), self._steering()
        answer = torch.zeros_like(residual)
        size = (residual.square().sum(1, keepdim=True) + 1e-30).sqrt()  # keeps float32 squares in range
        residual = residual / size
        steered = steer(residual)
        old = (residual * steered).sum(1, keepdim=True)
        goal = tolerance**2 * old
        direction = steered
        left = goal[:, 0] > 0
        for _ in range(_LIMIT):
            moved = product(direction)
            length = old / (direction * moved).sum(1, keepdim=True).clamp_min(1e-30)
            answer = torch.addcmul(answer, length, direction)
            residual = torch.addcmul(residual, length, moved, value=-1)
            steered = steer(residual)
            new = (residual * steered).sum(1, keepdim=True)
            left = (new > goal)[:, 0]
            if not bool(left.any()):
                return (answer * size).to(right.dtype)
            direction = torch.addcmul(steered, new / old.clamp_min(1e-30), direction)
            old = new
        return self._finish((answer * size).to(right.dtype), right, left)

    def _steering(self) -> Callable[[Tensor], Tensor]:
        """Multiplies (m, d) with the preconditioner of each subset."""
        if len(self.precondition) == 1:
            return lambda vectors: vectors @ self.precondition[0]
        rows = [torch.nonzero(self.levels == level)[:, 0] for level in range(len(self.precondition))]

        def steer(vectors: Tensor) -> Tensor:
            result = torch.empty_like(vectors)
            for own, matrix in zip(rows, self.precondition, strict=True):
                result[own] = vectors[own] @ matrix
            return result

        return steer

    def _products(self) -> Callable[[Tensor], Tensor]:
        """Multiplies (m, d) with the Schur complement of each subset."""
        layout, trunk = self.layout, self.shifts.trunk.float()[:, None]
        if layout.pairs[1].shape[0] <= _FEW * self.statistics.n_tasks:
            return self._few_products()
        tasks = [task for task in range(self.statistics.n_tasks) if len(layout.subsets_of(task))]
        plain = [(layout.subsets_of(task), self.blocks[task]) for task in tasks]
        heads: list[tuple[Tensor, Tensor] | None] = [None] * len(tasks)
        if self.mixed is not None:
            weights = self.heads.float()
            parts = [(weights[layout.pairs_of(task)], self.mixed[task]) for task in tasks]
            heads = [(weight[:, : mixed.shape[1]], mixed) if mixed.shape[1] else None for weight, mixed in parts]

        def product(direction: Tensor) -> Tensor:
            result = trunk * direction
            for (subsets, block), head in zip(plain, heads, strict=True):
                moved = direction[subsets]
                part = moved @ block
                if head is not None:
                    weight, mixed = head
                    part = part.addmm_((moved @ mixed).mul_(weight), mixed.mT, alpha=-1)
                result.index_add_(0, subsets, part)
            return result

        return product

    def _few_products(self) -> Callable[[Tensor], Tensor]:
        """The same where tasks are in so few subsets that calling for each of them takes longer than the work."""
        layout, trunk = self.layout, self.shifts.trunk.float()[:, None]
        (tasks, subsets), n, m = layout.pairs, self.statistics.n_tasks, len(trunk)
        counts = torch.bincount(tasks, minlength=n)
        most = int(counts.max())
        # pairs are sorted by task: the place of each among those of its task; the rest reads and writes a row of zeros
        place = torch.arange(len(tasks), device=tasks.device) - (counts.cumsum(0) - counts)[tasks]
        rows = torch.full((n, most), m, device=tasks.device)
        rows[tasks, place] = subsets
        mixed, weights = None, None
        if self.mixed is not None:
            q = max(part.shape[1] for part in self.mixed)
            mixed = torch.stack([pad(part, (0, q - part.shape[1])) for part in self.mixed])
            weights = mixed.new_zeros(n, most, q)
            weights[tasks, place] = self.heads.float()[:, :q]

        def product(direction: Tensor) -> Tensor:
            moved = torch.cat([direction, direction.new_zeros(1, direction.shape[1])])[rows]
            part = torch.bmm(moved, self.blocks)
            if mixed is not None and weights is not None:
                part.baddbmm_(torch.bmm(moved, mixed).mul_(weights), mixed.mT, alpha=-1)
            result = torch.zeros(m + 1, direction.shape[1], dtype=direction.dtype, device=direction.device)
            result.index_add_(0, rows.flatten(), part.flatten(0, 1))
            return result[:m].addcmul_(trunk, direction)

        return product

    def _finish(self, answer: Tensor, right: Tensor, left: Tensor) -> Tensor:
        layout, shifts = self.layout.select(left), self.shifts.select(left)
        numbers = torch.nonzero(left)[:, 0]
        for keep in torch.arange(len(numbers), device=left.device).split(256):
            chosen = torch.zeros(len(numbers), dtype=torch.bool, device=left.device)
            chosen[keep] = True
            exact = CholeskySolver.of(self.statistics, layout.select(chosen), shifts.select(chosen))
            answer[numbers[keep]] = exact.trunk(right[numbers[keep]], 0.0)
        return answer

    def select(self, keep: Tensor) -> ConjugateSolver:
        """The solver of some subsets."""
        layout, pairs = self.layout.select(keep), keep[self.layout.pairs[1]]
        parts = (self.blocks, self.mixed, self.precondition, self.levels[keep])
        return ConjugateSolver(self.statistics, layout, self.shifts.select(keep), self.heads[pairs], *parts)


def _levels(statistics: Statistics, layout: Layout, shifts: Shifts) -> Tensor:
    """(m,) number of the strength of each subset's ridge; all 0 where they are too many."""
    strength = (shifts.trunk / examples(statistics, layout)).log().mul(1e6).round()  # equal up to rounding
    found, levels = torch.unique(strength, return_inverse=True)
    return levels if len(found) <= _LEVELS else torch.zeros_like(levels)


def _mean_inverse(statistics: Statistics, layout: Layout, shifts: Shifts) -> Tensor:
    """(d, d) inverse of the mean Hessian for one example of subsets that share the strength of the ridge."""
    scale = examples(statistics, layout)
    share = (layout.mask.double() / scale[:, None]).mean(0)
    mean = torch.tensordot(share, statistics.trunk, 1)
    _, _, mixed, values = statistics.single
    weights = torch.repeat_interleave(share, torch.tensor(statistics.head_widths, device=share.device))
    scaled = mixed * (weights / (values + shifts.heads.median())).sqrt().float()
    mean -= (scaled @ scaled.mT).double()
    mean.diagonal().add_((shifts.trunk / scale).mean())
    inverse = torch.linalg.inv(mean)
    return (0.5 * (inverse + inverse.mT)).float()


def make_solver(method: str, statistics: Statistics, layout: Layout, shifts: Shifts) -> ArrowSolver:
    """The solver of a concrete method, ``"cholesky"`` or ``"conjugate"``."""
    ways: dict[str, Callable[[Statistics, Layout, Shifts], ArrowSolver]] = {
        "cholesky": CholeskySolver.of,
        "conjugate": ConjugateSolver.of,
    }
    return ways[method](statistics, layout, shifts)


def choose_method(method: str, statistics: Statistics, layout: Layout, shifts: Shifts, products: int = ONE_STEP) -> str:
    """``"cholesky"`` or ``"conjugate"``; ``"auto"`` stands for the faster one that is accurate.

    Args:
        method: one of the two, or ``"auto"``.
        statistics: of the training features.
        layout: which subset holds which task.
        shifts: the ridge.
        products: products that conjugate gradients are expected to take in all.

    Raises:
        SettingError: when the method is unknown.
    """
    choice(method, "method", METHODS)
    if method != "auto":
        return method
    uniform = bool((shifts.heads == shifts.heads[:1]).all())
    if (uniform and statistics.width <= CROSSOVER) or _factors_pay(statistics, layout, shifts, products):
        return "cholesky"
    traces = layout.mask.double() @ statistics.trunk.diagonal(dim1=1, dim2=2).sum(1)
    return "conjugate" if bool((traces / shifts.trunk).max() < CONDITION) else "cholesky"


def _factors_pay(statistics: Statistics, layout: Layout, shifts: Shifts, products: int) -> bool:
    """Whether Cholesky factors take less time than conjugate gradients, by multiply-adds in double precision."""
    uniform = bool((shifts.heads == shifts.heads[:1]).all())
    (m, n), d, pairs = layout.mask.shape, statistics.width, layout.pairs[1].shape[0]
    widths = sum(statistics.head_widths)
    forming = (n * d**2 if uniform else 0) + m * n * d**2 / 4
    forming += d**2 * widths * (len(torch.unique(shifts.heads)) if uniform else pairs / n)
    levels = 1 + int(_levels(statistics, layout, shifts).max())
    preparing = levels * (n * d**2 + d**2 * widths / 2 + 2 * d**3) + (d**2 * widths if uniform else 0)
    product = pairs * (d**2 + (0 if uniform else 2 * d * widths / n)) / 2 + n * _OVERHEAD
    return forming + m * d**3 < preparing + products * product


def bytes_each(method: str, statistics: Statistics) -> int:
    """Memory of a subset while its systems are solved."""
    d = statistics.width
    return 24 * (d * d + 1) if method == "cholesky" else 64 * (d + 1)
