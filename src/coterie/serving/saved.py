"""The served models on disk: ``serve.json`` and ``serve.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from coterie.errors import SettingError, StoreError
from coterie.serving.description import check_description
from coterie.serving.inputs import describe_inputs
from coterie.store.arrays import decode, encode, plain_arrays
from coterie.store.files import atomic_write, digest, read_json, write_json
from coterie.store.manifest import versions

if TYPE_CHECKING:
    from coterie.grouping import Grouping
    from coterie.workload import Workload

FORMAT = 1
DESCRIPTION, TENSORS = "serve.json", "serve.safetensors"


@dataclass(frozen=True, eq=False)
class Saved:
    """What :func:`read_served` found: the description, one state for each group, and the standardisation."""

    description: dict[str, Any]
    states: list[dict[str, Tensor]]
    input_center: Tensor | None
    input_scale: Tensor | None


def save_served(
    path: str | Path, workload: Workload, grouping: Grouping, states: Sequence[Mapping[str, Tensor]]
) -> None:
    """Write the models of a grouping so that :func:`coterie.serving.load` makes one predictor of them.

    Args:
        path: the run directory.
        workload: what they were trained on.
        grouping: which group serves which task.
        states: parameters and buffers of the model of each group, in the order of the groups.

    Raises:
        SettingError: when there is not one state for each group, or the tasks differ.
        StoreError: when the directory cannot be written.
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
    path = Path(path)
    arrays: dict[str, np.ndarray[Any, Any] | Tensor] = {
        f"group{index}/{name}": value for index, state in enumerate(states) for name, value in state.items()
    }
    for name in ("input_center", "input_scale"):
        if (value := getattr(workload, name)) is not None:
            arrays[name] = value
    data = encode(plain_arrays(arrays))
    # the description is written last: its checksum says that both belong together
    atomic_write(path / TENSORS, data)
    write_json(path / DESCRIPTION, {**_describe(workload, grouping), "sha256": digest(data)})


def _describe(workload: Workload, grouping: Grouping) -> dict[str, Any]:
    names = workload.task_names
    return {
        "format": FORMAT,
        "coterie": versions()["coterie"],
        "name": workload.name,
        "tasks": [task.to_dict() for task in workload.tasks],
        "groups": [[names[task] for task in group] for group in grouping.groups],
        "serves": {names[task]: int(group) for task, group in enumerate(grouping.serves)},
        "inputs": describe_inputs(workload.inputs),
        "input_names": None if workload.input_names is None else list(workload.input_names),
        "input_center": workload.input_center is not None,
        "input_scale": workload.input_scale is not None,
        "model_spec": workload.model_spec,
        "reference": workload.reference,
        "forward": workload.forward is not None,
    }


def read_served(path: str | Path) -> Saved:
    """The inverse of :func:`save_served`.

    Raises:
        StoreError: when there are no served models, or they are damaged.
    """
    path = Path(path)
    if not (path / DESCRIPTION).exists():
        raise StoreError(
            f"There are no served models in {str(path)!r}: it has no {DESCRIPTION}. Check the path; "
            "a run that was stopped early is finished by running it again."
        )
    description = read_json(path / DESCRIPTION)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise StoreError(
            f"The file {str(path / DESCRIPTION)!r} is not of the format {FORMAT} that this version reads. "
            "It was damaged, or written by another version: make the run again."
        )
    check_description(cast("dict[str, Any]", description), str(path / DESCRIPTION))
    try:
        data = (path / TENSORS).read_bytes()
    except OSError as error:
        raise StoreError(
            f"Cannot read {str(path / TENSORS)!r}: {error.strerror or error}. Make the run again."
        ) from error
    if digest(data) != description["sha256"]:
        raise StoreError(
            f"The file {str(path / TENSORS)!r} is damaged: its checksum is not that of {DESCRIPTION}. "
            "Make the run again; its finished units are reused."
        )
    return _split(description, data)


def _split(description: dict[str, Any], data: bytes) -> Saved:
    tensors = cast("dict[str, Tensor]", decode(data, None))
    states = [
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in (f"group{index}/" for index in range(len(description["groups"])))
    ]
    return Saved(description, states, tensors.get("input_center"), tensors.get("input_scale"))
