"""A workload's fingerprint: equal exactly when a stored result still belongs to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from coterie.workload.builders import FreshCopyBuilder
from coterie.workload.identity import describe, describe_functions, stable
from coterie.workload.lazy.inputs import LazyInputs
from coterie.workload.mlp import MlpBuilder
from coterie.workload.sparse import SparseLabels
from coterie.workload.split import PARTS
from coterie.workload.workload import OnDevice, Workload

#: stands before the digest, so that a run of an earlier version is told from a run of another workload
FORMAT = "2-"


def fingerprint(workload: Workload) -> str:
    """SHA-256 (hex) of all that decides a result, with the format before it: equal when a stored result still holds.

    Counted are inputs and their standardisation, labels and their weights, tasks, split, recipe, the parameters of
    ``build_model(0)``, and the code and settings of its modules, of `build_model`, `forward`, losses and functions of
    the recipe (instructions without comments, lines and names of files; packages that are installed by name only). The
    same on every device and in every process with the same version of Python. Names of the workload, of its columns and
    of where it came from do not count, nor do records and counters that change from one building to the next. Compiled
    extensions cannot be looked into.

    Cost: building the model once or twice, a pass over the data and over the model's numbers.

    Example:
        >>> import numpy as np
        >>> from coterie.workload import from_arrays
        >>> x = np.random.default_rng(0).normal(size=(60, 5))
        >>> first, other = from_arrays(x, x[:, :2]), from_arrays(x, x[:, :3])
        >>> fingerprint(first) == fingerprint(from_arrays(x, x[:, :2])), fingerprint(first) == fingerprint(other)
        (True, False)
    """
    digest = hashlib.sha256(FORMAT.encode())
    described = {"tasks": [task.to_dict() for task in workload.tasks], "recipe": workload.recipe.to_dict()}
    digest.update(json.dumps(described, sort_keys=True).encode())
    if isinstance(workload.inputs, LazyInputs):
        digest.update(f"\ninputs read {workload.inputs.digest}\n".encode())
    else:
        _update(digest, "inputs", workload.inputs)
    for name in ("input_center", "input_scale", "weights"):
        value: Tensor | None = getattr(workload, name)
        if value is not None:
            _update(digest, name, value)
    if isinstance(workload.labels, SparseLabels):
        for name in ("starts", "columns", "values"):
            _update(digest, name, getattr(workload.labels, name))
    else:
        _update(digest, "observed", workload.observed)
        _update(digest, "targets", workload.targets)  # NaN has several bit patterns, so it is hashed as a mask
    for part in PARTS:
        _update(digest, part, workload.split.part(part))
    model, code = _described(workload)
    digest.update(code.encode())
    state: Mapping[str, Any] = model.state_dict()
    _update(digest, "model", {name: value for name, value in state.items() if isinstance(value, Tensor)})
    return FORMAT + digest.hexdigest()


def _described(workload: Workload) -> tuple[nn.Module, str]:
    """The model of seed 0, and what it and the functions of the workload are, as one text."""
    build = workload.build_model
    build = build.build if isinstance(build, OnDevice) else build
    losses = {f"loss {task.kind}": task.loss for task in workload.tasks}
    functions = {f"recipe {name}": function for name, function in workload.recipe.functions.items()}
    others = {"forward": workload.forward, **losses, **functions}
    before = describe_functions(build, others)
    model = workload.build_model(0)
    entries = describe(model)
    if not isinstance(build, FreshCopyBuilder | MlpBuilder):
        entries = stable(entries, describe(workload.build_model(0)))
    entries.update(stable(before, describe_functions(build, others)))
    return model, repr(sorted(entries.items()))


def _update(digest: hashlib._Hash, name: str, value: Tensor | Mapping[str, Tensor]) -> None:
    """Add a tensor, or each tensor of a mapping in the order of its names, with dtype and shape."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            _update(digest, f"{name}/{key}", value[key])
        return
    digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
    flat = value.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy().data)
