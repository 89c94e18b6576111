"""The recipe: how every model of a comparison is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from coterie._check import choice, is_number, is_whole
from coterie._surface import known_arguments
from coterie.errors import SettingError

OPTIMIZERS = ("adamw", "adam", "sgd")
#: named courses of the learning rate
SCHEDULES = ("cosine", "linear", "constant")
AUTOCAST = ("bfloat16",)
#: fields of the first recipe: always told, so that what was stored with them stays valid
_FIRST = frozenset(
    {"optimizer", "learning_rate", "weight_decay", "momentum", "epochs", "batch_size", "check_every", "patience"}
)


@known_arguments
@dataclass(frozen=True, repr=False)
class Recipe:
    """How every model is trained: base models, forks, groups, single tasks.

    Training minimises the mean loss over the observed labels of the batch, of the tasks of the subset. The validation
    loss (mean over tasks of the mean over their labels) is checked every `check_every` steps; training stops after
    `patience` checks without improvement and the best checkpoint is kept. Whatever is set here, validation and test
    losses are plain means in full precision, as the models are served.

    Args:
        optimizer: ``"adamw"``, ``"adam"`` or ``"sgd"``; or a function of the parameters that returns a torch optimiser,
            such as ``functools.partial(torch.optim.NAdam, lr=2e-3)``. A function knows its own step size and decay; the
            fields below stand for named ones, and `learning_rate` for the plain steps that TAG looks ahead with.
        learning_rate: step size.
        weight_decay: decoupled for adamw, L2 otherwise.
        momentum: for sgd only.
        epochs: passes over the subset's training rows at most.
        batch_size: rows per step.
        check_every: steps between validation checks; None means once an epoch.
        patience: checks without improvement before stopping; None trains to the end.
        schedule: course of the learning rate over the steps that a training takes at most: ``"cosine"`` or ``"linear"``
            down to 0, or ``"constant"``, each after `warmup`. Or a function of the optimiser, and of ``steps`` where it
            has a parameter of that name, that returns a torch scheduler, which is stepped after every step:
            ``lambda optimizer, steps: OneCycleLR(optimizer, 0.1, total_steps=steps)``.
        warmup: steps (a whole number), or share of the steps (below 1), in which the rate of a named schedule rises in
            equal parts from 0.
        clip_norm: the gradient of a step is scaled down to this length where it is longer.
        accumulate: pieces in which a batch goes through the model, to save memory; their gradients are added up to that
            of the batch, so nothing else changes.
        autocast: ``"bfloat16"`` for mixed precision in training passes.
        ema: decay of an average of the parameters over the steps, say 0.99; the average is what is checked, kept and
            served. It starts with the parameters after the first step.
        rates: names of modules or parameters -> factor of their learning rate; the longest name that fits counts, as in
            ``{"encoder": 0.1, "encoder.layers.11": 0.3}``.
        class_weights: ``"balanced"``, or a mapping of names of tasks with classes to a weight for each class. The
            training loss is then a weighted mean over labels. ``"balanced"`` gives every class of a task equal weight
            in its training rows, with a mean of 1.
        compile: True, or the name of a backend, has training passes compiled by torch.

    `autocast` and `compile` need the plain loop, one model after the other, and so do optimisers that are not known to
    treat each number apart; a :class:`coterie.FallbackWarning` says so.

    Example:
        >>> Recipe(schedule="cosine", warmup=0.1, clip_norm=1.0, epochs=20).schedule
        'cosine'
    """

    optimizer: str | Callable[..., Any] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    epochs: int = 50
    batch_size: int = 64
    check_every: int | None = None
    patience: int | None = 3
    schedule: str | Callable[..., Any] | None = None
    warmup: float = 0
    clip_norm: float | None = None
    accumulate: int = 1
    autocast: str | None = None
    ema: float | None = None
    rates: Mapping[str, float] | None = field(default=None, hash=False)
    class_weights: str | Mapping[str, Sequence[float]] | None = field(default=None, hash=False)
    compile: bool | str = False

    def __post_init__(self) -> None:
        if not callable(self.optimizer):
            choice(self.optimizer, "optimizer", OPTIMIZERS, of="the recipe, if it is no function of parameters,")
        if self.schedule is not None and not callable(self.schedule):
            choice(self.schedule, "schedule", SCHEDULES, of="the recipe, if it is no function of an optimiser,")
        for name, positive in (("learning_rate", True), ("weight_decay", False), ("momentum", False)):
            _number(name, getattr(self, name), positive=positive)
        for name in ("epochs", "batch_size", "check_every", "patience", "accumulate"):
            value = getattr(self, name)
            optional = name in ("check_every", "patience")
            if value is None and optional:
                continue
            if not is_whole(value) or value < 1:
                raise SettingError(
                    f"Parameter `{name}` of the recipe should be a whole number of at least 1. Found {value!r}."
                )
        self._check_pieces()
        for name in ("rates", "class_weights"):
            value = getattr(self, name)
            if isinstance(value, Mapping):  # a copy, which nobody changes later
                object.__setattr__(self, name, dict(cast("Mapping[str, Any]", value)))

    def _check_pieces(self) -> None:
        _number("warmup", self.warmup, positive=False)
        if self.warmup and self.schedule not in SCHEDULES:
            raise SettingError(
                f"Parameter `warmup`={self.warmup!r} of the recipe belongs to a named `schedule`. Found "
                f"schedule={self.schedule!r}. Give one of {SCHEDULES}, or let your own scheduler warm up."
            )
        if self.warmup >= 1 and not is_whole(self.warmup):
            raise SettingError(
                "Parameter `warmup` of the recipe should be a whole number of steps, or a share of them below 1. Found "
                f"{self.warmup!r}."
            )
        if self.clip_norm is not None:
            _number("clip_norm", self.clip_norm, positive=True)
        if self.autocast is not None:
            hint = " float16 would need its gradients scaled." if self.autocast == "float16" else ""
            if self.autocast not in AUTOCAST:
                raise SettingError(
                    f"Parameter `autocast` of the recipe should be None or one of {AUTOCAST}. Found "
                    f"{self.autocast!r}.{hint}"
                )
        if self.ema is not None and not (is_number(self.ema) and 0 <= self.ema < 1):
            raise SettingError(
                f"Parameter `ema` of the recipe should be a decay from 0 to below 1, say 0.99. Found {self.ema!r}."
            )
        if not isinstance(self.compile, bool | str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingError(
                f"Parameter `compile` of the recipe should be True, False or the name of a backend of torch.compile. "
                f"Found {self.compile!r}."
            )
        _mapping("rates", self.rates, "{'encoder': 0.1}")
        if self.class_weights != "balanced":
            _mapping("class_weights", self.class_weights, "'balanced' or {'sick': [1.0, 5.0]}")

    def __repr__(self) -> str:
        """The call that makes it; what was added to the first recipe shows where it is set."""
        return f"Recipe({', '.join(f'{name}={getattr(self, name)!r}' for name in self._told())})"

    def _told(self) -> list[str]:
        return [f.name for f in fields(self) if f.name in _FIRST or getattr(self, f.name) != f.default]

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The functions among the fields, by name: code that counts for the fingerprint."""
        return {name: getattr(self, name) for name in ("optimizer", "schedule") if callable(getattr(self, name))}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description: functions by their names, and fields that came later where they are set."""
        return {name: _plain(getattr(self, name)) for name in self._told()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict` for recipes without functions; fields that are left out have their default.

        Raises:
            SettingError: when a field is unknown or out of range, or stands for a function.
        """
        return Recipe(**data)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        return [_plain(part) for part in value]
    if callable(value):
        function: Any = getattr(value, "func", value)
        return f"function {getattr(function, '__qualname__', type(function).__qualname__)}"
    return value


def _number(name: str, value: Any, *, positive: bool) -> None:
    number = is_number(value) and math.isfinite(value)
    if not number or value < 0 or (positive and value == 0):
        bound = "greater than 0" if positive else "at least 0"
        raise SettingError(f"Parameter `{name}` of the recipe should be a finite number {bound}. Found {value!r}.")


def _mapping(name: str, value: Any, example: str) -> None:
    """Refuse what is no mapping of names to numbers of at least 0, or to several of them."""
    if value is None:
        return
    good = isinstance(value, Mapping) and len(cast("Mapping[Any, Any]", value)) > 0
    for key, part in cast("Mapping[Any, Any]", value).items() if good else ():
        parts: list[Any] = [part] if name == "rates" else list(part) if isinstance(part, Sequence) else [None]
        numbers = [isinstance(number, int | float) and math.isfinite(number) and number >= 0 for number in parts]
        good = good and isinstance(key, str) and bool(numbers) and all(numbers)
    if not good:
        raise SettingError(
            f"Parameter `{name}` of the recipe should map names to finite numbers of at least 0, as in {example}. "
            f"Found {value!r:.80}."
        )
