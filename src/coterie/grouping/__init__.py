"""Groups of tasks from their affinity: relaxation, rounding, local improvement, and the result."""

from coterie.grouping.bound import certified_bound
from coterie.grouping.compare import adjusted_rand
from coterie.grouping.density import density, group_densities, sum_of_densities
from coterie.grouping.group import group
from coterie.grouping.grouping import Grouping
from coterie.grouping.improve import improve
from coterie.grouping.methods import METHODS
from coterie.grouping.rounding import round_solution
from coterie.grouping.sdp import SdpSolution, solve_sdp
from coterie.grouping.search import search
from coterie.grouping.spectral import spectral_labels

__all__ = [
    "METHODS",
    "Grouping",
    "SdpSolution",
    "adjusted_rand",
    "certified_bound",
    "density",
    "group",
    "group_densities",
    "improve",
    "round_solution",
    "search",
    "solve_sdp",
    "spectral_labels",
    "sum_of_densities",
]
