"""Whether ``serve.json`` says all that a predictor needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

from coterie.errors import CoterieError, StoreError
from coterie.workload.task import Task

#: entries that must be there, and their types
_ENTRIES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "tasks": list,
    "groups": list,
    "serves": dict,
    "inputs": dict,
    "model_spec": (dict, type(None)),
    "reference": (str, type(None)),
    "forward": bool,
    "sha256": str,
}


def check_description(description: Mapping[str, Any], file: str) -> None:
    """Raise StoreError when a description lacks an entry, or when its tasks, groups and inputs do not fit together."""
    for key, kind in _ENTRIES.items():
        if key not in description:
            raise _damaged(file, f"the entry {key!r} is missing")
        if not isinstance(description[key], kind):
            raise _damaged(file, f"the entry {key!r} is of the type {type(description[key]).__name__}")
    names = _task_names(description["tasks"], file)
    _check_groups(description["groups"], names, file)
    _check_serves(description["serves"], description["groups"], names, file)
    _check_form(description["inputs"], file)
    found: Any = description.get("input_names")
    if found is not None and not _is_texts(found):
        raise _damaged(file, "'input_names' is no list of texts")


def _task_names(tasks: list[Any], file: str) -> list[str]:
    names: list[str] = []
    for index, task in enumerate(tasks):
        try:
            names.append(Task.from_dict(task).name)
        except (TypeError, AttributeError, CoterieError) as error:
            raise _damaged(file, f"entry {index} of 'tasks' is no task ({error})") from error
    if not names or len(set(names)) < len(names):
        raise _damaged(file, "'tasks' is empty or names a task twice")
    return names


def _check_groups(groups: list[Any], names: list[str], file: str) -> None:
    for index, group in enumerate(groups):
        if not _is_texts(group) or not group or not set(group) <= set(names):
            raise _damaged(file, f"group {index} is no list of tasks: {str(group)[:80]}")


def _check_serves(serves: dict[str, Any], groups: list[list[str]], names: list[str], file: str) -> None:
    missing = [name for name in names if name not in serves]
    unknown = [name for name in serves if name not in set(names)]
    if missing or unknown:
        raise _damaged(
            file, f"'serves' has no group for {missing[:5] or 'none'} and unknown tasks {unknown[:5] or 'none'}"
        )
    for name, group in serves.items():
        whole = isinstance(group, int) and not isinstance(group, bool)
        if not whole or not 0 <= group < len(groups):
            raise _damaged(file, f"'serves' gives task {name!r} group {group!r}, but there are {len(groups)} groups")
        if name not in groups[group]:
            raise _damaged(file, f"'serves' gives task {name!r} group {group}, which was not trained on it")


def _check_form(form: Any, file: str) -> None:
    if isinstance(form, dict) and isinstance(parts := cast("dict[str, Any]", form).get("parts"), dict):
        for part in cast("dict[str, Any]", parts).values():
            _check_form(part, file)
        return
    entries = cast("dict[str, Any]", form) if isinstance(form, dict) else {}
    shape, dtype = entries.get("shape"), entries.get("dtype")
    sizes = isinstance(shape, list) and all(isinstance(size, int) for size in cast("list[Any]", shape))
    if not sizes or not isinstance(dtype, str) or not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise _damaged(file, f"'inputs' has no valid shape and dtype: {str(entries)[:80]}")


def _is_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in cast("list[Any]", values))


def _damaged(file: str, what: str) -> StoreError:
    return StoreError(
        f"The file {file!r} is damaged: {what}. The likely cause is an edit by hand or an incomplete copy. Copy it "
        "again, or make the run again; its finished units are reused."
    )
