"""The clustering SDP of Peng and Wei, as used by Grad-TAG, with a certified bound."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coterie._progress import Progress, silent
from coterie._surface import known_arguments, warn
from coterie.errors import NumericsWarning, SettingError
from coterie.grouping.matrix import FloatArray, IntArray, as_square, as_symmetric, check_count, check_finite
from coterie.grouping.sdp.admm import POLISH, Iteration, Residuals, SdpSolution
from coterie.grouping.sdp.eigen import centre, orthonormal
from coterie.grouping.sdp.scaling import (
    Lift,
    Scaled,
    bound_of_state,
    lift,
    nearest_partition,
    row_blocks,
    scale,
    value_of_partition,
)


@dataclass(frozen=True, eq=False)
class Primal:
    """A feasible solution: (T, T) X in float64, its value in the units of U (price included), and its trace."""

    X: FloatArray
    value: float
    trace: float


def feasible(problem: Scaled, rows: NDArray[Any], weights: FloatArray, *, lifting: bool = True) -> Primal:
    """The best of three feasible solutions near ee'/T + rows' diag(weights) rows, whose entries may be negative.

    * Mixed with the solution that treats all tasks alike, just enough to make every entry nonnegative.
    * Its nonnegative part with row sums scaled to 1, made positive semidefinite by a multiple of the identity.
    * The partition that its rows fall into, when they fall into about as many clusters as there are groups.

    Args:
        problem: the scaled problem.
        rows: (r, T) eigenvectors on the complement of e, orthonormal up to the rounding of their type.
        weights: (r,) eigenvalues, 0..1, in the trace form with sum k - 1.
        lifting: also try the second, which takes most of the time.
    """
    root = np.sqrt(weights)[:, None] * orthonormal(centre(rows.astype(np.float64)))
    x = form(root)
    trace = 1.0 + float(weights.sum())
    value = inner(problem, x) - problem.price * trace
    short = max(0.0, -float(x.min()))
    best, mixed = _mixture(problem, value, trace, short)
    labels = nearest_partition(root, problem.k or round(trace))
    if labels is not None:
        found = value_of_partition(problem, labels)
        if found >= best:
            return _partition(problem, labels, found)
    if short == 0.0:
        return Primal(x, value, trace)
    towards, share = mixed
    if lifting:
        made = lift(problem, x)
        if made is not None and made.value > best:
            return _lifted(problem, x, made)
        x = form(root)  # the lift has overwritten it
    return _blend(problem, x, share, towards, trace)


def form(root: FloatArray) -> FloatArray:
    """ee'/T + root' root."""
    n = root.shape[1]
    x = np.empty((n, n))
    for which in row_blocks(n, 1 << 19):
        np.matmul(root[:, which].T, root, out=x[which])
    x += 1 / n
    return x


def inner(problem: Scaled, x: FloatArray) -> float:
    """<U, X>."""
    return float(sum(np.vdot(problem.rows(which), x[which]) for which in row_blocks(problem.n)))


def _mixture(problem: Scaled, value: float, trace: float, short: float) -> tuple[float, tuple[float, float]]:
    """Best value of (1-t) X + t X0 with nonnegative entries, and the trace of X0 with t.

    X0 treats all tasks alike. Its trace is that of X or, where the trace is free, also 1, which has larger entries.
    """
    n, options = problem.n, list[tuple[float, tuple[float, float]]]()
    for towards in (trace,) if problem.k is not None else (trace, 1.0):
        smallest = (1 - (towards - 1) / (n - 1)) / n
        if smallest + short > 0:
            share = short / (short + max(smallest, 0.0))
            options.append(((1 - share) * value + share * problem.uniform(towards), (towards, share)))
    return max(options)


def _blend(problem: Scaled, x: FloatArray, share: float, towards: float, trace: float) -> Primal:
    """(1-t) X + t X0, in place."""
    n = problem.n
    spread = (towards - 1) / (n - 1)
    x *= 1 - share
    x += share * (1 - spread) / n
    x.flat[:: n + 1] += share * spread
    np.maximum(x, 0.0, out=x)  # rounding only
    trace = (1 - share) * trace + share * towards
    return Primal(x, inner(problem, x) - problem.price * trace, trace)


def _lifted(problem: Scaled, z: FloatArray, made: Lift) -> Primal:
    """a z + b I + c ee'/T, in place."""
    n = problem.n
    z *= made.a
    z += made.c / n
    z.flat[:: n + 1] += made.b
    trace = float(np.trace(z))
    return Primal(z, inner(problem, z) - problem.price * trace, trace)


def _partition(problem: Scaled, labels: IntArray, value: float) -> Primal:
    """1 / size within groups, 0 elsewhere."""
    sizes = np.bincount(labels)
    x = np.empty((problem.n, problem.n))
    for which in row_blocks(problem.n, 1 << 19):
        x[which] = (labels[which, None] == labels) / sizes[labels[which]][:, None]
    return Primal(x, value, float(len(sizes)))


#: up to so many tasks, and for tolerances below, the state is kept in float64
_DOUBLE, _FINE = 150, 2e-4
#: measured work in units of T^2: a look at the certificate takes LOOK * T and some steps, a step PASSES and 8 for each
#: eigenvector
LOOK, PASSES = 8, 300
#: the first look is taken, whatever it promises, after so many steps that took so many times as long as it
UNSEEN, FIRST = 300, 8
#: the first look is taken when the smallest entry would cost so many times the gap that is asked for: a few steps
#: towards nonnegative entries win that back
PROMISING = 15
#: a feasible solution is looked for at so much of the gap that is asked for
MARGIN = 0.98


@known_arguments
def solve_sdp(
    matrix: ArrayLike,
    k: int | None = None,
    *,
    penalty: float | None = None,
    eps: float | None = None,
    max_iters: int | None = None,
    time_limit: float | None = None,
    start: SdpSolution | None = None,
    progress: Progress | None = None,
) -> SdpSolution:
    """Maximise <A, X> over X e = e, X >= 0, X PSD, with tr X = k or less penalty * tr X.

    Args:
        matrix: (T, T) affinity, larger is better; only its symmetric part counts.
        k: number of groups, 1..T. Give either `k` or `penalty`.
        penalty: price of a group, in the units of the matrix. 0 bounds the sum of densities for any number of groups.
        eps: largest certified gap, relative to the range (:attr:`SdpSolution.gap`). Default 1e-6 up to 20 tasks, 1e-5
            up to 60, 1e-4 up to 150, 1e-3 up to 500, then T / 250,000 up to 1.5e-2.
        max_iters: steps at most. Default 20,000 up to 150 tasks, 3,000 above.
        time_limit: seconds after which the best solution so far is returned. Default: none.
        start: an earlier solution for the same tasks, for another k, price or a matrix that differs a little.
        progress: called as ``progress(stage, steps, 0)``.

    Returns:
        A feasible solution with a certified bound: for any N >= 0, e'(A+N)e/T plus the sum of the k-1 largest
        eigenvalues of A+N on the complement of e bounds the relaxation (see :mod:`coterie.grouping.objective`); N is
        the solver's multiplier.

    Warns:
        NumericsWarning: the solver stopped before it reached `eps`.

    Raises:
        SettingError: `k`, `penalty`, `start` or the matrix cannot be used.

    Cost:
        See benchmarks/sdp.py. Three (T, T) matrices of float32 above 150 tasks; the certificate takes two of float64
        for a while.

    Source:
        Peng and Wei, SIAM J. Optim. 18 (2007); arXiv 2409.06091. The authors' <max(A)-A, X> has the same solution since
        <ee', X> = T for every feasible X. The solver is the two-block alternating direction method of multipliers
        (Boyd et al., 2011) on the Fantope (Vu et al., NIPS 2013) and the nonnegative orthant.

    Example:
        >>> blocks = np.kron(np.eye(2), np.ones((3, 3)))
        >>> solution = solve_sdp(blocks, k=2)
        >>> round(solution.value, 4), round(float(solution.X[0, 1]), 4), round(float(solution.X[0, 5]), 4) + 0.0
        (6.0, 0.3333, 0.0)
    """
    given = _read(matrix)
    n = len(given)
    _check(n, k, penalty, eps, start)
    _check_limits(max_iters, time_limit)
    problem = scale(given, k, penalty or 0.0)
    closed = _closed_form(problem)
    if closed is not None:
        return closed
    target = _default_eps(n) if eps is None else eps
    steps = (20_000 if n <= _DOUBLE else 3_000) if max_iters is None else max_iters
    run = _Solve(problem, target, steps, time_limit, progress or silent)
    iteration = Iteration(problem, np.float64 if n <= _DOUBLE or target < _FINE else np.float32, start and start.start)
    solution = run.through(iteration)
    if solution.status != "optimal":
        warn(
            f"The grouping SDP of {n} tasks stopped after {solution.iterations} steps before it reached "
            f"eps={target:g}: its certified gap is {solution.gap:.2g}. Its groups may be worse than they could be; the "
            "reported bound stays valid. Raise `max_iters` or `time_limit`, or `eps`.",
            NumericsWarning,
        )
    return solution


def _read(matrix: ArrayLike) -> FloatArray:
    """The symmetric part, of finite numbers; the matrix itself when it is symmetric: large ones are not copied."""
    is_ready = type(matrix) is np.ndarray and matrix.dtype == np.float64 and matrix.ndim == 2
    given: FloatArray = np.asarray(matrix) if is_ready and len(np.asarray(matrix)) > 1 else as_square(matrix)
    given = given if given.shape[0] == given.shape[1] else as_square(given)
    return as_symmetric(check_finite(given, [f"task {i}" for i in range(len(given))]))


def _check(n: int, k: int | None, penalty: float | None, eps: float | None, start: SdpSolution | None) -> None:
    """Exactly one of the two forms, within its range."""
    if (k is None) == (penalty is None):
        raise SettingError(f"Give either `k` or `penalty` to solve_sdp. Found k={k!r} and penalty={penalty!r}.")
    if k is not None:
        check_count("k", k, n)
    if penalty is not None and not np.isfinite(penalty):
        raise SettingError(f"Parameter `penalty` should be a finite number. Found {penalty!r}.")
    if eps is not None and not eps > 0:
        raise SettingError(f"Parameter `eps` should be a positive gap relative to the range. Found {eps!r}.")
    if start is not None and len(start.X) != n:
        raise SettingError(
            f"Parameter `start` should be a solution for the same {n} tasks. Found one for {len(start.X)}. Leave it "
            "out for other tasks."
        )


def _check_limits(max_iters: int | None, time_limit: float | None) -> None:
    """Limits that leave the solver nothing to do."""
    if max_iters is not None and (isinstance(max_iters, bool) or max_iters < 1):
        raise SettingError(f"Parameter `max_iters` should be a whole number, at least 1. Found {max_iters!r}.")
    if time_limit is not None and not time_limit > 0:
        raise SettingError(f"Parameter `time_limit` should be a positive number of seconds. Found {time_limit!r}.")


def _default_eps(n: int) -> float:
    """Smaller problems are solved more finely; larger ones cost more a step and are rounded anyway."""
    return (
        1e-6 if n <= 20 else 1e-5 if n <= 60 else 1e-4 if n <= 150 else 1e-3 if n <= 500 else min(n / 250_000, 1.5e-2)
    )


def _closed_form(problem: Scaled) -> SdpSolution | None:
    """One group, one group a task, or a matrix for which all solutions with the same trace are worth the same."""
    n, k = problem.n, problem.k
    scale_of_entries = float(np.abs(problem.mean).max()) + abs(problem.price) + 1.0
    flat = problem.norm <= 1e-13 * scale_of_entries * n
    if k in (1, n) or flat:
        trace = float(k) if k is not None else (1.0 if problem.price >= 0 else float(n))
        spread = (trace - 1) / (n - 1)
        X = np.full((n, n), (1 - spread) / n)
        X.flat[:: n + 1] += spread
        value = problem.uniform(trace)
        slack = problem.rounding + (1e-13 * scale_of_entries * n * n if flat else 0.0)
        bound = problem.bound_in_units_of_given(value + slack)
        return SdpSolution(X, problem.in_units_of_given(value), "closed form", bound, trace)
    return None


def _step_work(iteration: Iteration) -> float:
    """Work of a step in units of T^2."""
    return PASSES + 8 * iteration.wanted


@dataclass
class _Best:
    """The best of both sides so far, in the units of U; X can be made again from what it was made of."""

    bound: float
    value: float
    trace: float
    rows: NDArray[Any]
    weights: FloatArray

    def range(self, problem: Scaled) -> float:
        """Bound less the worth of treating all tasks alike.

        That is 0 where all solutions are worth the same (a multiple of the identity, or a price that leaves one group):
        then a small part of the norm, or the root mean square eigenvalue, takes its place.
        """
        floor = problem.norm / problem.n if problem.k is not None else problem.norm / np.sqrt(problem.n)
        return max(self.bound - problem.uniform(self.trace), floor)

    def gap(self, problem: Scaled) -> float:
        """Relative to the range."""
        width = self.range(problem)
        return max(self.bound - self.value, 0.0) / width if width > 0 else 0.0


class _Solve:
    """One solve: when to look at the certificate, and when to stop."""

    def __init__(self, problem: Scaled, eps: float, steps: int, seconds: float | None, say: Progress) -> None:
        self.problem, self.eps, self.steps, self.say = problem, eps, steps, say
        self.deadline = np.inf if seconds is None else time.monotonic() + seconds
        self.every = 10 if problem.n <= 1000 else 20
        self.best: _Best | None = None
        self.primal: Primal | None = None  # of the last look; one matrix of float64 is enough
        self.looked_at, self.gap_then, self.loss_then, self.work = 0, np.inf, np.inf, 0.0

    def through(self, iteration: Iteration) -> SdpSolution:
        """Iterate until the certified gap is small enough."""
        done, balanced = 0, 0
        for done in range(1, self.steps + 1):
            last = done == self.steps
            residuals = iteration.step(measure=done % self.every == 0 or last)
            self.work += _step_work(iteration)
            if residuals is None:
                continue
            self.say("grouping: SDP", done, 0)
            last = last or time.monotonic() > self.deadline
            worth = last or self._worth_a_look(done, iteration, residuals)
            if (worth and self._look(iteration, done, residuals, last=last) <= self.eps) or last:
                break
            if done >= 1.5 * balanced or (done % 20 == 0 and done <= 400):
                iteration.balance(residuals)
                balanced = done
        return self._solution(iteration, done)

    def _loss(self, residuals: Residuals) -> float:
        """Share of X that mixing in the uniform solution would take: an estimate of the gap, from below mostly."""
        short = max(-residuals.smallest, 0.0)
        return short / (short + 1 / self.problem.n)

    def _worth_a_look(self, done: int, iteration: Iteration, residuals: Residuals) -> bool:
        """Whether the certificate may be good enough, judged by the last one and by how X has become since.

        After steps that took twice as long as a look it is taken anyway, since the bound may be what has improved; the
        first time only after 300 steps that took eight times as long.
        """
        loss, look = self._loss(residuals), LOOK * self.problem.n + POLISH * _step_work(iteration)
        if self.best is None:  # an entry may stay negative for long where few tasks decide, and the gap be small
            return loss < PROMISING * self.eps or (done >= UNSEEN and self.work > FIRST * look)
        if done < self.looked_at + 2 * self.every:
            return False
        expected = self.gap_then * loss / max(self.loss_then, 1e-300)
        return expected < self.eps or self.work > 2 * look

    def _look(self, iteration: Iteration, done: int, residuals: Residuals, *, last: bool) -> float:
        """Certify both sides, keep the better of each, and return the gap."""
        problem, self.primal = self.problem, None
        bound = bound_of_state(problem, iteration.state, iteration.weight)
        rows, weights = iteration.vectors.copy(), iteration.weights
        best = self._keep(bound, feasible(problem, rows, weights, lifting=False), rows, weights)
        self.gap_then = best.gap(problem)
        if self.gap_then > self.eps:
            goal = best.bound - MARGIN * self.eps * best.range(problem)
            rows, weights, value = iteration.polished(None if last else goal)
            self.gap_then = min(self.gap_then, max(best.bound - value, 0.0) / best.range(problem))
            for lifting in (False, True) if value >= goal or last else ():
                if best.gap(problem) > self.eps:
                    self.primal = None
                    best = self._keep(bound, feasible(problem, rows, weights, lifting=lifting), rows, weights)
        self.looked_at, self.loss_then, self.work = done, self._loss(residuals), 0.0
        return best.gap(problem)

    def _keep(self, bound: float, primal: Primal, rows: NDArray[Any], weights: FloatArray) -> _Best:
        """Note what is better than what is known."""
        self.primal = primal
        if self.best is None:
            self.best = _Best(bound, primal.value, primal.trace, rows, weights)
        self.best.bound = min(bound, self.best.bound)
        if primal.value > self.best.value:
            self.best = _Best(self.best.bound, primal.value, primal.trace, rows, weights)
        return self.best

    def _solution(self, iteration: Iteration, done: int) -> SdpSolution:
        """In the units of the given matrix."""
        problem, best = self.problem, self.best
        assert best is not None  # noqa: S101
        gap = best.gap(problem)
        if gap > self.eps:
            best.bound = min(best.bound, bound_of_state(problem, None, 0.0))
        primal = self.primal
        if primal is None or primal.value < best.value:
            primal = feasible(problem, best.rows, best.weights)
        status = "optimal" if best.gap(problem) <= self.eps else "optimal_inaccurate"
        self.say("grouping: SDP", done, done)
        return SdpSolution(
            X=primal.X,
            value=problem.in_units_of_given(primal.value),
            status=status,
            bound=problem.bound_in_units_of_given(best.bound),
            trace=primal.trace,
            iterations=done,
            range=problem.factor * best.range(problem),
            gap=best.gap(problem),
            start=iteration.warm(),
        )
