"""Random groups of about equal size: what a grouping has to beat."""

from __future__ import annotations

import numpy as np

from coterie._surface import known_arguments
from coterie.grouping.matrix import IntArray
from coterie.grouping.objective import as_labels, random_labels


@known_arguments
def random_partition(n: int, k: int | None = None, *, k_max: int | None = None, seed: int = 0) -> IntArray:
    """A random partition of n tasks into k groups whose sizes differ by at most one.

    Args:
        n: number of tasks.
        k: number of groups, 1..n; None draws it, too, each of 1..k_max with the same probability.
        k_max: largest number of groups that is drawn. Default n.
        seed: the same seed gives the same groups.

    Returns:
        (n,) labels 0..k-1, each used, groups numbered by their first task.

    Example:
        >>> sorted(np.bincount(random_partition(7, 3)).tolist())
        [2, 2, 3]
    """
    generator = np.random.default_rng(seed)
    count = k if k is not None else int(generator.integers(1, (k_max or n) + 1))
    return as_labels(random_labels(n, count, generator), n)
