"""MARIGOLD without a probe: the training step itself shows the slopes. A reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from coterie._check import choice
from coterie._surface import known_arguments
from coterie.balancing.marigold import BilevelWeighting
from coterie.errors import SettingError

LOSSES = ("next", "same")


@known_arguments
@dataclass(eq=False, repr=False)
class MarigoldAmortised(BilevelWeighting):
    """MARIGOLD, amortised form: slopes from how the losses change over the training step.

    This is a reconstruction, see :class:`Marigold`. The optimiser's step takes the place of the probe. Its direction is
    the gradient only for plain gradient descent; with momentum or Adam the slopes are those along the real step.

    With ``losses="same"`` the losses of the same batch are computed again after the step; with ``phi="log"`` and
    softmax shares this is FAMO, step for step. With ``losses="next"`` those of the next batch are compared with a
    running mean of earlier ones. That needs no extra pass, but sees the difference between batches as well.

    Args:
        tasks: number of tasks.
        losses: ``"next"`` or ``"same"``.
        phi: ``"identity"``: the losses as they are; ``"log"``: their logarithms, as in FAMO.
        form: ``"softmax"`` shares, or shares on the ``"simplex"``.
        memory: share of the past in the running mean, for ``losses="next"``.
        rate: length of a step, by which the changes are divided; matters only for `rho` and ``adaptive=False``.
        learning_rate, decay, rho, adaptive, smoothing: see :class:`LowerLevel`.
        floor: lowest value that a loss can take, for ``phi="log"``.
        members: see :class:`Balancer`.

    Cost: ``"same"``: one more forward pass a step, without a graph; ``"next"``: none.

    Source: reconstruction of MARIGOLD, "Feed m Birds with One Scone" (2026), after its abstract.

    Raises:
        SettingError: when a value is unknown or out of range, or a loss lies below `floor`.

    Example:
        >>> x = torch.tensor([3.0, -1.0], requires_grad=True)
        >>> marigold, optimizer = MarigoldAmortised(2), torch.optim.SGD([x], lr=0.1)
        >>> for _ in range(3):
        ...     losses = marigold.step(lambda: torch.stack([(x**2).sum(), ((x - 1) ** 2).sum()]), optimizer)
        >>> marigold.weights.sum().round(decimals=4)
        tensor(1.)
    """

    tasks: int
    losses: str = "next"
    phi: str = "identity"
    form: str = "softmax"
    memory: float = 0.9
    rate: float = 1.0
    baseline: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(self.losses, "losses", LOSSES)
        if not 0 <= self.memory < 1:
            raise SettingError(f"Parameter `memory` should be at least 0 and below 1. Found {self.memory!r}.")
        if not self.rate > 0:
            raise SettingError(f"Parameter `rate` should be above 0. Found {self.rate!r}.")
        self.looks_again = self.losses == "same"
        #: (tasks,) phi of the losses that the next ones are compared with; NaN before a task was seen
        self.register_buffer("baseline", torch.full(self.shape, torch.nan))
        self._present = torch.zeros(self.shape, dtype=torch.bool)

    def begin(self, values: Tensor, present: Tensor) -> None:
        """Learn from this batch about the steps before it, or remember it."""
        self.lower.criterion.check(values, present)
        phi = self.lower.criterion(values)
        if self.looks_again:
            self.baseline.copy_(phi)
            self._present = present
            return
        self.lower.descend((self.baseline - phi) / self.rate, present & ~self.baseline.isnan())
        mean = torch.where(self.baseline.isnan(), phi, torch.lerp(phi, self.baseline, self.memory))
        self.baseline.copy_(torch.where(present & phi.isfinite(), mean, self.baseline))

    @torch.no_grad()
    def after_step(self, again: Callable[[], Tensor]) -> None:
        """Move the shares by how the losses of the same batch changed."""
        if self.looks_again:
            fell = self.baseline - self.lower.criterion(again().to(self.baseline))
            self.lower.descend(fell / self.rate, self._present)
