"""What the forms of MARIGOLD have in common: the balancing problem, and its settings."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from coterie.balancing.lower_level import LowerLevel, LowerSettings
from coterie.balancing.weighting import Weighting


@dataclass(eq=False, repr=False, kw_only=True)
class BilevelWeighting(Weighting):
    """Weights from shares that solve the balancing problem; a subclass finds the slopes.

    A subclass also has `tasks`, `phi` and `form`. The other settings are those of :class:`LowerSettings`, and
    `members` that of :class:`Balancer`.
    """

    learning_rate: float = 0.025
    decay: float | None = None
    rho: float = 0.0
    adaptive: bool = True
    smoothing: float = 0.0
    floor: float = 0.0
    members: int | None = None

    def __post_init__(self) -> None:
        super().__init__(self.tasks, self.members)
        self.lower = LowerLevel(self.shape, LowerSettings.of(self))

    def weigh(self, values: Tensor, present: Tensor) -> Tensor:
        """Factors of the losses, which add up to one."""
        return self.lower.weights(values, present)
