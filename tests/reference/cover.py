"""Selection under a budget by trying every collection of groups, as the published code does: plain recursion."""

import numpy as np

FORBIDDEN = -1e6


def all_groups(n, limit=None, sizes=None):
    """Every group of n tasks whose sizes (1 each by default) add up to at most the limit."""
    sizes = [1] * n if sizes is None else sizes
    groups = [[t for t in range(n) if code >> t & 1] for code in range(1, 1 << n)]
    return [g for g in groups if limit is None or sum(sizes[t] for t in g) <= limit * (1 + 1e-9)]


def score(matrix, group, task, singles=None):
    """Mean affinity of a task with its partners; alone: its own value, or the published -1e6."""
    if len(group) == 1:
        return FORBIDDEN if singles is None else singles[task]
    return sum(matrix[task][s] for s in group if s != task) / (len(group) - 1)


def rows(n, groups, score_of):
    """(groups, n) scores; minus infinity outside of the group."""
    table = np.full((len(groups), n), -np.inf)
    for row, group in enumerate(groups):
        for task in group:
            table[row, task] = score_of(group, task)
    return table


def best(table, budget, costs=None):
    """Largest sum over tasks of the best score among chosen rows whose costs are within the budget; -inf for none."""
    costs = np.ones(len(table)) if costs is None else np.asarray(costs, dtype=float)
    room = budget * (1 + 1e-9)
    found = -np.inf

    def extend(start, running, left):
        nonlocal found
        # the last group that fits is tried for all rows at once: the plain loop would take hours at nine tasks
        fits = np.flatnonzero(costs[start:] <= left) + start
        if not len(fits):
            return
        totals = np.maximum(running, table[fits]).sum(axis=1)
        found = max(found, float(totals.max()))
        cheapest = costs.min()
        for row in fits:
            if left - costs[row] >= cheapest:
                extend(row + 1, np.maximum(running, table[row]), left - costs[row])

    extend(0, np.full(table.shape[1], -np.inf), room)
    return found


def best_of_matrix(matrix, budget, *, singles=None, costs=None, limit=None, sizes=None):
    """Mean over tasks of the best selection; costs = (of a model, of each task)."""
    n = len(matrix)
    groups = all_groups(n, limit, sizes)
    table = rows(n, groups, lambda group, task: score(matrix, group, task, singles))
    price = None if costs is None else [costs[0] + sum(costs[1][t] for t in g) for g in groups]
    return best(table, budget, price) / n


def best_three(table):
    """Largest sum over tasks of the best score among three rows, every triple tried; for nine tasks (22 million)."""
    columns = np.ascontiguousarray(table.T)
    first, second = np.triu_indices(len(table))
    pairs = np.maximum(columns[:, first], columns[:, second])
    found = -np.inf
    for row in range(len(table)):
        rest = pairs[:, np.searchsorted(first, row) :]  # triples in rising order
        total = np.maximum(rest[0], columns[0, row])
        for task in range(1, len(rest)):
            total += np.maximum(rest[task], columns[task, row])
        found = max(found, float(total.max()))
    return found
