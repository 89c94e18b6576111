"""How much each task helps each other: estimators, the matrix they give, models that predict any subset.

Names are loaded when they are used, so that a matrix can be read and grouped without torch.
"""

from typing import TYPE_CHECKING

from coterie._lazy import load_on_first_use

if TYPE_CHECKING:
    from coterie.affinity.affinity import Affinity
    from coterie.affinity.estimator import Estimate, Estimator
    from coterie.affinity.gain_model import GainModel
    from coterie.affinity.grad_tae import GradTAE
    from coterie.affinity.methods import METHODS, get_estimator
    from coterie.affinity.pairwise import PairwiseGainModel
    from coterie.affinity.subsets import as_subsets

__all__ = [
    "METHODS",
    "Affinity",
    "Estimate",
    "Estimator",
    "GainModel",
    "GradTAE",
    "PairwiseGainModel",
    "as_subsets",
    "get_estimator",
]

#: which module brings a name
_LAZY = {
    "METHODS": "methods",
    "Affinity": "affinity",
    "Estimate": "estimator",
    "Estimator": "estimator",
    "GainModel": "gain_model",
    "GradTAE": "grad_tae",
    "PairwiseGainModel": "pairwise",
    "as_subsets": "subsets",
    "get_estimator": "methods",
}

__getattr__ = load_on_first_use(__name__, _LAZY)
