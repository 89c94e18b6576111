"""Covariances of runs: what two subsets have in common, whatever the target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.study.results import Floats, Results

#: covariances of a target with itself; "level", "partners", "near" and "size" are always there
OWN = ("level", "partners", "near", "size", "seed", "variant level", "variant partners", "variant near")
#: covariances between all targets
SHARED = ("near", "size", "quality", "luck", "variant level", "variant size")


@dataclass(frozen=True, eq=False)
class Subsets:
    """Subsets as the covariances see them.

    Attributes:
        member: (m, sources) 1 where a subset holds a source.
        size: (m,) log of its size over the usual one.
        variant: (m,) number of the way in which it is trained; 0 is the usual one.
        seed: (m,) number of a seed that several runs share; -1 where a run has its own.
    """

    member: Floats
    size: Floats
    variant: NDArray[np.int64]
    seed: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Subsets:
        """Some of the subsets."""
        return Subsets(self.member[rows], self.size[rows], self.variant[rows], self.seed[rows])


def differing(a: Subsets, b: Subsets) -> Floats:
    """(len(a), len(b)) number of sources in which two subsets differ.

    Example:
        >>> one = Subsets(np.array([[1.0, 1.0, 0.0]]), np.zeros(1), np.zeros(1, int), np.zeros(1, int))
        >>> two = Subsets(np.array([[0.0, 1.0, 1.0]]), np.zeros(1), np.zeros(1, int), np.zeros(1, int))
        >>> differing(one, two)
        array([[2.]])
    """
    return a.member.sum(1)[:, None] + b.member.sum(1) - 2 * a.member @ b.member.T


@dataclass(frozen=True, eq=False)
class Coding:
    """How runs become numbers.

    Attributes:
        usual: mean size of the measured subsets.
        variants: names of the variants, the usual one first.
    """

    usual: float
    variants: tuple[str, ...]

    @staticmethod
    def of(results: Results) -> Coding:
        """Of the runs: the usual variant is "" where it is there, else the most frequent one."""
        names, counts = np.unique(np.array(results.variants, dtype=object).astype(str), return_counts=True)
        by_count = [str(name) for name in names[np.argsort(-counts, kind="stable")]]
        first = "" if "" in by_count or not by_count else by_count[0]
        sizes = np.maximum(results.trained.sum(1), 1)
        return Coding(float(sizes.mean()), (first, *(name for name in by_count if name != first)))

    def encode(self, trained: NDArray[np.bool_], variant: NDArray[np.int64], seed: NDArray[np.int64]) -> Subsets:
        """Subsets (m, sources) of numbered variants and seeds."""
        size = np.log(np.maximum(trained.sum(1), 1) / self.usual)
        return Subsets(trained.astype(np.float64), size, variant, seed)

    def runs(self, results: Results) -> Subsets:
        """The runs; seeds that only one run has, and one that all have, say nothing."""
        number = {name: place for place, name in enumerate(self.variants)}
        variant = np.array([number[name] for name in results.variants], dtype=np.int64)
        values, counts = np.unique(results.seeds, return_counts=True)
        shared = values[(counts > 1) & (values >= 0)]
        seed = np.full(len(results.seeds), -1, dtype=np.int64)
        for place, value in enumerate(shared):
            seed[results.seeds == value] = place
        return self.encode(results.trained, variant, seed)

    def asked(self, trained: NDArray[np.bool_], variant: str) -> Subsets:
        """Subsets of one variant; one that no run had has a number of its own."""
        code = self.variants.index(variant) if variant in self.variants else len(self.variants)
        n = len(trained)
        return self.encode(trained, np.full(n, code, dtype=np.int64), np.full(n, -1, dtype=np.int64))


def unit_kernels(a: Subsets, b: Subsets, usual: float, apart: Floats, length: float) -> dict[str, Floats]:
    """Covariances of unit variance (len(a), len(b)); that of luck is of runs, not of subsets, and is left out.

    Args:
        a: subsets.
        b: subsets.
        usual: mean size.
        apart: from :func:`differing`.
        length: so many differing sources have a covariance of 1/e.
    """
    dot = a.member @ b.member.T / usual
    # a source counts less in a larger subset
    quality = dot * np.outer(usual / np.maximum(a.member.sum(1), 1), usual / np.maximum(b.member.sum(1), 1))
    near = np.exp(-apart / length)
    size = np.outer(a.size, b.size)
    same = (a.variant[:, None] == b.variant) & (a.variant[:, None] > 0)
    found = {"level": np.ones_like(dot), "partners": dot, "quality": quality, "near": near, "size": size}
    found["variant level"] = same.astype(np.float64)
    found["variant partners"] = same * dot
    found["variant near"] = same * near
    found["variant size"] = same * size
    found["seed"] = ((a.seed[:, None] == b.seed) & (a.seed[:, None] >= 0)).astype(np.float64)
    return found


def unit_variances(a: Subsets, usual: float) -> dict[str, Floats]:
    """(m,) variance of each subset under each of :func:`unit_kernels`."""
    one, size = np.ones(len(a.size)), a.size**2
    dot, varied = a.member.sum(1) / usual, (a.variant > 0).astype(np.float64)
    quality = dot * (usual / np.maximum(a.member.sum(1), 1)) ** 2
    found = {"level": one, "partners": dot, "quality": quality, "near": one, "size": size, "seed": 0 * one}
    return found | {f"variant {name}": varied * found[name] for name in ("level", "partners", "near", "size")}
