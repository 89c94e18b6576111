"""Groups of tasks from their affinity: relaxation, rounding, local improvement, and the result."""

from coterie.grouping.bound import certified_bound
from coterie.grouping.compare import adjusted_rand
from coterie.grouping.cover import Costs, Limit, select_groups
from coterie.grouping.density import density, group_densities, sum_of_densities
from coterie.grouping.group import group
from coterie.grouping.grouping import Grouping
from coterie.grouping.improve import improve
from coterie.grouping.intervals.costs import affinity_costs, centre_costs, function_costs
from coterie.grouping.intervals.programme import Intervals, best_intervals, every_k
from coterie.grouping.methods import METHODS
from coterie.grouping.peers import LeidenFound, agglomerative_labels, leiden_partition, random_partition
from coterie.grouping.rounding import round_solution
from coterie.grouping.sdp import SdpSolution, solve_sdp
from coterie.grouping.search.groups import search_groups
from coterie.grouping.search.local import search
from coterie.grouping.spectral import spectral_labels

__all__ = [
    "METHODS",
    "Costs",
    "Grouping",
    "Intervals",
    "LeidenFound",
    "Limit",
    "SdpSolution",
    "adjusted_rand",
    "affinity_costs",
    "agglomerative_labels",
    "best_intervals",
    "centre_costs",
    "certified_bound",
    "density",
    "every_k",
    "function_costs",
    "group",
    "group_densities",
    "improve",
    "leiden_partition",
    "random_partition",
    "round_solution",
    "search",
    "search_groups",
    "select_groups",
    "solve_sdp",
    "spectral_labels",
    "sum_of_densities",
]
