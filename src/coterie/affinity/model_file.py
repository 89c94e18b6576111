"""A fitted estimate on disk: ask for other subsets later, elsewhere, without the data or the network."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from coterie._files import atomic_write, user_path
from coterie._json import reading, real, text
from coterie._sealed import pack, read_sealed
from coterie.affinity.affinity import check_names
from coterie.affinity.blocks import pack_blocks, under, unpack_blocks
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.linear import LinearBase
from coterie.affinity.statistics import Statistics
from coterie.errors import SettingError
from coterie.workload import get_loss

#: 1 had no checksum
_KIND = "coterie gain model 2"


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
        "tasks": list(model.tasks),
        "kinds": list(model.kinds),
        "ridge": model.ridge,
        "path": list(model.path),
        "converged": model.converged,
        "method": model.method,
        "stretch": [base.stretch for base in model.bases],
        "raw": [base.raw for base in model.bases],
    }
    atomic_write(path, pack(_KIND, facts, tensors))
    return user_path(path)


def load_model(path: str | Path) -> GradTAEModel:
    """The inverse of :func:`save_model`.

    Raises:
        StoreError: when the file cannot be read, is damaged or is something else.
    """
    facts, tensors = read_sealed(_KIND, path)
    with reading(path, "a gain model"):
        kinds, tasks = ([text(entry) for entry in facts[key]] for key in ("kinds", "tasks"))
        check_names(tasks)  # a model is asked by name
        losses = [get_loss(kind) for kind in kinds]
        raws = facts.get("raw", [False] * len(facts["stretch"]))  # older files do not say
        bases = [
            LinearBase(
                Statistics.from_tensors(under(tensors, f"{number}/statistics/")),
                unpack_blocks(losses, under(tensors, f"{number}/train/")),
                unpack_blocks(losses, under(tensors, f"{number}/validation/")),
                real(stretch),
                bool(raw),
            )
            for number, (stretch, raw) in enumerate(zip(facts["stretch"], raws, strict=True))
        ]
        model = GradTAEModel(
            tuple(tasks),
            bases,
            real(facts["ridge"]),
            bool(facts["converged"]),
            None,
            text(facts["method"]),
            tuple(kinds),
            path=tuple(real(strength) for strength in facts["path"]),
        )
        model.predict([range(len(tasks))])  # sizes that do not fit are found now, rather than when the model is asked
    return model
