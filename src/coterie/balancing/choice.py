"""A choice of balancer that can be compared, hashed and written down: part of what determines a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie._surface import known_arguments
from coterie.balancing.balancer import Balancer
from coterie.balancing.methods import AGGREGATIONS, check_method, get_balancer
from coterie.errors import SettingError

Options = tuple[tuple[str, Any], ...]


@known_arguments
@dataclass(frozen=True)
class Balancing:
    """A method of balancing and its options.

    Args:
        name: one of :data:`coterie.balancing.METHODS`.
        options: of the method, as a mapping or as pairs; numbers, texts, booleans and lists of them.

    Raises:
        SettingError: when the name or an option is unknown or out of range.
        MissingDependencyError: when the method needs a package that is not installed.

    Example:
        >>> Balancing("marigold", {"every": 5})
        Balancing(name='marigold', options=(('every', 5),))
        >>> str(Balancing("marigold", {"every": 5}))
        'marigold (every=5)'
    """

    name: str
    options: Options = field(default=())

    def __post_init__(self) -> None:
        given: Mapping[str, Any] | Options = self.options
        pairs = dict(given)
        options = tuple(
            (option, _plain(option, pairs[option])) for option in sorted(pairs) if pairs[option] is not None
        )
        object.__setattr__(self, "options", options)
        # one of the smallest kind, so that mistakes are found before anything is trained
        get_balancer(self.name, 2, **dict(options))

    @property
    def stackable(self) -> bool:
        """Whether stacked models can be trained with it: methods that weight losses can, those of gradients cannot."""
        return self.name not in AGGREGATIONS

    def make(self, tasks: int, *, seeds: Sequence[int], windows: Sequence[int], members: int | None = None) -> Balancer:
        """The balancer of a training, or of stacked ones.

        Options that a method would better take from the training are filled in where they were not given: `seed` of
        random weights, and `window` of DWA, which is an epoch.

        Args:
            tasks: number of tasks.
            seeds: of the members' trainings; one for a single model.
            windows: steps of an epoch of each member.
            members: see :class:`Balancer`.
        """
        filled = {"rlw": {"seed": seeds}, "dwa": {"window": windows}}.get(self.name, {})
        options: dict[str, Any] = {**filled, **dict(self.options)}
        if self.stackable:
            options["members"] = members
        elif members is not None:
            raise SettingError(
                f"Method {self.name!r} combines gradients, so stacked models cannot be trained with it. Train them one "
                "after the other (backend='loop'), or take one of the methods that weight losses."
            )
        return get_balancer(self.name, tasks, **options)

    def passes(self, tasks: int) -> tuple[float, float]:
        """Forward and backward passes of a training step with so many tasks, on average; (1, 1) without balancing."""
        return get_balancer(self.name, tasks, **dict(self.options)).passes

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return {"name": self.name, "options": {option: _listed(value) for option, value in self.options}}

    def __str__(self) -> str:
        said = ", ".join(f"{option}={value}" for option, value in self.options)
        return f"{self.name} ({said})" if said else self.name


def as_balancing(value: Balancing | str | None) -> Balancing | None:
    """A choice of balancing from what a user gives: a name, a choice, or None for the loss pooled over labels.

    Raises:
        SettingError: when it is none of them, or unknown.
        MissingDependencyError: when the method needs a package that is not installed.

    Example:
        >>> as_balancing("famo")
        Balancing(name='famo', options=())
    """
    if value is None or isinstance(value, Balancing):
        return value
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(
            "Parameter `balancing` should be None, the name of a method such as 'famo', or a "
            f"coterie.balancing.Balancing with options. Found {type(value).__name__}."
        )
    check_method(value, "balancing")
    return Balancing(value)


def balancing_key(balancing: Balancing | None) -> dict[str, Any]:
    """What a balancing adds to settings and to the key of a unit: nothing without one, so that older runs go on."""
    return {} if balancing is None else {"balancing": balancing.to_dict()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        items: Sequence[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return tuple(_plain(name, item) for item in items)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise SettingError(
        f"Option `{name}` of a balancing should be a number, a text, a boolean or a list of them, so that it can be "
        f"compared and written down. Found {type(value).__name__}."
    )


def _listed(value: Any) -> Any:
    """With lists in place of tuples, as JSON gives them back."""
    return [_listed(item) for item in value] if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType]
