"""The clustering SDP of Peng and Wei: a solver of its own, with a certificate."""

from coterie.grouping.sdp.solution import SdpSolution
from coterie.grouping.sdp.solve import solve_sdp

__all__ = ["SdpSolution", "solve_sdp"]
