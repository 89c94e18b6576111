"""Whether ``serve.json`` says all that a predictor needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from coterie.errors import CoterieError, StoreError
from coterie.store.files import reading, real, text
from coterie.workload.mlp import build_from_spec
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
}
#: types that inputs may have
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_TYPES = (*_FLOATS, "int64", "int32", "int16", "int8", "uint8", "bool")


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
    shape = description["inputs"].get("shape")
    if found is not None and (not _is_texts(found) or (shape and len(shape) == 1 and len(found) != shape[0])):
        raise _damaged(file, "'input_names' is no list of texts, one a column")


def check_tensors(description: Mapping[str, Any], tensors: Mapping[str, Tensor], file: str) -> None:
    """Raise StoreError when the tensors are not those of the built-in model and of the inputs that are described.

    Nothing is built before: a description may ask for a model of any size.
    """
    shape = description["inputs"].get("shape")
    for name in ("input_center", "input_scale"):
        value = tensors.get(name)
        if value is None or shape is None:
            continue
        whole = (1,) * len(shape)  # images are standardised as a whole
        found, kind = tuple(value.shape), str(value.dtype).removeprefix("torch.")
        if kind not in _FLOATS or found not in (tuple(shape), (1, *shape), whole):
            raise _damaged(file, f"{name!r} has the shape {found} and the type {kind}, the inputs {tuple(shape)}")
    if description["model_spec"] is None:
        return
    with reading(file, "the description of its models"):
        built = build_from_spec(description["model_spec"])
        wanted = built.shapes()
        width = sum(Task.from_dict(task).width for task in description["tasks"])
    for group in range(len(description["groups"])):
        prefix = f"group{group}/"
        found = {name.removeprefix(prefix): tuple(t.shape) for name, t in tensors.items() if name.startswith(prefix)}
        if found != wanted or built.n_outputs != width:
            raise _damaged(file, f"'model_spec' and 'tasks' describe other models than the saved one of group {group}")


def _task_names(tasks: list[Any], file: str) -> list[str]:
    names: list[str] = []
    for index, task in enumerate(tasks):
        try:
            found = Task.from_dict(task)
            for number in (found.center, found.scale):
                if not math.isfinite(real(number)) or (isinstance(number, int) and abs(number) >= 2**53):
                    raise ValueError("`center` and `scale` should be finite, and no huge whole numbers")
            names.append(text(found.name))
        except (CoterieError, LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
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


def _check_form(form: Any, file: str, inner: bool = True) -> None:
    entries = cast("dict[str, Any]", form) if isinstance(form, dict) else {}
    parts = entries.get("parts")
    if isinstance(parts, dict) and parts and inner:
        for part in cast("dict[str, Any]", parts).values():
            _check_form(part, file, inner=False)
        return
    shape, dtype = entries.get("shape"), entries.get("dtype")
    sizes = isinstance(shape, list) and all(_is_size(size) for size in cast("list[Any]", shape))
    if "parts" in entries or not sizes or dtype not in _TYPES:
        raise _damaged(file, f"'inputs' has no valid shape and dtype: {str(entries)[:80]}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in cast("list[Any]", values))


def _damaged(file: str, what: str) -> StoreError:
    return StoreError(
        f"The file {file!r} is damaged: {what}. The likely cause is an edit by hand or an incomplete copy. Copy it "
        "again, or make the run again; its finished units are reused."
    )
