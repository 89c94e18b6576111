"""Shares of the tasks: numbers of at least 0 that add up to one, and how a gradient moves them.

Tensors are (..., tasks). A gradient says how a criterion changes with the shares; the shares move against it. Tasks
that are not present keep what they have, down to the moments of the optimiser.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from coterie._check import choice
from coterie.errors import SettingError

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
FORMS = ("softmax", "simplex")


@cache
def everyone(shape: tuple[int, ...]) -> Tensor:
    """Marks that all tasks are present, on the CPU: always the same tensor, so that asking takes no time."""
    with torch.inference_mode(False):
        return torch.ones(shape, dtype=torch.bool, device="cpu")


def complete(values: Tensor) -> bool:
    """Whether all are finite numbers; asked on the CPU only, as devices would have to wait."""
    values = values.detach()
    return values.device.type == "cpu" and math.isfinite(float(values if values.numel() == 1 else values.sum()))


class Moments(nn.Module):
    """The step of Adam, entry by entry, for entries that are not always there.

    Equal to ``torch.optim.Adam`` (decay added to the gradient) while all entries are present.

    Args:
        shape: of what is optimised.
        learning_rate: size of a step.
        decay: coefficient of the weight decay.
    """

    first: Tensor
    second: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], learning_rate: float, decay: float = 0.0) -> None:
        super().__init__()
        self.learning_rate, self.decay = learning_rate, decay
        for name in ("first", "second", "count"):
            self.register_buffer(name, torch.zeros(shape))
        #: the tensor of counts, its version and its entries; a list, because attributes of modules are slow to set
        self._counted: list[Any] = [None, 0, 0]

    def step(self, values: Tensor, gradient: Tensor, present: Tensor) -> None:
        """Change `values` in place; the same numbers, sooner, when it is known that all are present."""
        if self.decay:
            gradient = gradient.add(values, alpha=self.decay)
        count, first, second = self.count, self.first, self.second
        if present is everyone(present.shape):
            number = self._number()
            count += 1
            first.lerp_(gradient, 1 - BETA1)
            second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            if number is not None:  # numbers in place of tensors of equal entries
                self._counted[:] = count, count._version, number + 1
                root = (1 - BETA2 ** (number + 1)) ** 0.5
                rate = self.learning_rate * root / (1 - BETA1 ** (number + 1))
                values.addcdiv_(first, second.sqrt().add_(EPSILON * root), value=-rate)
                return
            values.addcdiv_(*self._step_and_size(), value=-self.learning_rate)
            return
        count += present
        first.copy_(torch.where(present, first.lerp(gradient, 1 - BETA1), first))
        second.copy_(torch.where(present, (BETA2 * second).addcmul_(gradient, gradient, value=1 - BETA2), second))
        moved = values.addcdiv(*self._step_and_size(), value=-self.learning_rate)
        values.copy_(torch.where(present, moved, values))

    def _step_and_size(self) -> tuple[Tensor, Tensor]:
        # 1 - BETA**count, without what a subtraction of float32 numbers near 1 loses
        first, second = (-torch.expm1(self.count * math.log(beta)) for beta in (BETA1, BETA2))
        return self.first / first, (self.second / second).sqrt_().add_(EPSILON)

    def _number(self) -> int | None:
        """Steps so far where all entries had as many; read from the tensor only after it was changed elsewhere."""
        count = self.count
        if count.device.type != "cpu" or count.is_inference():  # reading would have to wait, or is never remembered
            return None
        tensor, version, number = self._counted
        if tensor is count and version == count._version:
            return number
        low, high = count.aminmax()
        return int(low) if bool(low == high) else None


class SoftmaxShares(nn.Module):
    """Shares as the softmax of logits: every task keeps some.

    Args:
        shape: (..., tasks).
        learning_rate: size of a step in the logits.
        decay: pulls the logits back to 0, that is, the shares to equal ones.
        adaptive: True takes the steps of Adam, whose size does not depend on the scale of the gradient; False takes
            plain gradient steps.
    """

    logits: Tensor

    def __init__(self, shape: tuple[int, ...], learning_rate: float, decay: float, adaptive: bool = True) -> None:
        super().__init__()
        self.learning_rate, self.decay = learning_rate, decay
        self.register_buffer("logits", torch.zeros(shape))
        self.moments = Moments(shape, learning_rate, decay) if adaptive else None

    def forward(self, present: Tensor) -> Tensor:
        """(..., tasks) shares of the tasks that are present, which add up to one; 0 for the others."""
        whole = present is everyone(present.shape)
        return torch.softmax(self.logits if whole else self.logits.masked_fill(~present, -torch.inf), -1)

    def descend(self, gradient: Tensor, present: Tensor) -> None:
        """Move against the gradient of a criterion with respect to the shares of the present tasks.

        Args:
            gradient: (..., tasks).
            present: (..., tasks) bool.
        """
        share = self.forward(present)
        if present is not everyone(present.shape):
            gradient = torch.where(present, gradient, 0.0)
        weighted = share * gradient
        self.move(weighted.addcmul_(share, weighted.sum(-1, keepdim=True), value=-1), present)

    def move(self, gradient: Tensor, present: Tensor) -> None:
        """Move against the gradient of a criterion with respect to the logits of the present tasks."""
        if self.moments is not None:
            self.moments.step(self.logits, gradient, present)
        else:
            moved = self.logits - self.learning_rate * (gradient + self.decay * self.logits)
            self.logits.copy_(torch.where(present, moved, self.logits))


class SimplexShares(nn.Module):
    """Shares themselves, projected back onto the simplex after every step: tasks can drop out entirely.

    Args:
        shape: (..., tasks).
        learning_rate: size of a step in the shares.
        adaptive: True divides the gradient, less its mean over tasks, by a running root mean square that all tasks
            share, so that the scale of the losses does not matter. A scale for each task, as in Adam, would have other
            fixed points than the criterion. False takes plain gradient steps.
    """

    shares: Tensor
    second: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], learning_rate: float, adaptive: bool = True) -> None:
        super().__init__()
        self.learning_rate, self.adaptive = learning_rate, adaptive
        self.register_buffer("shares", torch.full(shape, 1.0 / shape[-1]))
        self.register_buffer("second", torch.zeros(*shape[:-1], 1))
        self.register_buffer("count", torch.zeros(*shape[:-1], 1))

    def forward(self, present: Tensor) -> Tensor:
        """See :class:`SoftmaxShares`; equal when all present tasks have dropped out."""
        share = torch.where(present, self.shares, 0.0)
        mass = share.sum(-1, keepdim=True)
        share = torch.where(mass > 0, share, present.to(share.dtype))
        return share / share.sum(-1, keepdim=True)

    def descend(self, gradient: Tensor, present: Tensor) -> None:
        """See :class:`SoftmaxShares`."""
        number = present.sum(-1, keepdim=True)
        gradient = torch.where(present, gradient, 0.0)
        if self.adaptive:
            gradient = torch.where(present, gradient - gradient.sum(-1, keepdim=True) / number.clamp(min=1), 0.0)
            square = gradient.square().sum(-1, keepdim=True) / number.clamp(min=1)
            self.count += number > 0
            self.second.copy_(torch.where(number > 0, BETA2 * self.second + (1 - BETA2) * square, self.second))
            gradient = gradient / ((self.second / (1 - BETA2**self.count)).sqrt() + EPSILON)
        mass = torch.where(present, self.shares, 0.0).sum(-1, keepdim=True)
        moved = (self(present) - self.learning_rate * gradient).masked_fill(~present, -torch.inf)
        self.shares.copy_(torch.where(present, mass * project_to_simplex(moved), self.shares))


def make_shares(
    form: str, shape: tuple[int, ...], learning_rate: float, decay: float = 0.0, adaptive: bool = True
) -> SoftmaxShares | SimplexShares:
    """Shares of the form ``"softmax"`` or ``"simplex"``.

    Raises:
        SettingError: when the form is unknown, or a decay is asked for where there are no logits.
    """
    if form == "softmax":
        return SoftmaxShares(shape, learning_rate, decay, adaptive)
    choice(form, "form", FORMS)
    if decay:
        raise SettingError(f"Parameter `decay` needs form='softmax', whose logits it pulls to 0. Found {decay!r}.")
    return SimplexShares(shape, learning_rate, adaptive)


def project_to_simplex(values: Tensor) -> Tensor:
    """The nearest point with entries of at least 0 that add up to one, along the last dimension.

    Args:
        values: (..., tasks); entries of minus infinity get 0.

    Source: Held, Wolfe and Crowder 1974; sorting instead of a loop.

    Example:
        >>> project_to_simplex(torch.tensor([0.9, 0.5, -3.0]))
        tensor([0.7000, 0.3000, 0.0000])
    """
    ordered = values.sort(-1, descending=True).values
    rank = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=values.dtype)
    level = (ordered.cumsum(-1) - 1) / rank
    inside = (ordered > level).sum(-1, keepdim=True).clamp(min=1)
    return (values - level.gather(-1, inside - 1)).clamp(min=0.0)


def task_means(losses: Tensor, observed: Tensor) -> Tensor:
    """Mean loss of each task over the rows where its label is known; NaN for tasks without any.

    Dividing by a count of 0 would also give NaN, but its derivative would turn every gradient into NaN.

    Args:
        losses: (..., rows, tasks) with any finite value where a label is missing.
        observed: (..., rows, tasks) bool, where labels are known.

    Returns:
        (..., tasks).

    Example:
        >>> losses = torch.tensor([[1.0, 5.0, 0.0], [3.0, 0.0, 0.0]])
        >>> task_means(losses, torch.tensor([[True, True, False], [True, False, False]]))
        tensor([2., 5., nan])
    """
    count = observed.sum(-2)
    mean = torch.where(observed, losses, 0.0).sum(-2) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.nan)
