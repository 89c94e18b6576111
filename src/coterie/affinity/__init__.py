"""How much each task helps each other: estimators, the matrix they give, models that predict any subset."""

from coterie.affinity.affinity import Affinity
from coterie.affinity.gain_model import GainModel
from coterie.affinity.grad_tae import METHODS, Estimate, GradTAE, get_estimator
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.pairwise import PairwiseGainModel
from coterie.affinity.sampling import random_subsets
from coterie.affinity.subsets import as_subsets

__all__ = [
    "METHODS",
    "Affinity",
    "Estimate",
    "GainModel",
    "GradTAE",
    "GradTAEModel",
    "PairwiseGainModel",
    "as_subsets",
    "get_estimator",
    "random_subsets",
]
