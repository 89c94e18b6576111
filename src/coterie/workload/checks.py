"""Checks of single arguments: seeds, devices, widths, groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch

from coterie._check import is_whole, plain
from coterie.errors import SettingError, WorkloadError
from coterie.workload.recipe import Recipe


def as_device(device: Any) -> torch.device:
    """A device that tensors can be put on.

    Raises:
        SettingError: when there is no such device here.

    Example:
        >>> as_device("cpu")
        device(type='cpu')
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise SettingError(
            f"Parameter `device` should be a device of this computer. Found {device!r} ({reason}). The likely cause "
            f"is a wrong name, or torch installed without support for it. Found here: {', '.join(there)}."
        ) from error
    return found


def as_widths(hidden: Any) -> tuple[Any, ...]:
    """Widths of hidden layers: a sequence, or one whole number for one layer. The numbers are checked by mlp_spec."""
    if is_whole(hidden):
        return (int(hidden),)
    if isinstance(hidden, str) or not isinstance(hidden, Iterable):
        raise SettingError(
            f"Parameter `hidden` should be the widths of the hidden layers. Found {hidden!r} "
            f"({type(hidden).__name__}). For example hidden=(64, 32), or hidden=() for a linear model."
        )
    return tuple(plain(width) for width in cast("Iterable[Any]", hidden))


def as_recipe(recipe: Any) -> Recipe:
    """A recipe from a :class:`Recipe`, a mapping of its fields, or None for the default one.

    Raises:
        SettingError: when it is something else.
    """
    if recipe is None:
        return Recipe()
    if isinstance(recipe, Mapping):
        return Recipe.from_dict(cast("Mapping[str, Any]", recipe))
    if not isinstance(recipe, Recipe):
        raise SettingError(
            f"Parameter `recipe` should be a coterie.Recipe or a mapping of its fields. Found {recipe!r} "
            f"({type(recipe).__name__}). For example recipe=coterie.Recipe(epochs=20)."
        )
    return recipe


def as_name(name: Any) -> str:
    """The name of a workload; SettingError when it is no text."""
    if not isinstance(name, str):
        raise SettingError(
            f"Parameter `name` should be a text for tables and reports. Found {name!r} ({type(name).__name__}). "
            "Leave it out for the default, 'workload'."
        )
    return name


def as_groups(groups: Any) -> tuple[tuple[str, ...], ...] | None:
    """Known groups as tuples of task names; names and overlaps are checked with the tasks.

    Raises:
        WorkloadError: when it is no list of lists; a text in place of a group would be read letter by letter.
    """
    if groups is None:
        return None
    example = "For example known_groups=[['a', 'b'], ['c']]."
    if isinstance(groups, str | Mapping) or not isinstance(groups, Iterable):
        raise WorkloadError(
            f"Parameter `known_groups` should be a list of lists of task names. Found {groups!r} "
            f"({type(cast('object', groups)).__name__}). {example}"
        )
    made: list[tuple[str, ...]] = []
    for group in cast("Iterable[Any]", groups):
        names: list[Any] = [] if isinstance(group, str) or not isinstance(group, Iterable) else list(group)
        if not names or not all(isinstance(name, str) for name in names):
            raise WorkloadError(
                f"Parameter `known_groups` should be a list of lists of task names. Found {group!r} "
                f"({type(group).__name__}) in place of a list of names. Likely causes are a group of one task without "
                f"its brackets, an empty group, or numbers in place of names. {example}"
            )
        made.append(tuple(names))
    return tuple(made)


def check_groups(groups: tuple[tuple[str, ...], ...] | None, names: tuple[str, ...]) -> None:
    """Raise WorkloadError when groups have names that are no tasks, or share a task. Tasks may be left out."""
    counts = Counter(name for group in groups or () for name in group)
    unknown = [name for name in counts if name not in set(names)]
    if unknown:
        raise WorkloadError(
            f"Parameter `known_groups` has names that are no tasks: {unknown[:5]}. The tasks are "
            f"{sorted(names)[:5]}, ..."
        )
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise WorkloadError(
            f"Parameter `known_groups` should put each task in one group at most. Found more than once: "
            f"{repeated[:5]}. The likely cause is overlapping groups, which cannot be compared with a partition: keep "
            "each task in one of them. Tasks may be left out."
        )
