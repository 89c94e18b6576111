"""Groups of tasks from their affinity: relaxation, rounding, local improvement, and the result."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
from coterie.grouping.cover.problem import Costs, Limit
from coterie.grouping.cover.select import select_groups
from coterie.grouping.group import METHODS, group
from coterie.grouping.grouping import Grouping, adjusted_rand
from coterie.grouping.intervals.costs import affinity_costs
from coterie.grouping.intervals.programme import Intervals, best_intervals
from coterie.grouping.sdp.admm import SdpSolution
from coterie.grouping.sdp.solve import solve_sdp
from coterie.grouping.search.groups import search_groups

__all__ = [
    "METHODS",
    "Costs",
    "Grouping",
    "Intervals",
    "Limit",
    "SdpSolution",
    "adjusted_rand",
    "affinity_costs",
    "best_intervals",
    "group",
    "search_groups",
    "select_groups",
    "solve_sdp",
]

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
