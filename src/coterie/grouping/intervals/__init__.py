"""Contiguous intervals of ordered tasks, such as time steps: costs, and the exact dynamic programme."""

from coterie.grouping.intervals.costs import affinity_costs, centre_costs, function_costs
from coterie.grouping.intervals.programme import Intervals, best_intervals, every_k

__all__ = ["Intervals", "affinity_costs", "best_intervals", "centre_costs", "every_k", "function_costs"]
