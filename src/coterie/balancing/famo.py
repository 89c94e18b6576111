"""Fast adaptive multitask optimisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coterie._surface import known_arguments
from coterie.balancing.criterion import Criterion
from coterie.balancing.shares import SoftmaxShares, complete, everyone
from coterie.balancing.weighting import Weighting


@known_arguments
class Famo(Weighting):
    """FAMO: let the logarithms of all losses fall at the same rate.

    The model descends ``sum_i z_i log(loss_i)``, scaled so that the factors of the losses add up to one, with z the
    softmax of logits. After the optimiser's step the losses of the same batch are computed again. Tasks whose logarithm
    fell most lose weight: the logits take a step of Adam against the gradient of
    ``sum_i z_i (log before - log after)``.

    Args:
        tasks: number of tasks.
        learning_rate: of the logits.
        decay: pulls the logits back to 0.
        floor: lowest value that a loss can take.
        members: see :class:`Balancer`.

    Cost: one more forward pass a step, without a graph, whatever the number of tasks.

    Source: Liu, Feng, Stone and Liu, NeurIPS 2023, algorithm 1 and the authors' code (learning rate 0.025; decay 0.001
        as in their runs, 0.01 in the default of the class).

    Raises:
        SettingError: when a loss lies below `floor`.

    Example:
        >>> x = torch.tensor([3.0, -1.0], requires_grad=True)
        >>> famo, optimizer = Famo(2), torch.optim.SGD([x], lr=0.1)
        >>> for _ in range(3):
        ...     losses = famo.step(lambda: torch.stack([(x**2).sum(), ((x - 1) ** 2).sum()]), optimizer)
        >>> famo.weights.sum().round(decimals=4)
        tensor(1.)
    """

    looks_again = True

    def __init__(
        self,
        tasks: int,
        learning_rate: float = 0.025,
        decay: float = 1e-3,
        floor: float = 0.0,
        *,
        members: int | None = None,
    ) -> None:
        super().__init__(tasks, members)
        self.criterion = Criterion("log", floor)
        self.shares = SoftmaxShares(self.shape, learning_rate, decay)
        #: losses, tasks, shares and distances before the optimiser's step; a list, because attributes of modules are
        #: slow to set
        self._seen: list[Tensor] = []

    def begin(self, values: Tensor, present: Tensor) -> None:
        """Remember the losses before the step."""
        self.criterion.check(values, present)
        self._seen[:] = values, present

    def weigh(self, values: Tensor, present: Tensor) -> Tensor:
        """Softmax of the logits over the loss, scaled to add up to one."""
        share, distance = self.shares.forward(present), self.criterion.distance(values)
        if self._seen and self._seen[0] is values:
            self._seen[2:] = share, distance  # after the step they are needed again
        factors = share / distance
        return factors.div_(factors.sum(-1, keepdim=True))

    @torch.no_grad()
    def after_step(self, again: Callable[[], Tensor]) -> None:
        """Move the logits by how the losses of the same batch changed."""
        if not self._seen:
            return
        values, present, share, distance = self._seen
        self._seen.clear()
        fell = distance.log_().sub_(self.criterion(again().to(values)))
        if present is everyone(self.shape):
            weighted = share * fell
            mean = weighted.sum(-1, keepdim=True)
            if complete(mean):  # not where one of the logarithms is not a number, or infinite
                self.shares.move(weighted.addcmul_(share, mean, value=-1), present)
                return
        present = present & fell.isfinite()
        self.shares.descend(fell, present)
