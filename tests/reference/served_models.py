"""The best models to serve, by looking at every way in which each target picks one of the models that can serve it."""

from __future__ import annotations

import itertools


def every_assignment(values, costs):
    """For every way to serve the targets: (number of models, their cost, total of the values)."""
    models, targets = len(values), len(values[0])
    able = [[m for m in range(models) if values[m][t] == values[m][t]] for t in range(targets)]
    for picked in itertools.product(*able):
        used = set(picked)
        yield len(used), sum(costs[m] for m in used), sum(values[m][t] for t, m in enumerate(picked))


def least_totals(values, costs, limits):
    """The smallest total for each (models, cost) of `limits`, None being no limit; None where nothing is within it."""
    found = [None] * len(limits)
    for count, cost, total in every_assignment(values, costs):
        for place, (most, budget) in enumerate(limits):
            inside = (most is None or count <= most) and (budget is None or cost <= budget + 1e-9)
            if inside and (found[place] is None or total < found[place]):
                found[place] = total
    return found
