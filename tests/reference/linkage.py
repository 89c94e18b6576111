"""Average linkage on affinities, by joining the best pair of groups again and again."""

from __future__ import annotations


def average_linkage(matrix, k: int) -> list[list[int]]:
    """The groups that are left when k are; the mean runs over both directions of each pair."""
    groups = [[task] for task in range(len(matrix))]
    while len(groups) > k:
        best = max(
            (sum(matrix[u][v] + matrix[v][u] for u in a for v in b) / (len(a) * len(b)), i, j)
            for i, a in enumerate(groups)
            for j, b in enumerate(groups)
            if i < j
        )
        _, i, j = best
        groups[i] = groups[i] + groups.pop(j)
    return sorted(sorted(members) for members in groups)
