"""Which groups may be chosen together: costs, a budget, and a limit for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.grouping.cover.scores import GroupScores
from coterie.grouping.matrix import BoolArray, FloatArray

#: sums of costs and sizes may miss a limit by rounding; relative
SLACK = 1e-9


@known_arguments
@dataclass(frozen=True)
class Costs:
    """What a model costs: an amount of its own, and an amount for each task that it trains.

    Attributes:
        model: cost of every model, whatever its tasks.
        tasks: cost that each task adds, in the order of the tasks, or a mapping or pandas Series with their names; a
            number is the same for all.

    Example:
        >>> Costs(model=1.0, tasks=(0.1, 0.5)).tasks
        (0.1, 0.5)
    """

    model: float = 0.0
    tasks: Sequence[float] | Mapping[str, float] | float = 0.0


@known_arguments
@dataclass(frozen=True)
class Limit:
    """What a single group may hold, such as memory or latency: the sizes of its tasks add up to at most `total`.

    Attributes:
        total: largest sum.
        sizes: size of each task, in the order of the tasks; a number is the same for all.

    Example:
        >>> Limit(total=4, sizes=1).total
        4
    """

    total: float
    sizes: tuple[float, ...] | float = 1.0


@dataclass(frozen=True, eq=False)
class CoverProblem:
    """Choose groups that cover all tasks, so that the sum over tasks of their best group's score is largest.

    Attributes:
        tasks: names.
        scores: score of each task in any group.
        budget: the costs of all groups add up to at most this.
        model_cost: cost of a group, whatever is in it.
        task_costs: (T,) cost that a task adds to each group it is in.
        limit: largest sum of sizes in a group; infinity for none.
        sizes: (T,) sizes.
    """

    tasks: tuple[str, ...]
    scores: GroupScores
    budget: float
    model_cost: float
    task_costs: FloatArray
    limit: float
    sizes: FloatArray

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    @cached_property
    def uniform(self) -> bool:
        """Whether all groups cost the same, so that the budget is a number of groups."""
        return not self.task_costs.any()

    @cached_property
    def most_groups(self) -> int:
        """Largest number of groups that the budget allows and that can be of use: one for each task at most."""
        cheapest = self.model_cost + float(self.task_costs.min())
        if cheapest * self.n <= self.budget:
            return self.n
        return max(0, int(self.budget / cheapest * (1 + SLACK)))

    @cached_property
    def largest_group(self) -> int:
        """Number of tasks that a group can hold at most, by its limit and by the budget."""
        within = np.cumsum(np.sort(self.sizes)) <= self.limit * (1 + SLACK)
        affordable = self.model_cost + np.cumsum(np.sort(self.task_costs)) <= self.budget * (1 + SLACK)
        return int((within & affordable).sum())

    def costs(self, subsets: BoolArray) -> FloatArray:
        """(m,) cost of each group; an empty one costs nothing."""
        return np.where(subsets.any(axis=1), self.model_cost + subsets @ self.task_costs, 0.0)

    def allowed(self, subsets: BoolArray) -> BoolArray:
        """(m,) whether each group keeps its limit."""
        return np.asarray(subsets @ self.sizes <= self.limit * (1 + SLACK))

    def affordable(self, cost: FloatArray | float) -> BoolArray:
        """Whether a total cost is within the budget."""
        return np.asarray(cost <= self.budget * (1 + SLACK))

    def out_of_reach(self, tried: str) -> SettingError:
        """The error for a problem without a cover."""
        free = np.isinf(self.limit)
        limit = "" if free else f" of at most {self.limit:g}"
        prices = [f"{self.model_cost:g} a model"] if self.model_cost else []
        prices += [] if self.uniform else ["the costs of the tasks"]
        least = f", {self.model_cost + float(self.task_costs.sum()):g} at least" if free else ", or a larger `limit`"
        return SettingError(
            f"Parameter `budget` is {self.budget:g} at {' and '.join(prices)}. {tried} no selection of groups{limit} "
            f"that covers all {self.n} tasks. Allow more budget{least}."
        )
