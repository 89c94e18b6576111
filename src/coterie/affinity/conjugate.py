"""Conjugate gradients for many subsets at once: no subset ever has a matrix of its own.

Multiplying the Hessians of all subsets with a vector each takes one matrix product a task, shared by all subsets with
that task. With the mean Hessian of the subsets as preconditioner about ten products are enough, several times less
work than a Cholesky factor of every subset once there are more than about a hundred directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.affinity.arrow import ArrowSolver, CholeskySolver, Shifts, examples, inverse_heads, reduced_blocks
from coterie.affinity.layout import Layout
from coterie.affinity.statistics import Statistics
from coterie.errors import SettingError

#: from here on conjugate gradients are faster than Cholesky factors
CROSSOVER = 96
METHODS = ("auto", "cholesky", "conjugate")
_LIMIT = 60
_FEW = 64
#: condition number up to which float32 is good enough
_CONDITION = 1e5


@dataclass(frozen=True, eq=False)
class ConjugateSolver(ArrowSolver):
    """Iterative, in float32; subsets that do not converge are handed to Cholesky.

    Attributes:
        blocks: (T, d, d) trunk blocks, with the heads eliminated where all subsets share one shift.
        mixed: T tensors (d, q_t) to eliminate the heads with at each product; None where that is done.
        precondition: (d, d) inverse of the mean Hessian for one example.
        scale: (m,) examples of each subset.
    """

    blocks: Tensor
    mixed: tuple[Tensor, ...] | None
    precondition: Tensor
    scale: Tensor

    @staticmethod
    def of(statistics: Statistics, layout: Layout, shifts: Shifts) -> ConjugateSolver:
        """Prepare: cost and memory do not depend on the number of subsets but for vectors."""
        heads = inverse_heads(statistics, layout, shifts)
        scale = examples(statistics, layout)
        reduced = reduced_blocks(statistics, shifts.heads.median())
        share = (layout.mask.double() / scale[:, None]).mean(0)
        mean = torch.tensordot(share, reduced, 1)
        mean.diagonal().add_((shifts.trunk / scale).mean())
        inverse = torch.linalg.inv(mean)
        uniform = bool((shifts.heads == shifts.heads[0]).all())
        mixed = None if uniform else tuple(part[2].float() for part in statistics.eigen)
        blocks = (reduced if uniform else statistics.trunk).float()
        scaled = (0.5 * (inverse + inverse.mT)).float()
        return ConjugateSolver(statistics, layout, shifts, heads, blocks, mixed, scaled, scale)

    def trunk(self, right: Tensor, tolerance: float) -> Tensor:
        """Preconditioned conjugate gradients until the residual of every subset is `tolerance` of what it was."""
        residual = right.float()
        answer = torch.zeros_like(residual)
        size = (residual.square().sum(1, keepdim=True) + 1e-30).sqrt()  # keeps float32 squares in range
        residual = residual / size
        steered = residual @ self.precondition
        old = (residual * steered).sum(1, keepdim=True)
        goal = tolerance**2 * old
        direction = steered
        left = goal[:, 0] > 0
        for _ in range(_LIMIT):
            product = self._product(direction)
            length = old / (direction * product).sum(1, keepdim=True).clamp_min(1e-30)
            answer = torch.addcmul(answer, length, direction)
            residual = torch.addcmul(residual, length, product, value=-1)
            steered = residual @ self.precondition
            new = (residual * steered).sum(1, keepdim=True)
            left = (new > goal)[:, 0]
            if not bool(left.any()):
                return (answer * size).to(right.dtype)
            direction = torch.addcmul(steered, new / old.clamp_min(1e-30), direction)
            old = new
        return self._finish((answer * size).to(right.dtype), right, left)

    def _product(self, direction: Tensor) -> Tensor:
        """(m, d): the Schur complement of each subset times its direction."""
        result = self.shifts.trunk.float()[:, None] * direction
        for task in range(self.statistics.n_tasks):
            subsets = self.layout.subsets_of(task)
            if not len(subsets):
                continue
            moved = direction[subsets]
            part = moved @ self.blocks[task]
            if self.mixed is not None and self.mixed[task].shape[1]:
                mixed = self.mixed[task]
                weights = self.heads[self.layout.pairs_of(task), : mixed.shape[1]].float()
                part = torch.addmm(part, weights * (moved @ mixed), mixed.mT, alpha=-1)
            result.index_add_(0, subsets, part)
        return result

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
        parts = (self.blocks, self.mixed, self.precondition, self.scale[keep])
        return ConjugateSolver(self.statistics, layout, self.shifts.select(keep), self.heads[pairs], *parts)


def make_solver(method: str, statistics: Statistics, layout: Layout, shifts: Shifts) -> ArrowSolver:
    """The solver of a concrete method, ``"cholesky"`` or ``"conjugate"``."""
    ways: dict[str, Callable[[Statistics, Layout, Shifts], ArrowSolver]] = {
        "cholesky": CholeskySolver.of,
        "conjugate": ConjugateSolver.of,
    }
    return ways[method](statistics, layout, shifts)


def choose_method(method: str, statistics: Statistics, layout: Layout, shifts: Shifts) -> str:
    """``"cholesky"`` or ``"conjugate"``; ``"auto"`` stands for the faster one that is accurate.

    Raises:
        SettingError: when the method is unknown.
    """
    if method not in METHODS:
        raise SettingError(f"Parameter `method` should be one of {METHODS}. Found {method!r}.")
    if method != "auto":
        return method
    if statistics.width <= CROSSOVER or layout.mask.shape[0] <= _FEW:
        return "cholesky"
    traces = layout.mask.double() @ statistics.trunk.diagonal(dim1=1, dim2=2).sum(1)
    return "conjugate" if bool((traces / shifts.trunk).max() < _CONDITION) else "cholesky"


def bytes_each(method: str, statistics: Statistics) -> int:
    """Memory of a subset while its systems are solved."""
    d = statistics.width
    return 24 * (d * d + 1) if method == "cholesky" else 64 * (d + 1)
