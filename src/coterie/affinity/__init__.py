"""How much each task helps each other: estimators, the matrix they give, models that predict any subset."""

from coterie.affinity.affinity import Affinity
from coterie.affinity.estimator import Estimate, Estimator
from coterie.affinity.gain_model import GainModel
from coterie.affinity.grad_tae import GradTAE
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.methods import METHODS, get_estimator
from coterie.affinity.pairwise import PairwiseGainModel
from coterie.affinity.sampling import random_subsets
from coterie.affinity.subsets import as_subsets

__all__ = [
    "METHODS",
    "Affinity",
    "Estimate",
    "Estimator",
    "GainModel",
    "GradTAE",
    "GradTAEModel",
    "PairwiseGainModel",
    "as_subsets",
    "get_estimator",
    "random_subsets",
]
