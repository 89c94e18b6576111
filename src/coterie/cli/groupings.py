"""Groupings that a user wrote or kept in files."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from coterie.errors import SettingError, StoreError
from coterie.grouping import Grouping
from coterie.store.files import read_json


def read_groupings(paths: Sequence[Path], tasks: tuple[str, ...]) -> dict[str, Grouping]:
    """Groupings by the names of their files, in the order given.

    Raises:
        SettingError: when one does not cover the tasks or is not JSON.
        StoreError: when a file is missing or cannot be read.
    """
    found: dict[str, Grouping] = {}
    for path in paths:
        name, number = path.stem, 2
        while name in found or name in ("all-in-one", "single-task"):
            name, number = f"{path.stem} ({number})", number + 1
        found[name] = parse_grouping(_read(path), tasks, str(path))
    return found


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except StoreError as error:
        if not isinstance(error.__cause__, ValueError | RecursionError):
            raise
        raise SettingError(
            f"The grouping {str(path)!r} should be JSON as `coterie group --out` writes it. Found something else; a "
            "table of affinities (CSV) is grouped first: coterie group --affinity A.csv --out G.json."
        ) from error


def parse_grouping(data: Any, tasks: tuple[str, ...], source: str) -> Grouping:
    """A grouping from JSON: an object with `groups` (lists of task names) and perhaps `serves`, or only the lists.

    A task that stands in one group is served by it; one that stands in several needs an entry in `serves`.

    Raises:
        SettingError: saying what is wrong with it.
    """
    groups = data.get("groups") if isinstance(data, dict) else data
    if not isinstance(groups, list) or not all(isinstance(group, list) and group for group in groups):
        raise SettingError(
            f"The grouping {source!r} should be an object with `groups`, a list of non-empty lists of task names, "
            "as `coterie group --json` prints it."
        )
    position = {name: index for index, name in enumerate(tasks)}
    members = [[_index(name, position, source) for name in group] for group in groups]
    missing = [name for name in tasks if not any(position[name] in group for group in members)]
    if missing:
        raise SettingError(
            f"The grouping {source!r} leaves out {len(missing)} tasks of the workload: {', '.join(missing[:5])}. "
            "Every task needs a group, if only one of its own."
        )
    first = {name: next(i for i, group in enumerate(members) if position[name] in group) for name in tasks}
    said = _serves(data, members, position, source)
    shared = [name for name in tasks if name not in said and sum(position[name] in group for group in members) > 1]
    if shared:
        raise SettingError(
            f"The grouping {source!r} has tasks that stand in several groups: {', '.join(shared[:5])}. Say which group "
            f'serves each of them, counted from 0, such as "serves": {{"{shared[0]}": {first[shared[0]]}}}, or keep '
            "each task in one group only."
        )
    serves = {**first, **said}
    return Grouping(
        tasks=tasks,
        groups=tuple(tuple(sorted(set(group))) for group in members),
        serves=tuple(serves[name] for name in tasks),
        objective=None,
        bound=None,
        method="given",
        details={},
    )


def _index(name: Any, position: dict[str, int], source: str) -> int:
    if not isinstance(name, str) or name not in position:
        near = get_close_matches(str(name), position, n=1)
        raise SettingError(
            f"The grouping {source!r} names the task {name!r}, which the workload does not have. "
            + (f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(list(position)[:5])}, ...")
        )
    return position[name]


def _serves(data: Any, members: list[list[int]], position: dict[str, int], source: str) -> dict[str, int]:
    serves = data.get("serves") if isinstance(data, dict) else None
    if serves is None:
        return {}
    if not isinstance(serves, dict):
        raise SettingError(f"The grouping {source!r}: `serves` should map task names to numbers of groups, from 0.")
    for name, group in serves.items():
        task = _index(name, position, source)
        whole = isinstance(group, int) and not isinstance(group, bool) and 0 <= group < len(members)
        if not whole or task not in members[group]:
            raise SettingError(
                f"The grouping {source!r}: `serves` says that group {group!r} serves {name!r}, but that task "
                "is not in it."
            )
    return serves
