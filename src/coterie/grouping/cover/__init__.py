"""Selection under a budget: groups that may overlap, each task served by its best one."""

from coterie.grouping.cover.problem import Costs, Limit
from coterie.grouping.cover.select import select_groups

__all__ = ["Costs", "Limit", "select_groups"]
