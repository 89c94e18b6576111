"""Cuts of ordered items into contiguous intervals, as slowly and plainly as possible."""

from __future__ import annotations

from itertools import combinations


def cuts(n: int, k: int):
    """Every way to cut 0..n-1 into k intervals, as lists of (first, last)."""
    for inner in combinations(range(1, n), k - 1):
        starts = [0, *inner]
        yield [(first, end - 1) for first, end in zip(starts, [*inner, n], strict=True)]


def least_cost(cost, n: int, k: int, minimum: int = 1) -> float:
    """The smallest sum of `cost(first, last)` over the cuts whose intervals are long enough."""
    totals = [
        sum(cost(first, last) for first, last in cut)
        for cut in cuts(n, k)
        if all(last - first + 1 >= minimum for first, last in cut)
    ]
    return min(totals)


def sum_within(matrix, first: int, last: int) -> float:
    """Sum of all entries between items of first..last."""
    return sum(float(matrix[u][v]) for u in range(first, last + 1) for v in range(first, last + 1))


def paid_to(matrix, first: int, last: int, centre: int) -> float:
    """What the items of first..last pay for one centre."""
    return sum(float(matrix[item][centre]) for item in range(first, last + 1))


def paid_to_best(matrix, first: int, last: int) -> float:
    """What they pay for the cheapest of themselves."""
    return min(paid_to(matrix, first, last, centre) for centre in range(first, last + 1))
