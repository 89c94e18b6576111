"""Losses as functions of one scalar margin per example.

Grad-TAE linearises a scalar, the *margin* ``h(x, t)``, whose loss is the loss of the task (see
``docs/fidelity.md``): the logit for binary tasks, the log-odds of the right class for multi-class tasks, the prediction
for regression. Each loss knows its margin, its value and its first two derivatives with respect to the margin.
All functions are elementwise and broadcast, so that they run under ``vmap`` and forward-mode differentiation. Labels
must be finite: callers fill missing labels with 0 and mask the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import softplus

from coterie.errors import SettingError


class MarginLoss(ABC):
    """A loss that depends on the model through one scalar, the margin. Lower is better.

    A loss of your own, added with :func:`register_loss`, defines :meth:`value`, :meth:`first`, :meth:`second` and
    :meth:`predict`, and says by the attributes below how its labels are read. What resembles a built-in loss is best
    derived from it.
    """

    #: ridge strength that suited such losses on the development data (docs/decisions.md)
    default_ridge: float = 0.01
    #: whether labels that are all equal leave nothing to learn
    labels_vary: bool = True
    #: whether labels are classes (0 and 1, or with `per_class` 0, 1, 2, ...): never standardised, counted where rare
    discrete: bool = False
    #: whether the model returns one output a class; such tasks need ``Task(classes=...)``
    per_class: bool = False
    #: numbers that the model returns for a task, where they are not one a class
    outputs: int = 1
    #: whether targets are brought to mean 0 and standard deviation 1, and predictions back; None: where predictions are
    #: the outputs themselves, so that both are in the units of the labels, and labels have more than two values
    standardize: bool | None = None
    #: what a mean loss is, for reports
    unit: str = "the mean of the registered loss, in standard deviations of the target where it is standardised"
    #: what predictions may also be judged by: ``"AUC"``, ``"R2"`` or nothing
    score: str | None = None

    def margin(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Margin (...) of raw outputs (..., width) for labels (...)."""
        del labels
        return outputs[..., 0]

    @abstractmethod
    def value(self, margin: Tensor, labels: Tensor) -> Tensor:
        """Loss of each example, in nats or squared target units."""

    @abstractmethod
    def first(self, margin: Tensor, labels: Tensor) -> Tensor:
        """First derivative of the loss with respect to the margin."""

    @abstractmethod
    def second(self, margin: Tensor, labels: Tensor) -> Tensor:
        """Second derivative of the loss with respect to the margin; at least 0."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """What is served: (...) for one output, (..., classes) for several."""

    def point(self, predictions: Tensor) -> Tensor:
        """One number, or the probabilities of the classes, of each prediction: what metrics look at."""
        return predictions

    def curvature(self, margin: Tensor, labels: Tensor) -> Tensor:
        """Second derivative for quadratic models of the loss; where it is 0, that of the loss averaged over a unit.

        A loss with a kink, as of quantiles, has no curvature at any point and yet a minimum.
        """
        exact = self.second(margin, labels)
        averaged = self.first(margin + 0.5, labels) - self.first(margin - 0.5, labels)
        return torch.where(exact > 0, exact, averaged.clamp_min(0))

    def constant(self, labels: Tensor) -> float:
        """Mean loss of the best constant margin: the level before anything is learnt from the inputs.

        Args:
            labels: (n,) known labels in training units. Of more than 4,096 evenly spaced ones are taken.

        Example:
            >>> round(RegressionLoss().constant(torch.tensor([1.0, 2.0, 3.0])), 4)
            0.6667
            >>> round(MarginLoss.constant(RegressionLoss(), torch.tensor([1.0, 2.0, 3.0])), 4)
            0.6667
        """
        labels = labels.double()[:: max(1, len(labels) // 4096)]
        low, high = min(-30.0, float(labels.min())), max(30.0, float(labels.max()))
        best = float("inf")
        for _ in range(12):  # the mean is convex, so its minimum is beside the lowest of the points
            points = torch.linspace(low, high, 33, dtype=torch.float64, device=labels.device)
            means = torch.nan_to_num(self.value(points[:, None], labels).mean(1), nan=torch.inf)
            lowest = int(means.argmin())
            best = min(best, float(means[lowest]))
            low, high = float(points[max(lowest - 1, 0)]), float(points[min(lowest + 1, 32)])
        return best

    def standardizes(self, labels: Tensor) -> bool:
        """Whether such labels (n,) are standardised for training; see `standardize`."""
        if self.standardize is not None or self.discrete:
            return bool(self.standardize)
        points = torch.linspace(-3, 3, 7)[:, None]
        return len(labels.unique()) > 2 and torch.equal(self.predict(points), points[:, 0])

    def decode(self, outputs: Tensor, center: float, scale: float) -> Tensor:
        """Predictions in the units of the raw labels, float64, from raw outputs (..., width)."""
        values = self.predict(outputs).double()
        return values if self.discrete else values * scale + center


class BinaryLoss(MarginLoss):
    """Logistic loss; labels in {0, 1}; the margin is the logit.

    Example:
        >>> float(BinaryLoss().value(torch.tensor(0.0), torch.tensor(1.0)))  # log 2
        0.6931471824645996
    """

    discrete = True
    unit = "the mean log loss"
    score = "AUC"

    def value(self, margin: Tensor, labels: Tensor) -> Tensor:
        """softplus(h) - y h."""
        return softplus(margin) - labels * margin

    def first(self, margin: Tensor, labels: Tensor) -> Tensor:
        """sigmoid(h) - y."""
        return torch.sigmoid(margin) - labels

    def second(self, margin: Tensor, labels: Tensor) -> Tensor:
        """sigmoid(h) (1 - sigmoid(h))."""
        del labels
        p = torch.sigmoid(margin)
        return p * (1 - p)

    def predict(self, outputs: Tensor) -> Tensor:
        """Probability of label 1."""
        return torch.sigmoid(outputs[..., 0])

    def constant(self, labels: Tensor) -> float:
        """Entropy of the labels."""
        return _entropy(labels)


class MulticlassLoss(MarginLoss):
    """Cross-entropy; labels are class numbers; the margin is the log-odds of the right class.

    ``-log p_y = softplus(-h)`` with ``h = z_y - logsumexp_{c != y} z_c`` holds exactly.
    """

    discrete = True
    per_class = True
    unit = "the mean log loss"

    def margin(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """z_y - logsumexp of the other classes."""
        right = labels.long()[..., None] == torch.arange(outputs.shape[-1], device=outputs.device)
        own = torch.where(right, outputs, torch.zeros_like(outputs)).sum(-1)
        others = torch.logsumexp(torch.where(right, torch.full_like(outputs, -1e30), outputs), -1)
        return own - others

    def value(self, margin: Tensor, labels: Tensor) -> Tensor:
        """softplus(-h)."""
        del labels
        return softplus(-margin)

    def first(self, margin: Tensor, labels: Tensor) -> Tensor:
        """-sigmoid(-h)."""
        del labels
        return -torch.sigmoid(-margin)

    def second(self, margin: Tensor, labels: Tensor) -> Tensor:
        """sigmoid(h) (1 - sigmoid(h))."""
        del labels
        p = torch.sigmoid(margin)
        return p * (1 - p)

    def predict(self, outputs: Tensor) -> Tensor:
        """Probability of each class."""
        return torch.softmax(outputs, -1)

    def constant(self, labels: Tensor) -> float:
        """Entropy of the labels."""
        return _entropy(labels)


class SequenceLoss(MulticlassLoss):
    """Negative log-probability of the right answer; labels are all 1; the margin is the log-odds of that answer.

    The model returns the margin itself, as the right answer is part of its inputs; ``softplus(-h)`` keeps its digits
    where the probability is nearly 1.

    Example:
        >>> f"{float(SequenceLoss().value(torch.tensor(30.0), torch.tensor(1.0))):.3g}"  # -log p with p = 1 - 9.36e-14
        '9.36e-14'
    """

    labels_vary = False
    discrete = False
    per_class = False
    standardize = False
    unit = "the mean negative log-probability of an answer, in nats"
    margin = MarginLoss.margin

    def predict(self, outputs: Tensor) -> Tensor:
        """Probability of the answer that was given as an input."""
        return torch.sigmoid(outputs[..., 0])


class RegressionLoss(MarginLoss):
    """Squared error of the prediction; the margin is the prediction."""

    default_ridge = 0.003
    standardize = True
    unit = "the mean squared error of the standardised target, in units of its training variance"
    score = "R2"

    def value(self, margin: Tensor, labels: Tensor) -> Tensor:
        """(h - y)^2."""
        return (margin - labels) ** 2

    def first(self, margin: Tensor, labels: Tensor) -> Tensor:
        """2 (h - y)."""
        return 2 * (margin - labels)

    def second(self, margin: Tensor, labels: Tensor) -> Tensor:
        """2."""
        return torch.full_like(margin, 2.0)

    def predict(self, outputs: Tensor) -> Tensor:
        """The prediction, in the units that the model was trained on."""
        return outputs[..., 0]


def _entropy(labels: Tensor) -> float:
    shares = torch.bincount(labels.long().clamp_min(0)).double() / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * shares.log()).sum())


_LOSSES: dict[str, MarginLoss] = {
    "binary": BinaryLoss(),
    "multiclass": MulticlassLoss(),
    "regression": RegressionLoss(),
    "sequence": SequenceLoss(),
}


def get_loss(kind: str) -> MarginLoss:
    """The loss registered under a name.

    Raises:
        SettingError: when there is none.
    """
    if kind not in _LOSSES:
        raise SettingError(
            f"Parameter `kind` should be one of {sorted(_LOSSES)}. Found {kind!r}. "
            "Add your own with coterie.workload.register_loss(name, loss)."
        )
    return _LOSSES[kind]


def register_loss(name: str, loss: MarginLoss) -> None:
    """Add a loss under a new name, for ``Task(kind=name)``.

    Programs that read such a run or serve its models have to register it, too.

    Raises:
        SettingError: when the name is taken or `loss` is no MarginLoss.
    """
    if not (isinstance(name, str) and name.strip()):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(f"Parameter `name` of a loss should be a word for Task(kind=...). Found {name!r}.")
    if name in _LOSSES:
        raise SettingError(f"Parameter `name`: a loss {name!r} is registered already. Choose another name.")
    if not isinstance(loss, MarginLoss):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(f"Parameter `loss` should be a MarginLoss. Found {type(loss).__name__}.")
    _LOSSES[name] = loss
