"""How much each task counts while tasks are trained together: weights from losses, or combined gradients."""

from coterie.balancing.balancer import Balancer
from coterie.balancing.choice import Balancing, as_balancing, balancing_key
from coterie.balancing.methods import AGGREGATIONS, METHODS, WEIGHTINGS, get_balancer
from coterie.balancing.replay import Replay
from coterie.balancing.task_means import task_means
from coterie.balancing.weighting import Weighting

__all__ = [
    "AGGREGATIONS",
    "METHODS",
    "WEIGHTINGS",
    "Balancer",
    "Balancing",
    "Replay",
    "Weighting",
    "as_balancing",
    "balancing_key",
    "get_balancer",
    "task_means",
]
