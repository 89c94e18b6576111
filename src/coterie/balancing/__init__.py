"""How much each task counts while tasks are trained together: weights from losses, or combined gradients."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
from coterie.balancing.balancer import Balancer, Replay
from coterie.balancing.methods import METHODS, Balancing, get_balancer
from coterie.balancing.shares import task_means
from coterie.balancing.weighting import Weighting

__all__ = ["METHODS", "Balancer", "Balancing", "Replay", "Weighting", "get_balancer", "task_means"]

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
