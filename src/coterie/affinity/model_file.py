"""A fitted estimate on disk: ask for other subsets later, elsewhere, without the data or the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coterie.affinity.blocks import pack_blocks, under, unpack_blocks
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.linear import LinearBase
from coterie.affinity.statistics import Statistics
from coterie.errors import SettingError, StoreError
from coterie.workload import get_loss

_FORMAT = "coterie gain model 1"


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
            tensors.update({f"{number}/{part}/{k}": v for k, v in pack_blocks(getattr(base, part)).items()})
    facts = {
        "format": _FORMAT,
        "tasks": list(model.tasks),
        "kinds": list(model.kinds),
        "ridge": model.ridge,
        "path": list(model.path),
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
    losses = [get_loss(kind) for kind in facts["kinds"]]
    bases = [
        LinearBase(
            Statistics.from_tensors(under(tensors, f"{number}/statistics/")),
            unpack_blocks(losses, under(tensors, f"{number}/train/")),
            unpack_blocks(losses, under(tensors, f"{number}/validation/")),
            stretch,
        )
        for number, stretch in enumerate(facts["stretch"])
    ]
    return GradTAEModel(
        tuple(facts["tasks"]),
        bases,
        facts["ridge"],
        facts["converged"],
        None,
        facts["method"],
        tuple(facts["kinds"]),
        path=tuple(facts.get("path", ())),
    )
