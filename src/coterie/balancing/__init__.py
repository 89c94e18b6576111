"""How much each task counts while tasks are trained together: weights from losses, or combined gradients."""

from coterie.balancing.balancer import Balancer
from coterie.balancing.choice import Balancing
from coterie.balancing.methods import METHODS, get_balancer
from coterie.balancing.replay import Replay
from coterie.balancing.task_means import task_means
from coterie.balancing.weighting import Weighting

__all__ = ["METHODS", "Balancer", "Balancing", "Replay", "Weighting", "get_balancer", "task_means"]
