"""A task: something to predict, with its own loss."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, cast

from coterie._surface import known_arguments
from coterie.errors import SettingError, WorkloadError
from coterie.workload.losses import MarginLoss, get_loss


@known_arguments
@dataclass(frozen=True)
class Task:
    """Something to predict, with its own loss.

    Args:
        name: how the task is called in every table; any text, unique in a workload.
        kind: ``"binary"``, ``"multiclass"``, ``"regression"`` or the name of a loss added with
            :func:`coterie.workload.register_loss`.
        classes: number of classes, for ``"multiclass"`` and other losses with one output a class only.
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
        self._check_classes()
        self._check_head()
        units: tuple[Any, Any] = (self.center, self.scale)
        if not all(isinstance(value, Real) and math.isfinite(value) for value in units) or self.scale <= 0:
            raise SettingError(
                f"Task {self.name!r} should have a finite `center` and a positive `scale`. "
                f"Found center={self.center}, scale={self.scale}."
            )

    def _check_classes(self) -> None:
        classes: Any = self.classes
        if classes is not None:
            try:
                number = None if isinstance(classes, bool) else operator.index(classes)
            except TypeError:
                number = None
            if number is None:
                raise WorkloadError(
                    f"Task {self.name!r}: parameter `classes` should be a whole number of at least 2. Found "
                    f"{classes!r} ({type(classes).__name__}). For example Task({self.name!r}, 'multiclass', classes=3)."
                )
            object.__setattr__(self, "classes", number)  # numpy's whole numbers cannot be written as JSON
        if self.loss.per_class and (classes is None or classes < 2):
            raise WorkloadError(
                f"Task {self.name!r} is {self.kind} and needs `classes` of at least 2. Found classes={classes}. "
                "A task with two classes may also be given as kind='binary'."
            )
        if not self.loss.per_class and classes is not None and (self.kind, classes) != ("binary", 2):
            raise WorkloadError(
                f"Task {self.name!r}: parameter `classes` is for kind='multiclass' only. Found kind={self.kind!r} with "
                f"classes={classes}. Give kind='multiclass', or leave `classes` out."
            )

    def _check_head(self) -> None:
        head: Any = self.head
        names: list[Any] = list(cast("Sequence[Any]", head)) if isinstance(head, tuple | list) else []
        if not isinstance(head, tuple | list) or not all(isinstance(name, str) and name for name in names):
            raise WorkloadError(
                f"Task {self.name!r}: parameter `head` should be a tuple of names of parameters, or of beginnings of "
                f"such names. Found {head!r} ({type(cast('object', head)).__name__}). One name is given with a comma: "
                "head=('heads.0',)."
            )
        object.__setattr__(self, "head", tuple(names))

    @property
    def loss(self) -> MarginLoss:
        """The loss of the task."""
        return get_loss(self.kind)

    @property
    def width(self) -> int:
        """Number of model outputs that the task reads."""
        return self.classes or 1 if self.loss.per_class else self.loss.outputs

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
