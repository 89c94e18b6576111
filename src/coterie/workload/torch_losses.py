"""Losses from any torch function of outputs and labels, with derivatives by autograd; some that are often wanted.

With one output a task, the margin is the output, as in built-in losses. With several, no single number decides the
loss; its square root then stands for one. Along it the loss is a parabola with its lowest value at 0, which is the
Gauss-Newton view of a loss: linearised around a model it stays at least 0, has a minimum, and for squared errors it is
exact. So methods that linearise margins work with any loss that has a lowest value.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad
from torch.nn.functional import softplus

from coterie._check import is_number, whole_number
from coterie._surface import known_arguments
from coterie.errors import ModelError, SettingError, WorkloadError
from coterie.workload.losses import MarginLoss

#: keeps the slope of the square root finite where a loss is at its lowest; taken off again from values
_SMOOTH = 1e-3
#: steps of L-BFGS for the best constant outputs
_STEPS = 100


@known_arguments
class TorchLoss(MarginLoss):
    """A loss from a function of outputs and labels. Lower is better.

    Args:
        function: ``function(outputs, labels)`` -> one loss for each label, without a mean, of torch operations.
            `outputs` have the shape of `labels`, with a last dimension of `outputs` or of the classes where there are
            several. Missing labels are 0 and masked afterwards, so it must be finite there, too.
        outputs: numbers that the model returns for the task.
        classes: True where labels are classes and the model returns one output a class (``Task(classes=...)``).
        predict: outputs -> what is served; None serves the outputs, or for classes their softmax.
        discrete: True where labels are 0 and 1, which are never standardised; with `classes` they always are.
        standardize: whether targets are trained at mean 0 and standard deviation 1 and predictions brought back; None:
            where predictions are the outputs themselves.
        lowest: lowest value of the loss, with several outputs.
        unit: what a mean loss is, for reports.

    Raises:
        SettingError: when an argument is out of range.

    Example:
        >>> loss = TorchLoss(lambda margin, labels: (margin - labels) ** 4)
        >>> float(loss.first(torch.tensor(2.0), torch.tensor(1.0)))
        4.0
        >>> pair = TorchLoss(lambda outputs, labels: (outputs.sum(-1) - labels) ** 2, outputs=2)
        >>> h = pair.margin(torch.tensor([1.0, 3.0]), torch.tensor(1.0))
        >>> round(float(pair.value(h, torch.tensor(1.0))), 4)
        9.0
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        *,
        outputs: int = 1,
        classes: bool = False,
        predict: Callable[[Tensor], Tensor] | None = None,
        discrete: bool = False,
        standardize: bool | None = None,
        lowest: float = 0.0,
        unit: str | None = None,
    ) -> None:
        if not callable(function):
            raise SettingError(
                f"Parameter `function` of a loss should be callable. Found {function!r}. For example "
                "TorchLoss(lambda outputs, labels: (outputs - labels) ** 4)."
            )
        if not (is_number(lowest) and abs(lowest) < float("inf")):
            raise SettingError(f"Parameter `lowest` of a loss should be a finite number. Found {lowest!r}.")
        self.function, self.decoder, self.lowest = function, predict, float(lowest)
        self.outputs = whole_number(outputs, "outputs", low=1)
        self.per_class, self.discrete, self.standardize = classes, discrete or classes, standardize
        self.unit = unit or MarginLoss.unit

    @property
    def scalar(self) -> bool:
        """Whether the loss depends on one output."""
        return self.outputs == 1 and not self.per_class

    def _losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        expected = torch.broadcast_shapes(outputs.shape if self.scalar else outputs.shape[:-1], labels.shape)
        outputs = outputs.expand(expected if self.scalar else (*expected, outputs.shape[-1]))
        title = getattr(self.function, "__name__", type(self.function).__name__)
        try:
            found = self.function(outputs, labels.expand(expected))
        except TypeError as error:
            raise ModelError(
                f"The function {title!r} of a loss failed with {error}. It is called as function(outputs, labels) with "
                "two tensors: take both, and use torch operations only."
            ) from error
        if not isinstance(found, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ModelError(
                f"The function {title!r} of a loss should return a tensor with one loss for each label. Found "
                f"{type(found).__name__}. A missing return or operations of NumPy are likely causes."
            )
        if found.shape != expected:
            raise WorkloadError(
                f"The function of a loss should return one loss for each label, {tuple(expected)}. Found shape "
                f"{tuple(found.shape)}. A mean over the batch is a likely cause: take it out, as with reduction='none'."
            )
        return found

    def margin(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The output; with several, the square root of the loss above its lowest value."""
        if self.scalar:
            return outputs[..., 0]
        return ((self._losses(outputs, labels) - self.lowest).clamp_min(0) + _SMOOTH).sqrt()

    def value(self, margin: Tensor, labels: Tensor) -> Tensor:
        """Loss of each label."""
        if self.scalar:
            return self._losses(margin, labels)
        return margin**2 - _SMOOTH + self.lowest

    def first(self, margin: Tensor, labels: Tensor) -> Tensor:
        """First derivative by the margin: by autograd, or that of a square."""
        if not self.scalar:
            return 2 * margin
        return grad(lambda h: self._losses(h, labels).sum())(margin)

    def second(self, margin: Tensor, labels: Tensor) -> Tensor:
        """Second derivative by the margin, 0 where it is negative: by autograd, or that of a square."""
        if not self.scalar:
            return torch.full_like(margin, 2.0)
        return grad(lambda h: self.first(h, labels).sum())(margin).clamp_min(0)

    def predict(self, outputs: Tensor) -> Tensor:
        """What is served."""
        if self.decoder is not None:
            return self.decoder(outputs)
        if self.per_class:
            return torch.softmax(outputs, -1)
        return outputs[..., 0] if self.scalar else outputs

    def standardizes(self, labels: Tensor) -> bool:
        """Whether such labels are standardised for training."""
        if self.scalar or self.standardize is not None or self.discrete:
            return super().standardizes(labels)
        return self.decoder is None and len(labels.unique()) > 2

    def constant(self, labels: Tensor) -> float:
        """Mean loss of the best constant outputs."""
        if self.scalar:
            return super().constant(labels)
        labels = labels.double()[:: max(1, len(labels) // 4096)]
        width = int(labels.max()) + 1 if self.per_class else self.outputs
        best = torch.zeros(width, dtype=torch.float64, device=labels.device, requires_grad=True)
        search = torch.optim.LBFGS([best], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def mean() -> Tensor:
            search.zero_grad()
            loss = self._losses(best.expand(len(labels), -1), labels).mean()
            loss.backward()
            return loss

        with torch.enable_grad():
            search.step(mean)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            return float(self._losses(best.expand(len(labels), -1), labels).mean())


@known_arguments
class QuantileLoss(TorchLoss):
    """Mean pinball loss of several quantiles, one output each.

    Args:
        levels: of the quantiles, between 0 and 1, in rising order.

    Served are the quantiles in the units of the labels, (rows, levels), sorted. Metrics look at the middle one.

    Source: Koenker & Bassett (1978), Regression quantiles.

    Example:
        >>> loss = QuantileLoss(0.1, 0.5, 0.9)
        >>> round(float(loss.function(torch.tensor([0.0, 0.0, 0.0]), torch.tensor(1.0))), 4)
        0.5
    """

    def __init__(self, *levels: float) -> None:
        good = all(is_number(level) and 0 < level < 1 for level in levels)
        if len(levels) < 2 or not good or sorted(set(levels)) != list(levels):
            raise SettingError(
                f"Parameter `levels` should be at least two numbers between 0 and 1 in rising order. Found {levels!r}."
            )
        self.levels = tuple(float(level) for level in levels)
        super().__init__(self._pinball, outputs=len(levels), unit="the mean pinball loss, in standard deviations")

    def _pinball(self, outputs: Tensor, labels: Tensor) -> Tensor:
        levels = torch.tensor(self.levels, dtype=outputs.dtype, device=outputs.device)
        error = labels[..., None] - outputs
        return torch.maximum(levels * error, (levels - 1) * error).mean(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        """The quantiles, sorted."""
        return outputs.sort(-1).values

    def point(self, predictions: Tensor) -> Tensor:
        """The middle quantile."""
        return predictions[..., len(self.levels) // 2]


@known_arguments
class GaussianLoss(TorchLoss):
    """Negative log-likelihood of a normal distribution with its own mean and standard deviation for each row.

    Two outputs: the mean, and a number whose softplus above `least` is the standard deviation. The loss is told above
    that of a sure and right prediction with the smallest deviation, so that it is at least 0 and ratios make sense.

    Args:
        least: smallest standard deviation, as a share of that of the labels.

    Served are mean and standard deviation in the units of the labels, (rows, 2). Metrics look at the mean.

    Example:
        >>> loss = GaussianLoss(least=0.1)
        >>> float(loss.function(torch.tensor([1.0, -50.0]), torch.tensor(1.0)))
        0.0
    """

    def __init__(self, *, least: float = 0.05) -> None:
        if not (is_number(least) and 0 < least < 1):
            raise SettingError(f"Parameter `least` should be a share between 0 and 1. Found {least!r}.")
        self.least = float(least)
        unit = "the mean negative log-likelihood above its lowest value, in nats"
        super().__init__(self._likelihood, outputs=2, standardize=True, unit=unit)

    def _likelihood(self, outputs: Tensor, labels: Tensor) -> Tensor:
        deviation = self.least + softplus(outputs[..., 1])
        return torch.log(deviation / self.least) + ((labels - outputs[..., 0]) / deviation) ** 2 / 2

    def predict(self, outputs: Tensor) -> Tensor:
        """Mean and standard deviation, in training units."""
        return torch.stack([outputs[..., 0], self.least + softplus(outputs[..., 1])], -1)

    def decode(self, outputs: Tensor, center: float, scale: float) -> Tensor:
        """Mean and standard deviation in the units of the labels, float64."""
        served = self.predict(outputs).double() * scale
        return served + served.new_tensor([center, 0.0])

    def point(self, predictions: Tensor) -> Tensor:
        """The mean."""
        return predictions[..., 0]


@known_arguments
class FocalLoss(TorchLoss):
    """Focal loss of a binary task: the log loss times how far the right class is from certain, to a power.

    Args:
        gamma: the power; 0 is the log loss.

    Source: Lin et al. (2017), Focal loss for dense object detection, equation 4.

    Example:
        >>> loss = FocalLoss(2.0)
        >>> round(float(loss.value(torch.tensor(0.0), torch.tensor(1.0))), 4)  # a quarter of log 2
        0.1733
    """

    def __init__(self, gamma: float = 2.0) -> None:
        if not (is_number(gamma) and 0 <= gamma < 100):
            raise SettingError(f"Parameter `gamma` should be a number of at least 0. Found {gamma!r}.")
        self.gamma = float(gamma)
        super().__init__(self._focal, discrete=True, predict=_chance, unit="the mean focal loss")
        self.score = "AUC"

    def _focal(self, margin: Tensor, labels: Tensor) -> Tensor:
        towards = (2 * labels - 1) * margin
        return torch.sigmoid(-towards) ** self.gamma * softplus(-towards)


@known_arguments
class SmoothedLoss(TorchLoss):
    """Cross-entropy of classes with smoothed labels: a share of each label is spread evenly over all classes.

    Args:
        smoothing: the share.

    Source: Szegedy et al. (2016), Rethinking the Inception architecture, section 7.

    Example:
        >>> SmoothedLoss(0.1).per_class
        True
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        if not (is_number(smoothing) and 0 <= smoothing < 1):
            raise SettingError(f"Parameter `smoothing` should be a share from 0 to below 1. Found {smoothing!r}.")
        self.smoothing = float(smoothing)
        super().__init__(self._smoothed, classes=True, unit="the mean log loss against smoothed labels")

    def _smoothed(self, outputs: Tensor, labels: Tensor) -> Tensor:
        logs = torch.log_softmax(outputs, -1)
        right = labels.long()[..., None] == torch.arange(outputs.shape[-1], device=outputs.device)
        own = torch.where(right, logs, torch.zeros_like(logs)).sum(-1)
        return -(1 - self.smoothing) * own - self.smoothing * logs.mean(-1)


def _chance(outputs: Tensor) -> Tensor:
    return torch.sigmoid(outputs[..., 0])
