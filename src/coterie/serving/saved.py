"""The served models on disk: ``serve.json`` and ``serve.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from coterie._files import user_path
from coterie.errors import SettingError, StoreError
from coterie.serving.description import check_description, check_tensors
from coterie.serving.inputs import describe_inputs
from coterie.serving.probe import make_probe
from coterie.store.files import atomic_write
from coterie.store.manifest import versions
from coterie.store.pair import read_pair, sealed_pair
from coterie.workload.text.spec import spec_of

if TYPE_CHECKING:
    from coterie.grouping import Grouping
    from coterie.workload import Workload

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
