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
    """A loss that depends on the model through one scalar, the margin. Lower is better."""

    #: ridge strength that suited such losses on the development data (docs/decisions.md)
    default_ridge: float = 0.01
    #: whether labels that are all equal leave nothing to learn
    labels_vary: bool = True

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


class BinaryLoss(MarginLoss):
    """Logistic loss; labels in {0, 1}; the margin is the logit.

    Example:
        >>> float(BinaryLoss().value(torch.tensor(0.0), torch.tensor(1.0)))  # log 2
        0.6931471824645996
    """

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


class MulticlassLoss(MarginLoss):
    """Cross-entropy; labels are class numbers; the margin is the log-odds of the right class.

    ``-log p_y = softplus(-h)`` with ``h = z_y - logsumexp_{c != y} z_c`` holds exactly.
    """

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


class SequenceLoss(MulticlassLoss):
    """Negative log-probability of the right answer; labels are all 1; the margin is the log-odds of that answer.

    The model returns the margin itself, as the right answer is part of its inputs; ``softplus(-h)`` keeps its digits
    where the probability is nearly 1.

    Example:
        >>> f"{float(SequenceLoss().value(torch.tensor(30.0), torch.tensor(1.0))):.3g}"  # -log p with p = 1 - 9.36e-14
        '9.36e-14'
    """

    labels_vary = False

    def margin(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The output."""
        del labels
        return outputs[..., 0]

    def predict(self, outputs: Tensor) -> Tensor:
        """Probability of the answer that was given as an input."""
        return torch.sigmoid(outputs[..., 0])


class RegressionLoss(MarginLoss):
    """Squared error of the prediction; the margin is the prediction."""

    default_ridge = 0.003

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
    """Add a loss for single-output tasks under a new name, for ``Task(kind=name)``.

    Raises:
        SettingError: when the name is taken or `loss` is no MarginLoss.
    """
    if name in _LOSSES:
        raise SettingError(f"Parameter `name`: a loss {name!r} is registered already. Choose another name.")
    if not isinstance(loss, MarginLoss):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(f"Parameter `loss` should be a MarginLoss. Found {type(loss).__name__}.")
    _LOSSES[name] = loss
