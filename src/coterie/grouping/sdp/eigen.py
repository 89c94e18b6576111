"""Leading eigenpairs, on the complement of e, of a matrix that changes a little from step to step."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coterie.grouping.matrix import FloatArray

Rows = NDArray[Any]


class EigenStep(Protocol):
    """One step: the leading eigenpairs of P M P, or good estimates of them."""

    def __call__(self, matrix: Rows, wanted: int) -> tuple[FloatArray, Rows]:
        """(b,) eigenvalues, falling, and (b, T) orthonormal rows; `wanted` of them had a use in the last step."""
        ...

    @property
    def basis(self) -> Rows:
        """(b, T) the rows of the last step."""
        ...


def centre(rows: Rows) -> Rows:
    """Rows less their means, in place: their part on the complement of e."""
    rows -= rows.mean(axis=1, keepdims=True)
    return rows


def orthonormal(rows: Rows) -> Rows:
    """(at most b, T) orthonormal rows with the same span; what depends on the others up to rounding is left out.

    The Gram matrix is taken apart in float64, twice, because once is only good for well-conditioned rows.
    """
    precision = float(np.finfo(rows.dtype).eps)
    for _ in range(2):
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        rows = rows[norms > 0] / norms[norms > 0, None]
        if not len(rows):
            return rows
        gram = (rows @ rows.T).astype(np.float64)
        try:
            factor = np.linalg.cholesky(gram)
            if float(np.diag(factor).min()) < np.sqrt(precision):
                raise np.linalg.LinAlgError
            rows = np.linalg.inv(factor).astype(rows.dtype) @ rows
            if float(np.diag(factor).min()) > 0.3:
                break
        except np.linalg.LinAlgError:
            values, vectors = np.linalg.eigh(gram)
            kept = values > 100 * precision
            rows = (vectors[:, kept] / np.sqrt(values[kept])).T.astype(rows.dtype) @ rows
    return rows


class DenseEigenStep:
    """All eigenpairs, by LAPACK: for up to some hundred tasks."""

    def __init__(self, n: int) -> None:
        self.basis: Rows = np.empty((0, n))

    def __call__(self, matrix: Rows, wanted: int) -> tuple[FloatArray, Rows]:
        """See :class:`EigenStep`."""
        del wanted
        rows = matrix.mean(axis=1)
        overall = float(rows.mean())
        projected = matrix - rows[:, None] - (rows - overall)
        # e gets the smallest eigenvalue of all, so that its place is known.
        projected -= (1 + float(np.abs(projected).sum(axis=1).max())) / len(matrix)
        values, vectors = np.linalg.eigh(projected)
        self.basis = vectors.T[:0:-1]
        return values[:0:-1].astype(np.float64), self.basis


class BlockEigenStep:
    """A block of rows that follows the leading eigenvectors: residuals join it, Rayleigh-Ritz takes the best.

    Args:
        basis: (b, T) orthonormal centred rows to start from.
        seed: of the random rows that look for eigenvectors that the block has missed.
    """

    def __init__(self, basis: Rows, seed: int = 0) -> None:
        self.basis = basis
        self.generator = np.random.default_rng(seed)
        self.steps = 0
        self.limit = max(8, int(0.45 * basis.shape[1]))

    def __call__(self, matrix: Rows, wanted: int) -> tuple[FloatArray, Rows]:
        """See :class:`EigenStep`."""
        rows = self.basis
        if self.steps % 10 == 9:
            rows = orthonormal(centre(rows))
        image = centre(rows @ matrix)
        if self.steps % 10 == 0 or self.steps < 3:
            rows, image = self._explore(matrix, rows, image, wanted)
        active = min(len(rows), wanted + max(6, wanted // 8))
        inner = image @ rows.T
        residual = image[:active] - inner[:active] @ rows
        residual = self._against(residual, rows, 1e-5 * float(np.abs(np.diag(inner)).max()))
        if len(residual):
            rows, image = np.concatenate([rows, residual]), np.concatenate([image, centre(residual @ matrix)])
            inner = image @ rows.T
        values, vectors = np.linalg.eigh((inner + inner.T).astype(np.float64) / 2)
        keep = self._size(wanted, len(values))
        self.basis = vectors[:, : -keep - 1 : -1].T.astype(rows.dtype) @ rows
        self.steps += 1
        return values[: -keep - 1 : -1], self.basis

    def _size(self, wanted: int, available: int) -> int:
        """Rows to keep: the wanted ones and some more, changing slowly downwards."""
        target = int(1.2 * wanted) + 10
        now = len(self.basis)
        if wanted > now - 4:
            target = max(target, now + max(8, now // 4))
        elif target < now:
            target = max(target, int(0.8 * now)) if self.steps % 10 == 5 else now
        return min(target, available, self.limit)

    def _explore(self, matrix: Rows, rows: Rows, image: Rows, wanted: int) -> tuple[Rows, Rows]:
        """Add a few directions from outside the span, drawn towards the large eigenvalues there."""
        count = min(max(8, wanted // 8), self.limit + 8 - len(rows))
        if count <= 0:
            return rows, image
        fresh = self.generator.standard_normal((count, rows.shape[1])).astype(rows.dtype)
        fresh = self._against(centre(fresh), rows, 0.0)
        krylov = [fresh]
        for _ in range(3):
            krylov.append(self._against(centre(krylov[-1] @ matrix), np.concatenate([rows, *krylov]), 0.0))
        added = np.concatenate(krylov)
        products = centre(added @ matrix)
        values, vectors = np.linalg.eigh((products @ added.T).astype(np.float64))
        best = vectors[:, : -count - 1 : -1].T.astype(rows.dtype)
        del values
        return np.concatenate([rows, best @ added]), np.concatenate([image, best @ products])

    @staticmethod
    def _against(rows: Rows, basis: Rows, smallest: float) -> Rows:
        """The part of rows outside the span of the basis, orthonormal; rows shorter than `smallest` are left out."""
        rows = rows[np.sqrt(np.einsum("ij,ij->i", rows, rows)) > smallest]
        for _ in range(2):
            if not len(rows):
                return rows
            rows = rows - (rows @ basis.T) @ basis
            rows = orthonormal(centre(rows))
        return rows
