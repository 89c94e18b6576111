"""Which models to serve, of those whose values are known: each target is served by the best one that was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.errors import SettingError
from coterie.grouping.cover.exact import EXACT, Partitions, disjoint_pairs
from coterie.grouping.cover.problem import SLACK
from coterie.study.results import Floats, Mask

#: a further model has to lower the total by more than this share of the spread of the values
_TIE = 1e-12
#: random starts of the search, beside the greedy one
_STARTS = 4


@dataclass(frozen=True, eq=False)
class ServedModels:
    """The choice.

    Attributes:
        models: rows of the models, in increasing order; each serves some target.
        serves: (targets,) row of the model that serves each target.
        total: sum over targets of the value that the serving model gives; what was minimised.
        exact: whether no other choice has a lower total.
    """

    models: tuple[int, ...]
    serves: NDArray[np.int64]
    total: float
    exact: bool


@dataclass(frozen=True, eq=False)
class ServingLimits:
    """How many models may be served, and what they may cost together; None is no limit."""

    models: int | None
    cost: float | None = None

    def inside(self, count: int, cost: Floats | float) -> Mask:
        """Whether so many models of a total cost are allowed."""
        few = self.models is None or count <= self.models
        return np.asarray((self.cost is None or cost <= self.cost * (1 + SLACK)) & few)


def choose_models(values: Floats, costs: Floats, limits: ServingLimits, *, search: bool = False) -> ServedModels:
    """The models with the smallest sum over targets of what the best chosen model gives the target.

    Args:
        values: (models, targets), lower is better; NaN where a model cannot serve a target.
        costs: (models,) what serving a model costs.
        limits: how many models, and at what total cost.
        search: whether a search without a proof is enough; it is fast.

    Raises:
        SettingError: when no models within the limits serve all targets.

    Cost:
        A number of models is exact up to 14 targets: 3^targets x log2(models) additions, under 1 ms with 5 targets and
        0.5 s with 14. A total cost: an integer program (HiGHS), 10 ms with 5 targets. More targets are searched.

    Example:
        >>> values = np.array([[0.3, 0.5], [0.2, np.nan], [np.nan, 0.4]])
        >>> choose_models(values, np.ones(3), ServingLimits(2)).models
        (1, 2)
    """
    free = np.isfinite(values)
    if not len(values) or not free.any(0).all():
        raise _no_choice(limits, "some target has no model that could serve it")
    base = np.nanmin(values, axis=0)
    above = np.where(free, values - base, np.inf)
    targets = values.shape[1]
    if search or targets > EXACT:
        found = _search(above, costs, limits)
    elif limits.cost is None:
        found = _by_served_sets(above, limits.models or targets)
    else:
        found = _by_integer_program(above, costs, limits)
    if found is None:
        raise _no_choice(limits, "no models within it serve all targets")
    return _read(values, above, found, exact=not search and targets <= EXACT)


def _no_choice(limits: ServingLimits, why: str) -> SettingError:
    allowed = [] if limits.models is None else [f"{limits.models} model{'s' * (limits.models != 1)}"]
    allowed += [] if limits.cost is None else [f"a total cost of {limits.cost:g}"]
    return SettingError(
        f"Parameters `models` and `costs` allow {' and '.join(allowed) or 'any models'}, but {why}. Allow more, or add "
        "runs of subsets that hold more tasks."
    )


def _read(values: Floats, above: Floats, chosen: list[int], *, exact: bool) -> ServedModels:
    """The result without models that serve nobody."""
    rows = np.array(sorted(chosen), dtype=np.int64)
    serves = rows[above[rows].argmin(axis=0)]
    total = float(values[serves, np.arange(values.shape[1])].sum())
    return ServedModels(tuple(int(row) for row in np.unique(serves)), serves, total, exact)


@cache
def _pairs(targets: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return disjoint_pairs(targets)


def _by_served_sets(above: Floats, most: int) -> list[int] | None:
    """Exact for a number of models: the targets are split into the sets that one model each serves."""
    targets = above.shape[1]
    worth, model = served_sets(above)
    tie = _TIE * float(np.max(above, initial=0.0, where=np.isfinite(above)))
    worth[1:] -= tie
    # keeping the tables of few targets saves more time than they need
    pairs = _pairs(targets) if targets <= 10 else disjoint_pairs(targets)
    total, parts = Partitions(targets, pairs, worth).read(min(most, targets), len(worth) - 1)
    return [int(model[part]) for part in parts] if np.isfinite(total) else None


def served_sets(above: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """(2^targets,) minus the smallest sum over each set of targets that one model gives, and the row of that model.

    A set that no model serves is worth minus infinity. Of equally good models the first is taken.
    """
    targets = above.shape[1]
    worth, model = np.full(1 << targets, -np.inf), np.full(1 << targets, -1)
    worth[0] = 0.0
    for row, values in enumerate(above):
        codes, sums = np.zeros(1, dtype=np.int64), np.zeros(1)
        for target in np.flatnonzero(np.isfinite(values)):
            codes = np.concatenate([codes, codes | (1 << int(target))])
            sums = np.concatenate([sums, sums - values[target]])
        better = sums > worth[codes]
        worth[codes[better]], model[codes[better]] = sums[better], row
    return worth, model


def _by_integer_program(above: Floats, costs: Floats, limits: ServingLimits) -> list[int] | None:
    """Exact for a total cost: which models are open, and which share of a target each serves."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    kept = _undominated(above, costs)
    above, costs = above[kept], costs[kept]
    row, target = np.nonzero(np.isfinite(above))
    models, pairs = len(above), len(row)
    # HiGHS stops at an absolute gap of 1e-6: values are scaled so that this is small
    scale = max(float(above[row, target].max()), 1e-300) / 1e4
    price = np.concatenate([np.full(models, _TIE * 1e4), above[row, target] / scale])
    place, ones = models + np.arange(pairs), np.ones(pairs)
    once = coo_array((ones, (target, place)), shape=(above.shape[1], models + pairs))
    rows = np.concatenate([np.arange(pairs)] * 2)
    served = (np.concatenate([ones, -ones]), (rows, np.concatenate([place, row])))
    rules = [
        LinearConstraint(once.tocsr(), 1, 1),
        LinearConstraint(coo_array(served, shape=(pairs, models + pairs)).tocsr(), -np.inf, 0),
    ]
    rest = np.zeros(pairs)
    if limits.cost is not None:
        rules.append(LinearConstraint(np.concatenate([costs, rest])[None], -np.inf, limits.cost * (1 + SLACK)))
    if limits.models is not None:
        rules.append(LinearConstraint(np.concatenate([np.ones(models), rest])[None], -np.inf, limits.models))
    whole = np.concatenate([np.ones(models), rest])
    found: Any = milp(price, integrality=whole, bounds=Bounds(0, 1), constraints=rules, options={"mip_rel_gap": 0.0})
    if found.x is None:
        return None
    return [int(kept[model]) for model in np.flatnonzero(found.x[:models] > 0.5)]


def _undominated(above: Floats, costs: Floats) -> NDArray[np.int64]:
    """Rows of the models that no other one replaces: no dearer and nowhere worse; the first of equals stays."""
    order = np.lexsort((np.arange(len(costs)), np.minimum(above, 1e300).sum(axis=1), costs))
    kept: list[int] = []
    for row in order:
        if not kept or not (above[kept] <= above[row]).all(axis=1).any():
            kept.append(int(row))
    return np.array(sorted(kept), dtype=np.int64)


def _search(above: Floats, costs: Floats, limits: ServingLimits) -> list[int] | None:
    """Greedy starts, then exchanges of one model for another, or for none, while that helps."""
    known = float(np.max(above, initial=0.0, where=np.isfinite(above)))
    missing = 10 * above.shape[1] * (known + 1e-300)  # a target without a model is worse than anything else
    filled = np.where(np.isfinite(above), above, missing)
    rng = np.random.default_rng(0)
    best, lowest = None, np.inf
    for start in range(1 + _STARTS):
        first = [] if start == 0 else [int(rng.integers(len(filled)))]
        if not limits.inside(len(first), float(costs[first].sum())):
            continue
        chosen, total = _exchange(filled, costs, limits, first)
        if total < lowest and np.isfinite(above[chosen]).any(0).all():
            best, lowest = chosen, total
    return best


def _exchange(filled: Floats, costs: Floats, limits: ServingLimits, chosen: list[int]) -> tuple[list[int], float]:
    nothing = np.full((1, filled.shape[1]), float(filled.max()))
    total = float(np.vstack([nothing, filled[chosen]]).min(axis=0).sum())
    tolerance = _TIE * float(filled.max())
    while True:
        best, step = total - tolerance, None
        for out in (None, *chosen):
            kept = [row for row in chosen if row != out]
            now = np.vstack([nothing, filled[kept]]).min(axis=0)
            totals = np.minimum(filled, now).sum(axis=1)
            allowed = limits.inside(len(kept) + 1, float(costs[kept].sum()) + costs)
            totals = np.where(allowed, totals, np.inf)
            row = int(totals.argmin())
            if totals[row] < best:
                best, step = float(totals[row]), [*kept, row]
        if step is None:
            return chosen, total
        chosen, total = step, best
