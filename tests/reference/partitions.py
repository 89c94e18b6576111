"""All partitions of a set, and their worth, as slowly and plainly as possible."""

from __future__ import annotations

from collections.abc import Iterator


def set_partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """Every partition of `items` into non-empty groups, each once."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for partition in set_partitions(rest):
        yield [[first], *partition]
        for index, members in enumerate(partition):
            yield [*partition[:index], [first, *members], *partition[index + 1 :]]


def density(matrix, members) -> float:
    """Sum of all entries within the group over its size."""
    total = 0.0
    for u in members:
        for v in members:
            total += float(matrix[u][v])
    return total / len(members)


def worth(matrix, partition) -> float:
    """Sum of the densities of the groups."""
    return sum(density(matrix, members) for members in partition)


def groups_of(labels) -> list[list[int]]:
    """Groups of a labeling, sorted."""
    found: dict[int, list[int]] = {}
    for task, label in enumerate(labels):
        found.setdefault(int(label), []).append(task)
    return sorted(found.values())


def best_partition(matrix, k: int | None = None) -> tuple[float, list[list[int]]]:
    """The largest sum of densities over all partitions (into k groups), and a partition that reaches it."""
    n = len(matrix)
    every = (p for p in set_partitions(list(range(n))) if k is None or len(p) == k)
    return max(((worth(matrix, p), p) for p in every), key=lambda pair: pair[0])


def rand_index_adjusted(first, second) -> float:
    """Adjusted Rand index by counting pairs."""
    n = len(first)
    both = one = two = total = 0
    for i in range(n):
        for j in range(i):
            total += 1
            one += first[i] == first[j]
            two += second[i] == second[j]
            both += first[i] == first[j] and second[i] == second[j]
    expected = one * two / total
    return 1.0 if (one + two) / 2 == expected else (both - expected) / ((one + two) / 2 - expected)


def neighbours(labels) -> Iterator:
    """Every labeling that one move of a task, which empties no group, or one exchange of two tasks leads to."""
    for task in range(len(labels)):
        for label in set(labels):
            moved = labels.copy()
            moved[task] = label
            if len(set(moved)) == len(set(labels)):
                yield moved
        for other in range(task):
            swapped = labels.copy()
            swapped[[task, other]] = swapped[[other, task]]
            yield swapped
