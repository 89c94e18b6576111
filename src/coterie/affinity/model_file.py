"""A fitted estimate on disk: ask for other subsets later, elsewhere, without the data or the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.linear import LinearBase
from coterie.affinity.statistics import Statistics, TaskBlock
from coterie.errors import SettingError, StoreError
from coterie.workload import get_loss

_FORMAT = "coterie gain model 1"
_FIELDS = ("g", "head", "offset", "targets")


def save_model(model: GradTAEModel, path: str | Path) -> Path:
    """Write an estimate to one safetensors file: sums over the training examples, validation features, labels.

    Raises:
        SettingError: when values come from the real network, which is not part of the file.
        StoreError: when the file cannot be written.
    """
    if model.network is not None:
        raise SettingError(
            "Parameter `model` asks the real network for its values (evaluation='network'), which cannot be saved. "
            "Estimate with evaluation='linear', or save the affinity."
        )
    tensors: dict[str, Tensor] = {}
    for number, base in enumerate(model.bases):
        tensors.update({f"{number}/statistics/{k}": v for k, v in base.statistics.to_tensors().items()})
        for part in ("train", "validation") if model.converged else ("validation",):
            for task, block in enumerate(getattr(base, part)):
                tensors.update({f"{number}/{part}/{task}/{k}": getattr(block, k) for k in _FIELDS})
    facts = {
        "format": _FORMAT,
        "tasks": list(model.tasks),
        "kinds": list(model.kinds),
        "ridge": model.ridge,
        "converged": model.converged,
        "method": model.method,
        "stretch": [base.stretch for base in model.bases],
    }
    try:
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, path, {"model": json.dumps(facts)})
    except OSError as error:
        raise StoreError(f"The file {str(path)!r} cannot be written: {error}. Choose another `path`.") from error
    return Path(path)


def load_model(path: str | Path) -> GradTAEModel:
    """The inverse of :func:`save_model`.

    Raises:
        StoreError: when the file cannot be read or is something else.
    """
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {}).get("model", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StoreError(f"The file {str(path)!r} cannot be read: {error}. Was it written by save_model?") from error
    if facts.get("format") != _FORMAT:
        raise StoreError(f"The file {str(path)!r} holds no gain model of this version. Save it again.")
    bases = [
        LinearBase(
            Statistics.from_tensors(_under(tensors, f"{number}/statistics/")),
            _blocks(tensors, f"{number}/train/", facts["kinds"]),
            _blocks(tensors, f"{number}/validation/", facts["kinds"]),
            stretch,
        )
        for number, stretch in enumerate(facts["stretch"])
    ]
    return GradTAEModel(
        tuple(facts["tasks"]), bases, facts["ridge"], facts["converged"], None, facts["method"], tuple(facts["kinds"])
    )


def _blocks(tensors: dict[str, Tensor], prefix: str, kinds: list[str]) -> tuple[TaskBlock, ...]:
    if f"{prefix}0/g" not in tensors:
        return ()
    return tuple(
        TaskBlock(*(tensors[f"{prefix}{task}/{field}"] for field in _FIELDS), loss=get_loss(kind))
        for task, kind in enumerate(kinds)
    )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
