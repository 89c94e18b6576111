"""Equal weights."""

from __future__ import annotations

from torch import Tensor

from coterie._surface import known_arguments
from coterie.balancing.weighting import Weighting


@known_arguments
class Equal(Weighting):
    """The mean of the losses of the tasks in the batch: what all other methods are compared with.

    Args:
        tasks: number of tasks.
        members: see :class:`Balancer`.

    Example:
        >>> import torch
        >>> Equal(3).total(torch.tensor([1.0, 3.0, torch.nan]))
        tensor(2.)
    """

    def weigh(self, values: Tensor, present: Tensor) -> Tensor:
        """One over the number of present tasks."""
        return present / present.sum(-1, keepdim=True).to(values.dtype)
