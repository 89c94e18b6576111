"""Which function of a loss is balanced: the loss itself, or its logarithm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coterie._check import choice
from coterie.balancing.shares import everyone
from coterie.errors import SettingError

PHIS = ("identity", "log")
EPSILON = 1e-8
#: how far below its floor a loss may lie by rounding, in units of the larger of one and the floor: as one minus a
#: cosine similarity, or a divergence, in float32
ROUNDING = 1e-5


def check_floor(values: Tensor, floor: float, which: str, otherwise: str) -> None:
    """Raise SettingError where losses are below the floor by more than rounding: ratios or logarithms mean nothing."""
    least, allowed = float(values.min()), floor - ROUNDING * max(1.0, abs(floor))
    if least < allowed or (math.isnan(least) and bool((values < allowed).any())):  # NaN would hide the others
        raise SettingError(
            f"{which} loss should be at least `floor`, {floor:g}. Found {float(values.min()):g}. Set `floor` to the "
            f"lowest value that a loss can take, {otherwise}."
        )


class Criterion:
    """A function phi of the losses, and the weights that follow when shares of phi are wanted.

    Args:
        phi: ``"identity"`` for the losses as they are, or ``"log"`` for the logarithm of their distance from `floor`,
            which does not depend on the scale of a loss.
        floor: lowest value that a loss can take; only for ``"log"``.

    Raises:
        SettingError: when `phi` is unknown.
    """

    def __init__(self, phi: str, floor: float = 0.0) -> None:
        choice(phi, "phi", PHIS)
        self.log, self.floor = phi == "log", floor

    def check(self, values: Tensor, present: Tensor) -> None:
        """Raise SettingError for losses below the floor."""
        if self.log:
            if present is not everyone(present.shape):
                values = torch.where(present, values, torch.inf)
            otherwise = "or take a method without logarithms, such as 'equal' or MARIGOLD with phi='identity'"
            check_floor(values, self.floor, "Where logarithms are balanced, every", otherwise)

    def __call__(self, values: Tensor) -> Tensor:
        """phi of the losses."""
        return self.distance(values).log_() if self.log else values

    def weights(self, shares: Tensor, values: Tensor) -> Tensor:
        """Factors of the losses whose weighted sum has the gradient of the shared-out phi, scaled to add up to one.

        For the logarithm, the gradient of ``sum_i share_i log(l_i)`` is that of ``sum_i (share_i / l_i) l_i`` with the
        factors held still.
        """
        if not self.log:
            return shares
        factors = shares / self.distance(values)
        return factors.div_(factors.sum(-1, keepdim=True))

    def distance(self, values: Tensor) -> Tensor:
        """Distances of the losses from the floor, never 0."""
        return (values - self.floor if self.floor else values).clamp(min=0).add_(EPSILON)
