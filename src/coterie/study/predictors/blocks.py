"""Solving with a covariance of one block a target plus what all targets share.

Observations are (run, target). Their covariance is ``D + Z Z'``: D has one block for each target, Z has far fewer
columns than there are observations, since what targets share is a function of the run, or weighed by a number a target.
With ``A = 1 + Z' D^-1 Z``, everything follows from Cholesky factors of the blocks and of A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import blas, cho_solve, cholesky, lapack, solve_triangular  # pyright: ignore[reportUnknownVariableType]

from coterie.study.results import Floats


@dataclass(frozen=True, eq=False)
class BlockSystem:
    """The factored covariance of the observations of T targets.

    Attributes:
        inverses: D_t^-1 of each target, (n_t, n_t).
        shared: Z_t of each target, (n_t, M).
        solved: D_t^-1 Z_t.
        lower: (M, M) lower Cholesky factor of A.
        weights: covariance^-1 observations, by target.
        energy: observations' covariance^-1 observations.
        log_determinant: of the covariance.
    """

    inverses: Sequence[Floats]
    shared: Sequence[Floats]
    solved: Sequence[Floats]
    lower: Floats
    weights: Sequence[Floats]
    energy: float
    log_determinant: float

    @cached_property
    def lower_inverse(self) -> Floats:
        """Inverse of the lower Cholesky factor of A."""
        unit = np.eye(len(self.lower))
        return np.asfortranarray(solve_triangular(self.lower, unit, lower=True, check_finite=False))

    @property
    def log_likelihood(self) -> float:
        """Log density of the observations, without the constant of pi."""
        return -0.5 * (self.energy + self.log_determinant)

    def solve(self, observed: Sequence[Floats]) -> list[Floats]:
        """``covariance^-1 observed`` for several columns of observations, by target (n_t, columns)."""
        halves = [inverse @ y for inverse, y in zip(self.inverses, observed, strict=True)]
        moment = sum((f.T @ y for f, y in zip(self.solved, observed, strict=True)), np.zeros(1))
        through: Floats = cho_solve((self.lower, True), moment, check_finite=False)
        return [half - f @ through for half, f in zip(halves, self.solved, strict=True)]

    def carried(self, weights: Sequence[Floats]) -> Floats:
        """``Z' weights``."""
        start = np.zeros((len(self.lower), *weights[0].shape[1:]))
        return sum((z.T @ w for z, w in zip(self.shared, weights, strict=True)), start)

    def slack(self) -> tuple[list[Floats], list[Floats]]:
        """``covariance^-1 - weights weights'``: its diagonal blocks, and its product with Z, by target.

        Half of it is the derivative of the negative log likelihood by the covariance.
        """
        total = self.carried(self.weights)
        blocks: list[Floats] = []
        products: list[Floats] = []
        inner: Floats = inverse_of(self.lower)
        for inverse, solved, weights in zip(self.inverses, self.solved, self.weights, strict=True):
            through = solved @ inner
            blocks.append(inverse - through @ solved.T - np.outer(weights, weights))
            products.append(through - np.outer(weights, total))
        return blocks, products


def inverse_of(lower: Floats) -> Floats:
    """Inverse of a matrix from its lower Cholesky factor."""
    if not len(lower):
        return lower
    found, _ = lapack.dpotri(lower, lower=1)  # pyright: ignore[reportAttributeAccessIssue]  # made when it is built
    return np.tril(found) + np.tril(found, -1).T


def solve_blocks(blocks: Sequence[Floats], shared: Sequence[Floats], observed: Sequence[Floats]) -> BlockSystem:
    """Factor ``D + Z Z'`` and solve for the observations.

    Args:
        blocks: D_t of each target, (n_t, n_t), positive definite.
        shared: Z_t, (n_t, M).
        observed: (n_t,) observations.

    Raises:
        numpy.linalg.LinAlgError: a block that is not positive definite.

    Cost: ``sum_t (n_t^3 + 2 n_t^2 M + n_t M^2) + M^3 / 3`` multiply-adds.
    """
    columns = shared[0].shape[1]
    inverses: list[Floats] = []
    solved: list[Floats] = []
    inner, moment, energy, logs = np.eye(columns), np.zeros(columns), 0.0, 0.0
    halves: list[Floats] = []
    for block, z, y in zip(blocks, shared, observed, strict=True):
        lower = cholesky(block, lower=True, check_finite=False)
        inverse = inverse_of(lower)
        f = inverse @ z
        half = inverse @ y
        inner += z.T @ f
        moment += z.T @ half
        energy += float(y @ half)
        logs += 2 * float(np.log(np.diag(lower)).sum())
        inverses.append(inverse)
        solved.append(f)
        halves.append(half)
    lower = cholesky((inner + inner.T) / 2, lower=True, check_finite=False)
    through: Floats = cho_solve((lower, True), moment, check_finite=False)
    weights = [half - f @ through for half, f in zip(halves, solved, strict=True)]
    logs += 2 * float(np.log(np.diag(lower)).sum())
    return BlockSystem(inverses, shared, solved, lower, weights, energy - float(moment @ through), logs)


def remaining(inverse: Floats, rows: Floats) -> Floats:
    """(m,) ``v' A^-1 v`` of each row v, from the inverse of the lower Cholesky factor of A."""
    # half the work of a plain product, and twice as fast as solving with the factor
    half = blas.dtrmm(1.0, inverse, rows.T, lower=1)  # pyright: ignore[reportAttributeAccessIssue]  # made when built
    return np.einsum("ij,ij->j", half, half)
