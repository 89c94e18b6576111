"""A workload's fingerprint: equal exactly when a stored result still belongs to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from coterie.workload.split import PARTS
from coterie.workload.workload import Workload

_FORMAT = "coterie workload 1"


def fingerprint(workload: Workload) -> str:
    """SHA-256 (hex) of inputs, labels, tasks, split, recipe and the parameters of ``build_model(0)``.

    The same on every device. Names of the workload and of where it came from do not count; the text of `forward` and
    of the model's code cannot be seen, so a change there that leaves the initial parameters alone goes unnoticed.

    Example:
        >>> import numpy as np
        >>> from coterie.workload import from_arrays
        >>> x = np.random.default_rng(0).normal(size=(60, 5))
        >>> first, other = from_arrays(x, x[:, :2]), from_arrays(x, x[:, :3])
        >>> fingerprint(first) == fingerprint(from_arrays(x, x[:, :2])), fingerprint(first) == fingerprint(other)
        (True, False)
    """
    digest = hashlib.sha256(_FORMAT.encode())
    described = {"tasks": [task.to_dict() for task in workload.tasks], "recipe": workload.recipe.to_dict()}
    digest.update(json.dumps(described, sort_keys=True).encode())
    _update(digest, "inputs", workload.inputs)
    _update(digest, "observed", workload.observed)
    _update(digest, "targets", workload.targets)  # NaN has several bit patterns, so it is hashed as a mask
    for part in PARTS:
        _update(digest, part, workload.split.part(part))
    state: Mapping[str, Any] = workload.build_model(0).state_dict()
    _update(digest, "model", {name: value for name, value in state.items() if isinstance(value, Tensor)})
    return digest.hexdigest()


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
