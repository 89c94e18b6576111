"""Candidates and seeds in the forms in which a caller may bring them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie._check import is_whole
from coterie.errors import SettingError
from coterie.grouping import Grouping


def as_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Training seeds: a number of them, or they themselves.

    Raises:
        SettingError: when there is none, or something is no whole number from 0.

    Example:
        >>> as_seeds(2), as_seeds((7, 9))
        ([0, 1], [7, 9])
    """
    given: Any = _listed(seeds)
    if is_whole(given):
        given = range(int(given))
    found: list[Any] = list(given) if isinstance(given, Sequence) else []
    good = all(is_whole(seed) and seed >= 0 for seed in found)
    if not found or not good or len(set(found)) < len(found):
        raise SettingError(
            "Parameter `seeds` should be a number of seeds, at least 1, or different whole numbers from 0. "
            f"Found {seeds!r}."
        )
    return [int(seed) for seed in found]


def as_groupings(candidates: Mapping[str, Any], tasks: tuple[str, ...]) -> dict[str, Grouping]:
    """Candidates as groupings of the workload's tasks.

    Raises:
        SettingError: when they are no mapping, name other tasks, or do not put each task into one group.
    """
    if not isinstance(candidates, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(
            f"Parameter `candidates` should map names to groupings. Found {type(candidates).__name__}. "
            "Write {'mine': [['a', 'b'], ['c']]}."
        )
    return {str(name): _grouping(str(name), value, tasks) for name, value in candidates.items()}


def _grouping(name: str, value: Any, tasks: tuple[str, ...]) -> Grouping:
    if isinstance(value, Mapping) or hasattr(value, "iloc"):  # a label of each task
        return Grouping.from_labels(tasks, value, method="given")
    if isinstance(value, Grouping):
        if set(value.tasks) == set(tasks):
            return value if value.tasks == tasks else _reordered(value, tasks)
        raise SettingError(
            f"Parameter `candidates`: the grouping {name!r} is of other tasks ({list(value.tasks)[:3]}...) than "
            f"the workload ({list(tasks)[:3]}...). Group the affinity of this workload."
        )
    labels: dict[str, int] = {}
    value = _listed(value)
    groups: list[Any] = list(map(_listed, value)) if isinstance(value, Sequence) else []
    for number, group in enumerate(groups):
        members: list[Any] = list(group) if isinstance(group, Sequence) and not isinstance(group, str) else []
        for task in members:
            known = tasks[int(task)] if is_whole(task) and 0 <= task < len(tasks) else task
            if known not in tasks or known in labels:
                raise SettingError(
                    f"Parameter `candidates`: the grouping {name!r} names {task!r}, which is no task or is named twice."
                )
            labels[str(known)] = number
    missing = [task for task in tasks if task not in labels]
    if missing:
        raise SettingError(
            f"Parameter `candidates`: the grouping {name!r} should be a Grouping, or lists that hold each task once. "
            f"Missing: {missing[:5]}."
        )
    return Grouping.from_labels(tasks, [labels[task] for task in tasks], method="given")


def _listed(values: Any) -> Any:
    """Arrays, tensors and indexes of pandas as lists; everything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def _reordered(grouping: Grouping, tasks: tuple[str, ...]) -> Grouping:
    """The same groups for the same tasks in another order."""
    place = {name: number for number, name in enumerate(tasks)}
    groups = tuple(tuple(sorted(place[name] for name in names)) for names in grouping.names)
    order = sorted(range(len(groups)), key=groups.__getitem__)
    serves = [order.index(grouping.serves[grouping.tasks.index(name)]) for name in tasks]
    return replace(grouping, tasks=tasks, groups=tuple(groups[group] for group in order), serves=tuple(serves))
