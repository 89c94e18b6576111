"""Offset regression for thousands of subsets at once: the one-step solution and the values that follow from it.

A subset S minimises, over the trunk displacement u and one head displacement w_t for each of its tasks,

    J_S = (1 / N_S) sum_{t in S} sum_x loss_t(h + g.u + head_t.w_t, y) + lambda / 2 (|u|^2 + sum_t |w_t|^2)

where h is the margin of the base model. :func:`solve` takes one Newton step from zero: exact for squared losses, and
independent of the number of examples. :func:`coterie.affinity.refine.iterate` goes on to the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._progress import Progress, silent
from coterie.affinity.blocks import Layout, Penalty, Point, Statistics, TaskBlock
from coterie.affinity.conjugate import Shifts, bytes_each, choose_method, make_solver
from coterie.errors import SettingError

_FLAT = Penalty()
#: margins that are held at a time: few enough to stay in the cache of one core
_TILE = 2**18
_RESIDUAL = 1e-5


@dataclass(frozen=True, eq=False)
class Solution:
    """Displacements of the model of every subset.

    Attributes:
        layout: which subset holds which task.
        point: trunk displacements (m, d) and head displacements, in the units of the features as they were given.
        ridge: (m,) the ridge of every subset.
        penalty: weights of the ridge.
        head_widths: head parameters q_t of each task.
        objective: (m,) J_S there; None where it was not evaluated (after one step).
        gap: (m,) estimate of how far J_S is above its minimum; None where it was not evaluated.
        bound: (m,) proven upper bound of that distance, from the duality gap; None where it was not evaluated.
        steps: passes over the training features.
    """

    layout: Layout
    point: Point
    ridge: Tensor
    penalty: Penalty
    head_widths: tuple[int, ...]
    objective: Tensor | None = None
    gap: Tensor | None = None
    bound: Tensor | None = None
    steps: int = 0

    @property
    def trunk(self) -> Tensor:
        """(m, d) trunk displacements."""
        return self.point.u

    def head(self, task: int) -> tuple[Tensor, Tensor]:
        """Subsets (m_t,) with a task, and the displacement (m_t, q_t) of its head in each."""
        part = self.layout.pairs_of(task)
        return self.layout.subsets_of(task), self.point.w[part, : self.head_widths[task]]


def solve(
    statistics: Statistics,
    subsets: NDArray[np.bool_],
    ridge: float | Sequence[float] | NDArray[np.float64],
    *,
    penalty: Penalty = _FLAT,
    method: str = "auto",
    memory: int = 2**30,
    progress: Progress | None = None,
) -> Solution:
    """One Newton step from the base model, for every subset.

    Args:
        statistics: of the training features.
        subsets: bool (m, T), from :func:`coterie.affinity.as_subsets`.
        ridge: lambda, one number or one a subset.
        penalty: weights of the ridge; ``statistics.penalty()`` acts as if features had mean squared norm 4.
        method: ``"cholesky"`` (exact), ``"conjugate"`` (conjugate gradients in float32, relative residual 1e-5) or
            ``"auto"``: the former for up to 96 directions, few subsets or a tiny ridge, else the latter.
        memory: bytes that may be used for factors at a time.
        progress: called as ``progress("regression", subsets done, subsets)``.

    Raises:
        SettingError: when a ridge is not positive or the shapes do not match.

    Cost: at most ``d^3 / 3`` multiply-adds a subset, whatever the number of examples.

    Example:
        Predict 1 from a feature that is 1, with loss ``(u - 1)^2 + u^2``:

        >>> from coterie.affinity.blocks import compute_statistics
        >>> from coterie.workload import get_loss
        >>> one = torch.ones(3, dtype=torch.float64)
        >>> block = TaskBlock(one[:, None], torch.zeros(3, 0).double(), 0 * one, one, get_loss("regression"))
        >>> solution = solve(compute_statistics([block]), np.array([[True]]), ridge=2.0)
        >>> round(float(solution.trunk[0, 0]), 6), values(solution, [block]).round(6).tolist()
        (0.5, [[0.25]])
    """
    report = progress or silent
    layout = check_layout(statistics, subsets)
    lambdas = ridges(ridge, layout)
    point = Point.zeros(layout, statistics.width, max(statistics.head_widths))
    method = choose_method(method, statistics, layout, Shifts.of(statistics, layout, lambdas, penalty))
    vectors = 32 * (1 + statistics.width + pairs_each(layout) * max(statistics.head_widths))
    for keep in chunks(layout, bytes_each=bytes_each(method, statistics) + vectors, memory=memory):
        part = layout.select(keep)
        solver = make_solver(method, statistics, part, Shifts.of(statistics, part, lambdas[keep], penalty))
        step = solver.solve(base_gradient(statistics, part), _RESIDUAL)
        point.put(keep, Point(-step.u, -step.w), layout)
        report("regression", int(torch.nonzero(keep)[-1]) + 1, layout.mask.shape[0])
    return Solution(layout, point, lambdas, penalty, statistics.head_widths)


def base_gradient(statistics: Statistics, layout: Layout, kind: torch.dtype = torch.float64) -> Point:
    """Gradient of the summed loss of every subset at zero displacement."""
    q = max(statistics.head_widths)
    heads = torch.stack([torch.nn.functional.pad(g, (0, q - g.shape[0])) for g in statistics.head_gradient])
    trunk = layout.mask.double() @ statistics.trunk_gradient
    return Point(trunk.to(kind), heads.to(kind)[layout.pairs[0]])


def values(solution: Solution, blocks: Sequence[TaskBlock]) -> NDArray[np.float64]:
    """Mean loss of every task in every subset, by the linear model: (m, T), NaN where the task is not in the subset.

    Args:
        solution: displacements, from :func:`solve` or ``iterate``.
        blocks: the block of each task in the part of the data to evaluate, e.g. validation. The base margin
            is always used.

    Cost: ``2 n_t (d + q_t)`` multiply-adds for every subset with task t, as one matrix product a task.
    """
    layout = solution.layout
    result = torch.full(layout.mask.shape, torch.nan, dtype=torch.float64, device=layout.mask.device)
    for task, block in enumerate(blocks):
        subsets = layout.subsets_of(task)
        if not len(subsets) or not block.rows:
            continue
        total = torch.zeros(len(subsets), dtype=torch.float64, device=layout.mask.device)
        for part in block.chunks(tile_rows(len(subsets))):
            total += part.loss.value(margins(part, solution.point, layout, task), part.targets).sum(
                1, dtype=torch.float64
            )
        result[subsets, task] = total / block.rows
    return result.cpu().numpy()


def margins(block: TaskBlock, point: Point, layout: Layout, task: int, *, offset: bool = True) -> Tensor:
    """(m_t, n) margins of a task's examples in all subsets with it, in the type of the features."""
    kind = block.offset.dtype
    u = point.u[layout.subsets_of(task)].to(kind)
    w = point.w[layout.pairs_of(task), : block.head.shape[1]].to(kind)
    result = torch.addmm(block.offset, u, block.g.mT) if offset else u @ block.g.mT
    return result.addmm_(w, block.head.mT) if block.head.shape[1] else result


def tile_rows(subsets: int) -> int:
    """Rows to treat at a time when a task is in that many subsets."""
    return max(64, _TILE // max(1, subsets))


def chunks(layout: Layout, *, bytes_each: int, memory: int) -> list[Tensor]:
    """Bool masks (m,) that cut the subsets into chunks of bounded memory."""
    m = layout.mask.shape[0]
    size = max(1, min(m, memory // bytes_each))
    numbers = torch.arange(m, device=layout.mask.device)
    return [(numbers >= start) & (numbers < start + size) for start in range(0, m, size)]


def pairs_each(layout: Layout) -> int:
    """Tasks of a subset, on average, rounded up."""
    return -(-layout.pairs[1].shape[0] // max(1, layout.mask.shape[0]))


def ridges(ridge: float | Sequence[float] | NDArray[np.float64], layout: Layout) -> Tensor:
    """(m,) checked ridges."""
    m = layout.mask.shape[0]
    array = np.asarray(ridge, dtype=np.float64)
    if array.shape not in ((), (m,)):
        raise SettingError(f"Parameter `ridge` should be one number, or one a subset ({m}). Found {array.shape}.")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise SettingError(
            f"Parameter `ridge` should be positive and finite. Found {float(array.min()) if array.size else math.nan}. "
            "Without a ridge the fit of separable labels diverges; use e.g. 1e-6 for almost none."
        )
    return torch.as_tensor(np.broadcast_to(array, (m,)).copy(), device=layout.mask.device)


def check_layout(statistics: Statistics, subsets: NDArray[np.bool_]) -> Layout:
    """The layout of checked subsets."""
    if subsets.dtype != np.bool_ or subsets.ndim != 2 or subsets.shape[1] != statistics.n_tasks:
        raise SettingError(
            f"Parameter `subsets` should be a bool array (m, {statistics.n_tasks}). Found {subsets.dtype} "
            f"{subsets.shape}. Use coterie.affinity.as_subsets."
        )
    if not subsets.any(1).all():
        raise SettingError("Parameter `subsets`: a subset is empty. Every subset needs at least one task.")
    return Layout.from_mask(subsets, statistics.trunk.device)
