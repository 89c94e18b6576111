"""The recipe: how every model of a comparison is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coterie._check import choice, is_number, is_whole
from coterie._surface import known_arguments
from coterie.errors import SettingError

OPTIMIZERS = ("adamw", "adam", "sgd")


@known_arguments
@dataclass(frozen=True)
class Recipe:
    """How every model is trained: base models, forks, groups, single tasks.

    Training minimises the mean loss over the observed labels of the batch, of the tasks of the subset. The validation
    loss (mean over tasks of the mean over their labels) is checked every `check_every` steps; training stops after
    `patience` checks without improvement and the best checkpoint is kept.

    Args:
        optimizer: ``"adamw"``, ``"adam"`` or ``"sgd"``.
        learning_rate: step size.
        weight_decay: decoupled for adamw, L2 otherwise.
        momentum: for sgd only.
        epochs: passes over the subset's training rows at most.
        batch_size: rows per step.
        check_every: steps between validation checks; None means once an epoch.
        patience: checks without improvement before stopping; None trains to the end.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    epochs: int = 50
    batch_size: int = 64
    check_every: int | None = None
    patience: int | None = 3

    def __post_init__(self) -> None:
        choice(self.optimizer, "optimizer", OPTIMIZERS)
        for name, positive in (("learning_rate", True), ("weight_decay", False), ("momentum", False)):
            value: Any = getattr(self, name)
            number = is_number(value) and math.isfinite(value)
            if not number or value < 0 or (positive and value == 0):
                bound = "greater than 0" if positive else "at least 0"
                raise SettingError(
                    f"Parameter `{name}` of the recipe should be a finite number {bound}. Found {value!r}."
                )
        for name in ("epochs", "batch_size", "check_every", "patience"):
            value = getattr(self, name)
            optional = name in ("check_every", "patience")
            if value is None and optional:
                continue
            if not is_whole(value) or value < 1:
                raise SettingError(
                    f"Parameter `{name}` of the recipe should be a whole number of at least 1. Found {value!r}."
                )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`; fields that are left out have their default.

        Raises:
            SettingError: when a field is unknown or out of range.
        """
        return Recipe(**data)
