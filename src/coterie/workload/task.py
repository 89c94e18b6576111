"""A task: something to predict, with its own loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coterie.errors import SettingError, WorkloadError
from coterie.workload.losses import MarginLoss, get_loss


@dataclass(frozen=True)
class Task:
    """Something to predict, with its own loss.

    Args:
        name: how the task is called in every table; any text, unique in a workload.
        kind: ``"binary"``, ``"multiclass"``, ``"regression"`` or the name of a loss added with
            :func:`coterie.workload.register_loss`.
        classes: number of classes, for ``"multiclass"`` only.
        center: subtracted from raw regression targets (0 when they are used as they are).
        scale: raw regression targets are divided by it; served predictions are multiplied by it.
        head: names (or prefixes of names) of the parameters that belong to this task only;
            empty means that they are found automatically.

    Example:
        >>> Task("toxic", "binary").width
        1
        >>> Task("colour", "multiclass", classes=3).width
        3
    """

    name: str
    kind: str = "binary"
    classes: int | None = None
    center: float = 0.0
    scale: float = 1.0
    head: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WorkloadError(f"Parameter `name` of a task should be a non-empty text. Found {self.name!r}.")
        get_loss(self.kind)
        if self.kind == "multiclass" and (self.classes is None or self.classes < 2):
            raise WorkloadError(
                f"Task {self.name!r} is multiclass and needs `classes` of at least 2. Found classes={self.classes}. "
                "A task with two classes may also be given as kind='binary'."
            )
        if not (math.isfinite(self.scale) and self.scale > 0 and math.isfinite(self.center)):
            raise SettingError(
                f"Task {self.name!r} should have a finite `center` and a positive `scale`. "
                f"Found center={self.center}, scale={self.scale}."
            )

    @property
    def loss(self) -> MarginLoss:
        """The loss of the task."""
        return get_loss(self.kind)

    @property
    def width(self) -> int:
        """Number of model outputs that the task reads."""
        return self.classes or 1 if self.kind == "multiclass" else 1

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return {
            "name": self.name,
            "kind": self.kind,
            "classes": self.classes,
            "center": self.center,
            "scale": self.scale,
            "head": list(self.head),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Task:
        """The inverse of :meth:`to_dict`."""
        fields: dict[str, Any] = {**data, "head": tuple(data.get("head", ()))}
        return Task(**fields)
