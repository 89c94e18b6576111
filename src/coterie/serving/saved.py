"""The served models on disk: ``serve.json`` and ``serve.safetensors``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from coterie._files import user_path
from coterie._read import read_array
from coterie.errors import CoterieError, SettingError, StoreError, WorkloadError
from coterie.serving.models import make_probe
from coterie.store.arrays import read_pair, sealed_pair
from coterie.store.files import atomic_write, reading, real, text
from coterie.store.manifest import versions
from coterie.workload.arrays import Inputs, aligned, check_finite, say_ignored, scaled
from coterie.workload.lazy.inputs import LazyInputs
from coterie.workload.mlp import build_from_spec
from coterie.workload.task import Task
from coterie.workload.text.encoder import spec_of

if TYPE_CHECKING:
    from coterie.grouping import Grouping
    from coterie.workload import Workload

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


def describe_inputs(inputs: Inputs) -> dict[str, Any]:
    """What inputs look like but for the number of rows, JSON-ready.

    Example:
        >>> describe_inputs(torch.zeros(7, 3))
        {'shape': [3], 'dtype': 'float32'}
    """
    if isinstance(inputs, Mapping):
        return {"parts": {name: describe_inputs(part) for name, part in inputs.items()}}
    return {"shape": list(inputs.shape[1:]), "dtype": str(inputs.dtype).removeprefix("torch.")}


def prepare(
    x: Any,
    form: Mapping[str, Any],
    center: Tensor | None,
    scale: Tensor | None,
    names: tuple[str, ...] | None = None,
    about: object = None,
) -> Inputs:
    """Inputs as the models want them: checked, in the type of the training inputs, and standardised like them.

    Args:
        x: array, tensor, data frame, or a mapping of names to such things, as it was given for training.
        form: from :func:`describe_inputs`.
        center: subtracted first; None when the models were trained on raw inputs.
        scale: divided out afterwards.
        names: columns of training; those of a data frame with text columns are put into this order, and others ignored.
        about: the predictor that asks, which says once what it ignores.

    Raises:
        WorkloadError: when names, shape, type or values do not fit.
    """
    if "parts" in form:
        return _prepare_parts(x, form["parts"], about)
    if isinstance(x, Mapping):
        raise WorkloadError(
            "Parameter `x` should be one array: the models were trained on one. "
            f"Found a mapping with the keys {list(x)[:5]}."
        )
    x = aligned(x, names, where="Parameter `x`", reference="the training inputs", ignore=True, about=about)
    inputs = _as_trained(x, "x", form)
    check_finite(inputs)
    if center is not None or scale is not None:
        inputs = scaled(inputs, center, scale)
    inputs = inputs.to(getattr(torch, form["dtype"]))
    check_finite(inputs)
    return inputs


def no_rows(form: Mapping[str, Any]) -> Any:
    """Raw inputs of this form with no rows.

    Example:
        >>> no_rows({"shape": [3], "dtype": "float32"}).shape
        (0, 3)
    """
    if "parts" in form:
        return {name: no_rows(part) for name, part in form["parts"].items()}
    return np.empty((0, *form["shape"]))


def _prepare_parts(x: Any, forms: Mapping[str, Any], about: object) -> dict[str, Tensor]:
    if not isinstance(x, Mapping) and not hasattr(x, "columns"):
        raise WorkloadError(
            f"Parameter `x` should be a mapping with the keys {list(forms)}: the models were trained on one. "
            f"Found {type(x).__name__}."
        )
    found = {str(key): x[key] for key in x}
    missing, extra = [name for name in forms if name not in found], [name for name in found if name not in forms]
    if missing:
        raise WorkloadError(
            f"Parameter `x` should have the keys {list(forms)}. "
            f"Missing: {missing or 'none'}; not known: {extra or 'none'}."
        )
    if extra:
        say_ignored("Parameter `x`", extra, about)
    parts = {
        name: _as_trained(found[name], f"x[{name!r}]", form).to(getattr(torch, form["dtype"]))
        for name, form in forms.items()
    }
    rows = {name: part.shape[0] for name, part in parts.items()}
    if len(set(rows.values())) > 1:
        raise WorkloadError(f"Parameter `x`: all parts should have the same number of rows. Found {rows}.")
    check_finite(parts)
    return parts


def _as_trained(values: Any, parameter: str, form: Mapping[str, Any]) -> Tensor:
    """Float64, to be rounded when it is standardised, or int64."""
    array = read_array(values, parameter)
    shape, dtype = tuple(form["shape"]), getattr(torch, form["dtype"])
    if array.ndim == 1 and shape == (1,):
        array = array[:, None]
    if array.shape == (0,) and shape:  # an empty list says nothing of columns
        array = array.reshape(0, *shape)
    _check_shape(array.shape, parameter, shape, whole=not dtype.is_floating_point)
    if not dtype.is_floating_point and array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise WorkloadError(
            f"Parameter `{parameter}` should hold whole numbers, as it did for training. "
            "Found fractions or missing values."
        )
    if not dtype.is_floating_point and array.dtype.kind in "fu" and array.size and np.abs(array).max() >= 2.0**63:
        raise WorkloadError(
            f"Parameter `{parameter}` should hold whole numbers that fit into int64, as it did for training. Found "
            f"{array.ravel()[int(np.abs(array).argmax())]}. The likely cause is a division by zero, or identifiers."
        )
    return torch.from_numpy(np.array(array, dtype=np.float64 if dtype.is_floating_point else np.int64, order="C"))


def _check_shape(found: tuple[int, ...], parameter: str, shape: tuple[int, ...], *, whole: bool) -> None:
    """Columns must be the same; images and token rows may have another size where the model can take it."""
    if len(found) == len(shape) + 1 and (found[1:] == shape or whole or len(shape) > 1):
        return
    expected = ", ".join(("rows", *map(str, shape)))
    hint = " One example alone is given as x[None]." if found == shape else ""
    if len(shape) == 1 and len(found) == 2:
        hint = " Give the same columns in the same order as for training."
    raise WorkloadError(f"Parameter `{parameter}` should have the shape ({expected}). Found {found}.{hint}")


#: 1 had no checksum of the description
FORMAT = 2
DESCRIPTION, TENSORS = "serve.json", "serve.safetensors"


@dataclass(frozen=True, eq=False)
class Saved:
    """What :func:`read_served` found: description, a state for each group, standardisation, outputs to compare with."""

    description: dict[str, Any]
    states: list[dict[str, Tensor]]
    input_center: Tensor | None
    input_scale: Tensor | None
    probe: dict[str, Tensor]


def save_served(
    path: str | Path, workload: Workload, grouping: Grouping, states: Sequence[Mapping[str, Tensor]]
) -> None:
    """Write the models of a grouping so that :func:`coterie.serving.load` makes one predictor of them.

    Args:
        path: the directory.
        workload: what they were trained on.
        grouping: which group serves which task.
        states: parameters and buffers of the model of each group, in the order of the groups.

    Raises:
        SettingError: when there is not one state for each group, or the tasks differ.
        StoreError: when the directory cannot be written.
    """
    for name, data in served_files(workload, grouping, states).items():
        atomic_write(user_path(path) / name, data)


def served_files(workload: Workload, grouping: Grouping, states: Sequence[Mapping[str, Tensor]]) -> dict[str, bytes]:
    """Name -> content of the files that :func:`save_served` writes, in the order in which they are to be written.

    Raises:
        SettingError: when there is not one state for each group, or the tasks differ.
    """
    if len(states) != len(grouping.groups):
        raise SettingError(
            f"Parameter `states` should have one state for each of the {len(grouping.groups)} groups. "
            f"Found {len(states)}."
        )
    if tuple(grouping.tasks) != workload.task_names:
        raise SettingError(
            f"Parameter `grouping` should have the tasks of the workload, {list(workload.task_names)[:5]}. "
            f"Found {list(grouping.tasks)[:5]}."
        )
    arrays: dict[str, np.ndarray[Any, Any] | Tensor] = {
        f"group{index}/{name}": value for index, state in enumerate(states) for name, value in state.items()
    }
    for name in ("input_center", "input_scale"):
        if (value := getattr(workload, name)) is not None:
            arrays[name] = value
    arrays.update(make_probe(workload, states))
    return sealed_pair((DESCRIPTION, TENSORS), _describe(workload, grouping), arrays)


def _describe(workload: Workload, grouping: Grouping) -> dict[str, Any]:
    names, inputs = workload.task_names, workload.inputs
    return {
        "format": FORMAT,
        "coterie": versions()["coterie"],
        "name": workload.name,
        "tasks": [task.to_dict() for task in workload.tasks],
        "groups": [[names[task] for task in group] for group in grouping.groups],
        "serves": {names[task]: int(group) for task, group in enumerate(grouping.serves)},
        "inputs": describe_inputs(inputs.example if isinstance(inputs, LazyInputs) else inputs),
        "input_names": None if workload.input_names is None else list(workload.input_names),
        "input_center": workload.input_center is not None,
        "input_scale": workload.input_scale is not None,
        "model_spec": workload.model_spec,
        "reference": workload.reference,
        "forward": workload.forward is not None,
        "text_model": spec_of(workload),
    }


def read_served(path: str | Path) -> Saved:
    """The inverse of :func:`save_served`.

    Raises:
        StoreError: when there are no served models, or they are damaged.
    """
    path = user_path(path)
    if not (path / DESCRIPTION).exists():
        raise StoreError(
            f"There are no served models in {str(path)!r}: it has no {DESCRIPTION}. Check the path; "
            "a run that was stopped early is finished by running it again, and one of a trainer of your own has none, "
            "as the trainer keeps its models: result.json says which groups to serve."
        )
    description, tensors = read_pair(path, (DESCRIPTION, TENSORS), 1, FORMAT)
    check_description(description, str(path / DESCRIPTION))
    check_tensors(description, tensors, str(path / DESCRIPTION))
    states = [
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in (f"group{index}/" for index in range(len(description["groups"])))
    ]
    probe = {name: value for name, value in tensors.items() if name.startswith("probe/")}
    return Saved(description, states, tensors.get("input_center"), tensors.get("input_scale"), probe)
