"""The balancing problem of MARIGOLD: which shares make the common gradient short."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from coterie.balancing.criterion import Criterion
from coterie.balancing.shares import complete, everyone, make_shares
from coterie.errors import SettingError


@dataclass(frozen=True)
class LowerSettings:
    """Settings of the balancing problem, under the names that they have as options of a balancer.

    Args:
        phi: ``"identity"`` or ``"log"``, see :class:`Criterion`.
        floor: lowest value that a loss can take; only for ``"log"``.
        form: ``"softmax"`` or ``"simplex"``, see :mod:`coterie.balancing.shares`.
        learning_rate: of the shares.
        decay: of the logits; None means 0.001, and 0 for the simplex, which has no logits.
        rho: how strongly shares are pulled to equal ones, in units of q.
        adaptive: whether steps do not depend on the scale of q.
        smoothing: share of the past in a running mean of q; 0 takes each q as it is.
    """

    phi: str
    floor: float
    form: str
    learning_rate: float
    decay: float | None
    rho: float
    adaptive: bool
    smoothing: float

    @staticmethod
    def of(balancer: object) -> LowerSettings:
        """Those of a balancer that has all of them as attributes."""
        return LowerSettings(**{field.name: getattr(balancer, field.name) for field in fields(LowerSettings)})


class LowerLevel(nn.Module):
    """Shares that minimise ``|| sum_i share_i grad phi(loss_i) ||^2 / 2 + rho / 2 || shares - 1 / tasks ||^2``.

    The gradient of the first term with respect to the shares is the vector q of slopes: how fast each phi(loss) falls
    along the direction ``sum_i share_i grad phi(loss_i)``. Whoever has q, or something proportional to it, calls
    :meth:`descend`.

    Args:
        shape: (..., tasks).
        settings: of the problem.

    Raises:
        SettingError: when a value is unknown or out of range.
    """

    mean: Tensor

    def __init__(self, shape: tuple[int, ...], settings: LowerSettings) -> None:
        super().__init__()
        learning_rate, decay, rho, smoothing = (
            settings.learning_rate, settings.decay, settings.rho, settings.smoothing,
        )  # fmt: skip
        if not learning_rate > 0:
            raise SettingError(f"Parameter `learning_rate` should be above 0. Found {learning_rate!r}.")
        if not rho >= 0:
            raise SettingError(f"Parameter `rho` should be at least 0. Found {rho!r}.")
        if not 0 <= smoothing < 1:
            raise SettingError(f"Parameter `smoothing` should be at least 0 and below 1. Found {smoothing!r}.")
        self.criterion = Criterion(settings.phi, settings.floor)
        if decay is None:
            decay = 0.0 if settings.form == "simplex" else 1e-3
        self.shares = make_shares(settings.form, shape, learning_rate, decay, settings.adaptive)
        self.rho, self.smoothing = rho, smoothing
        self.register_buffer("mean", torch.full(shape if smoothing else (*shape[:-1], 0), torch.nan))

    def weights(self, values: Tensor, present: Tensor) -> Tensor:
        """(..., tasks) factors of the losses, see :meth:`Criterion.weights`."""
        return self.criterion.weights(self.shares.forward(present), values)

    def descend(self, slopes: Tensor, present: Tensor) -> None:
        """Move the shares of the tasks that are present and whose slope is finite."""
        if present is not everyone(present.shape) or not complete(slopes):
            present = present & slopes.isfinite()
        if self.smoothing:
            new = torch.where(self.mean.isnan(), slopes, torch.lerp(slopes, self.mean, self.smoothing))
            self.mean.copy_(torch.where(present, new, self.mean))
            slopes = self.mean
        if self.rho:
            number = present.sum(-1, keepdim=True)
            slopes = slopes + self.rho * (self.shares.forward(present) - 1 / number)
        self.shares.descend(slopes, present)
