"""How much each task helps each other: estimators, the matrix they give, models that predict any subset.

Names are loaded when they are used, so that a matrix can be read and grouped without torch.
"""

from typing import TYPE_CHECKING

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use

if TYPE_CHECKING:
    from coterie.affinity.affinity import Affinity
    from coterie.affinity.estimator import METHODS, Estimate, Estimator, get_estimator
    from coterie.affinity.gain_model import GainModel, PairwiseGainModel, as_subsets
    from coterie.affinity.grad_tae import GradTAE

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
    "METHODS": "estimator",
    "Affinity": "affinity",
    "Estimate": "estimator",
    "Estimator": "estimator",
    "GainModel": "gain_model",
    "GradTAE": "grad_tae",
    "PairwiseGainModel": "gain_model",
    "as_subsets": "gain_model",
    "get_estimator": "estimator",
}

__getattr__ = load_on_first_use(__name__, _LAZY, earlier(__name__))
