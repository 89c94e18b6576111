"""Uncertainty weighting."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie._surface import known_arguments
from coterie.balancing.criterion import EPSILON, check_floor
from coterie.balancing.shares import Moments
from coterie.balancing.weighting import Weighting


@known_arguments
class Uncertainty(Weighting):
    """Uncertainty weighting: each task learns the logarithm s of a variance, and large losses count for less.

    The mean over tasks of ``exp(-s) loss / 2 + s / 2`` is minimised with respect to model and s; at fixed losses the
    optimum is ``s = log(loss)``. As published, s is trained beside the model; here it has its own Adam, so that it
    cannot be forgotten in the user's optimiser. Weights do not add up to one: ``exp(-s) / 2`` over the number of tasks.

    A loss is a squared error to this method, so it cannot be negative: there, ``exp(-s) loss`` has no minimum, and
    weights would grow for ever. With a `floor`, its distance from the floor counts. Distances below 1e-8 count as 1e-8.

    Args:
        tasks: number of tasks.
        learning_rate: of s.
        start: first value of s.
        floor: lowest value that a loss can take.
        members: see :class:`Balancer`.

    Cost: as equal weights.

    Source: Kendall, Gal and Cipolla, CVPR 2018, equation 7 for regression, with s = log sigma^2; the same factor is
        used for every loss, as is common. The floor is ours.

    Raises:
        SettingError: when a loss lies below `floor`.

    Example:
        >>> Uncertainty(2).total(torch.tensor([1.0, 3.0]))
        tensor(1.)
    """

    log_variance: Tensor

    def __init__(
        self,
        tasks: int,
        learning_rate: float = 0.025,
        start: float = 0.0,
        floor: float = 0.0,
        *,
        members: int | None = None,
    ) -> None:
        super().__init__(tasks, members)
        self.floor = floor
        self.register_buffer("log_variance", torch.full(self.shape, float(start)))
        self.moments = Moments(self.shape, learning_rate)

    def begin(self, values: Tensor, present: Tensor) -> None:
        """Refuse losses below the floor."""
        known = torch.where(present, values, torch.inf)
        check_floor(known, self.floor, "With uncertainty weighting every", "or use another method, such as 'equal'")

    def weigh(self, values: Tensor, present: Tensor) -> Tensor:
        """exp(-s) / 2 over the number of present tasks."""
        return 0.5 * torch.exp(-self.log_variance) / present.sum(-1, keepdim=True)

    def objective(self, weighted: Tensor, present: Tensor) -> Tensor:
        """Add the mean of s / 2."""
        return weighted + 0.5 * (self.log_variance * present).sum(-1) / present.sum(-1)

    def finish(self, values: Tensor, present: Tensor) -> None:
        """One step of s, from the same point from which the model steps."""
        distance = (values - self.floor).clamp(min=EPSILON)
        slope = 0.5 / present.sum(-1, keepdim=True) - self.last * distance
        self.moments.step(self.log_variance, slope, present & values.isfinite())
