"""Offset regression iterated to the optimum, for all subsets at once.

Every pass makes two matrix products a task, shared by all subsets with that task: one for the margins, one for the
gradients. Between passes each subset takes a quasi-Newton step (L-BFGS) whose initial matrix is its own Hessian at the
base model, with its own step length; subsets that have arrived leave. So a handful of passes is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._surface import warn
from coterie.affinity.blocks import Layout, Penalty, Point, Statistics, TaskBlock
from coterie.affinity.conjugate import ITERATED, ArrowSolver, Shifts, bytes_each, choose_method, examples, make_solver
from coterie.affinity.newton import (
    Solution,
    base_gradient,
    check_layout,
    chunks,
    margins,
    pairs_each,
    ridges,
    tile_rows,
)
from coterie.errors import NumericsWarning, SettingError

_FLAT = Penalty()
_HISTORY = 6
#: an estimated gap must be this much below the tolerance, because the estimate may be low
_SAFETY = 4.0
_LEAST_STEP = 1e-8
#: relative residual of the inner solves: more would not save a pass
_RESIDUAL = 1e-2


@dataclass(frozen=True)
class Stopping:
    """When the fit of a subset is done.

    Args:
        tolerance: the objective is estimated to be within ``tolerance * max(1, base loss)`` of its minimum; with
            float32 features 1e-7 is about the least that can be reached.
        max_steps: passes over the training features at most.
    """

    tolerance: float = 1e-6
    max_steps: int = 50

    def __post_init__(self) -> None:
        if not (self.tolerance > 0 and self.max_steps >= 1):
            raise SettingError(
                f"`tolerance` and `max_steps` should be positive. Found {self.tolerance}, {self.max_steps}."
            )


_USUAL = Stopping()


def iterate(
    statistics: Statistics,
    blocks: Sequence[TaskBlock],
    subsets: NDArray[np.bool_],
    ridge: float | Sequence[float] | NDArray[np.float64],
    *,
    penalty: Penalty = _FLAT,
    method: str = "auto",
    stopping: Stopping = _USUAL,
    memory: int = 2**30,
) -> Solution:
    """The optimum of every subset's objective, starting with the Newton step of :func:`coterie.affinity.newton.solve`.

    Args:
        statistics: of `blocks`; says also whether base margins are used.
        blocks: training block of each task.
        subsets: bool (m, T).
        ridge: lambda, one number or one a subset.
        penalty: weights of the ridge.
        method: how the base Hessian is solved with, see :func:`coterie.affinity.newton.solve`.
        stopping: when a subset is done.
        memory: bytes that may be used at a time; the subsets are cut into chunks that fit.

    Returns:
        the solution with ``objective``, ``gap`` (estimated) and ``bound`` (proven) of every subset.

    Warns:
        NumericsWarning: when subsets did not arrive within so many steps, or could not get nearer.

    Cost: a pass is ``4 n_t (d + q_t)`` multiply-adds for every subset with task t.
    """
    layout = check_layout(statistics, subsets)
    lambdas = ridges(ridge, layout)
    d, q = statistics.width, max(statistics.head_widths)
    m = layout.mask.shape[0]
    shifts = Shifts.of(statistics, layout, lambdas, penalty)
    method = choose_method(method, statistics, layout, shifts, ITERATED)
    vectors = 8 * (d + pairs_each(layout) * q) * (2 * _HISTORY + 10)
    problem = _Problem(statistics, blocks)
    result = _Result.zeros(layout, d, q)
    steps = left = 0
    for keep in chunks(layout, bytes_each=bytes_each(method, statistics) + vectors, memory=memory):
        part = layout.select(keep)
        shifts = Shifts.of(statistics, part, lambdas[keep], penalty)
        solver = make_solver(method, statistics, part, shifts)
        outcome, used, failed = _minimise(problem, part, solver, stopping)
        result.put(keep, outcome, layout)
        steps, left = max(steps, used), left + failed
    if left:
        warn(
            f"{left} of {m} subsets did not come within {stopping.tolerance:g} of the optimum in {stopping.max_steps} "
            f"steps (largest estimated gap {float(result.gap.max()):.1e}). Use more steps, a larger ridge or float64 "
            "features.",
            NumericsWarning,
        )
    known = (result.objective, result.gap, result.bound, steps)
    return Solution(layout, result.point, lambdas, penalty, statistics.head_widths, *known)


@dataclass(frozen=True, eq=False)
class _Problem:
    """The training data of all tasks."""

    statistics: Statistics
    blocks: Sequence[TaskBlock]

    @property
    def slack(self) -> float:
        """Relative error of an objective in the type of the features."""
        return 2e-7 if self.blocks[0].offset.dtype == torch.float32 else 1e-13

    def evaluate(self, point: Point, layout: Layout, shifts: Shifts) -> tuple[Tensor, Point]:
        """Summed objective (m,) and its gradient at a point; one pass over the features."""
        ridge = shifts.apply(point, layout)
        value = 0.5 * ridge.dot(point, layout)
        for task, block in enumerate(self.blocks):
            subsets, pairs = layout.subsets_of(task), layout.pairs_of(task)
            q = block.head.shape[1]
            for part in block.chunks(tile_rows(len(subsets))) if len(subsets) else ():
                margin = margins(part, point, layout, task, offset=self.statistics.offset)
                first = part.loss.first(margin, part.targets)
                value.index_add_(0, subsets, part.loss.value(margin, part.targets).sum(1, dtype=torch.float64))
                ridge.u.index_add_(0, subsets, first @ part.g)
                ridge.w[pairs, :q] += first @ part.head
        return value, ridge


@dataclass(eq=False)
class _Result:
    """What is known of every subset of a layout."""

    point: Point
    objective: Tensor
    gap: Tensor
    bound: Tensor

    @staticmethod
    def zeros(layout: Layout, d: int, q: int) -> _Result:
        nothing = torch.zeros(layout.mask.shape[0], dtype=torch.float64, device=layout.mask.device)
        return _Result(Point.zeros(layout, d, q), nothing, nothing.clone(), nothing.clone())

    def put(self, keep: Tensor, part: _Result, layout: Layout) -> None:
        """Write the results of the subsets in `keep`."""
        self.point.put(keep, part.point, layout)
        self.objective[keep], self.gap[keep], self.bound[keep] = part.objective, part.gap, part.bound


@dataclass(eq=False)
class _State:
    """The subsets that are still under way, each at its own point with its own direction and step length."""

    layout: Layout
    shifts: Shifts
    base: ArrowSolver
    examples: Tensor
    goal: Tensor
    number: Tensor
    point: Point
    value: Tensor
    gradient: Point
    direction: Point = field(init=False)
    slope: Tensor = field(init=False)
    length: Tensor = field(init=False)
    history: list[tuple[Point, Point, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.length = torch.ones_like(self.value)
        self.aim()

    def aim(self) -> None:
        """The quasi-Newton direction from the history; the base Hessian where it does not lead down."""
        layout, q = self.layout, self.gradient
        factors: list[Tensor] = []
        for s, y, weight in reversed(self.history):
            factors.append(weight * s.dot(q, layout))
            q = q.step(-factors[-1], y, layout)
        q = self.base.solve(q, _RESIDUAL)
        for (s, y, weight), first in zip(self.history, reversed(factors), strict=True):
            q = q.step(first - weight * y.dot(q, layout), s, layout)
        slope = -q.dot(self.gradient, layout)
        wrong = ~(slope <= 0)
        if bool(wrong.any()):
            q = self.base.solve(self.gradient, _RESIDUAL).where(wrong, q, layout)
            slope = -q.dot(self.gradient, layout)
        self.direction, self.slope = q.scaled(-torch.ones_like(slope), layout), slope

    def advance(self, problem: _Problem) -> Tensor:
        """One pass: try the step of every subset, keep or shorten it. Returns which were kept (m,)."""
        trial = self.point.step(self.length, self.direction, self.layout)
        value, gradient = problem.evaluate(trial, self.layout, self.shifts)
        expected = self.length * self.slope
        kept = value <= self.value + 1e-4 * expected + problem.slack * self.value.abs()
        s, y = trial.minus(self.point), gradient.minus(self.gradient)
        curvature = s.dot(y, self.layout)
        useful = kept & (curvature > 1e-10 * expected.abs())
        weight = torch.where(useful, 1.0 / curvature, torch.zeros_like(curvature))
        if not bool(useful.all()):  # a failed trial may hold infinities: keep them out of the products
            empty = Point(torch.zeros_like(y.u), torch.zeros_like(y.w))
            s, y = s.where(useful, empty, self.layout), y.where(useful, empty, self.layout)
        self.history.append((s, y, weight))
        del self.history[:-_HISTORY]
        shorter = torch.nan_to_num(-0.5 * expected / (value - self.value - expected), nan=0.1, posinf=0.1, neginf=0.1)
        self.length = torch.where(kept, torch.ones_like(value), self.length * shorter.clamp(0.1, 0.5))
        self.point = trial.where(kept, self.point, self.layout)
        self.gradient = gradient.where(kept, self.gradient, self.layout)
        self.value = torch.where(kept, value, self.value)
        self.aim()
        return kept

    def gaps(self) -> tuple[Tensor, Tensor]:
        """Estimated and proven distance of the mean objective from its minimum, (m,) each.

        The objective is strongly convex with the ridge as modulus, which bounds its distance by the squared gradient;
        this is also the duality gap of the fit.
        """
        estimate = -0.5 * self.slope / self.examples
        heads = self.layout.sum_pairs(self.gradient.w.square().sum(1)) / self.shifts.heads
        bound = 0.5 * (self.gradient.u.square().sum(1) / self.shifts.trunk + heads) / self.examples
        return torch.minimum(estimate, bound), bound

    def result(self, keep: Tensor) -> _Result:
        """What is known of some of the subsets."""
        gap, bound = self.gaps()
        objective = (self.value / self.examples)[keep]
        return _Result(self.point.select(keep, self.layout), objective, gap[keep], bound[keep])

    def drop(self, gone: Tensor) -> None:
        """Go on without some of the subsets."""
        keep, layout = ~gone, self.layout
        self.point, self.gradient = self.point.select(keep, layout), self.gradient.select(keep, layout)
        self.direction = self.direction.select(keep, layout)
        self.history = [(s.select(keep, layout), y.select(keep, layout), w[keep]) for s, y, w in self.history]
        self.layout, self.base, self.shifts = layout.select(keep), self.base.select(keep), self.shifts.select(keep)
        for name in ("examples", "goal", "number", "value", "slope", "length"):
            setattr(self, name, getattr(self, name)[keep])


def _minimise(problem: _Problem, layout: Layout, solver: ArrowSolver, stopping: Stopping) -> tuple[_Result, int, int]:
    """Minimise all objectives of a layout: the result, the passes made, the number of subsets that did not arrive."""
    statistics = problem.statistics
    count = examples(statistics, layout)
    loss = layout.mask.double() @ statistics.loss
    kind = problem.blocks[0].offset.dtype
    state = _State(
        layout=layout,
        shifts=solver.shifts,
        base=solver,
        examples=count,
        goal=stopping.tolerance * (loss / count).clamp_min(1.0),
        number=torch.arange(len(count), device=count.device),
        point=Point.zeros(layout, statistics.width, max(statistics.head_widths), kind),
        value=loss,
        gradient=base_gradient(statistics, layout, kind),
    )
    result = _Result.zeros(layout, statistics.width, max(statistics.head_widths))
    failed = 0
    for step in range(1, stopping.max_steps + 1):
        kept = state.advance(problem)
        gap, bound = state.gaps()
        arrived = kept & ((gap * _SAFETY <= state.goal) | (bound <= state.goal))
        stuck = state.length < _LEAST_STEP
        leave = arrived | stuck if step < stopping.max_steps else torch.ones_like(arrived)
        failed += int((leave & ~arrived).sum())
        if bool(leave.any()):
            chosen = torch.zeros(len(count), dtype=torch.bool, device=count.device)
            chosen[state.number[leave]] = True
            result.put(chosen, state.result(leave), layout)
            state.drop(leave)
        if not len(state.number):
            return result, step, failed
    return result, stopping.max_steps, failed
