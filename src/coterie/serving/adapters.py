"""The trained groups as adapter folders of peft, for programs that serve many adapters on one base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from coterie._files import user_path
from coterie._surface import known_arguments
from coterie.errors import ModelError, SettingError, require
from coterie.serving.predictor import Predictor, load
from coterie.store.files import atomic_write, make_directory, write_json
from coterie.workload import Workload
from coterie.workload.text.lora import ADAPTER, write_adapter

#: the file that says what the columns of the heads are
DESCRIPTION, HEADS = "coterie.json", "heads.safetensors"


@known_arguments
def export_adapters(
    run: Any, folder: str | Path, *, workload: Workload | str | None = None, model: Any = None
) -> tuple[Path, ...]:
    """Write one folder a group, ``group0``, ``group1``, ...: an adapter of peft, and the heads of the group's tasks.

    ``peft.PeftModel.from_pretrained(base, folder / "group0")`` gives the hidden states that the served model reads, and
    so does any server that loads adapters of peft. Heads are no part of that format; they are beside it:
    ``heads.safetensors`` has ``weight`` (outputs, width) and ``bias`` (outputs,), to be applied to the pooled hidden
    states, and ``coterie.json`` says which rows belong to which task, the pooling, the length of texts and how many
    layers there are: a transformer that was cut is loaded with ``from_pretrained(folder, num_hidden_layers=layers)``.

    Args:
        run: a run directory, the result of :func:`coterie.run`, or a :class:`Predictor`.
        folder: where the folders go; made if missing, files of the same names are replaced.
        workload: as for :func:`coterie.load`.
        model: as for :func:`coterie.load`.

    Returns:
        The folders, in the order of the groups.

    Raises:
        StoreError: when the run has no served models.
        ModelError: when its models have no adapters.
        SettingError: when `folder` is an existing file.

    Cost: reading the run; the base is not copied.
    """
    predictor = run if isinstance(run, Predictor) else load(run, workload=workload, model=model)
    target = user_path(folder)
    if target.is_file():
        raise SettingError(f"Parameter `folder` should be a folder. Found the file {str(target)!r}. Name another one.")
    made: list[Path] = []
    for group, served in enumerate(predictor.models):
        place = target / f"group{group}"
        make_directory(place)
        base = _adapted(served, group)
        kind = "CAUSAL_LM" if base.get_output_embeddings() is not None else "FEATURE_EXTRACTION"
        write_adapter(base, place, kind, getattr(base, "name_or_path", None) or None)
        described = _describe(predictor, group, served, base)
        if (head := _head(served)) is not None:
            described["tasks"] = _write_heads(predictor, group, head, place)
        write_json(place / DESCRIPTION, described)
        made.append(place)
    return tuple(made)


def _adapted(model: nn.Module, group: int) -> Any:
    """The part of a model that has adapters."""
    for child in model.modules():
        if ADAPTER in getattr(child, "peft_config", {}):
            return child
    raise ModelError(
        f"The model of group {group} ({type(model).__name__}) has no adapters of peft to export. Adapters come with "
        "workloads of coterie.workload.from_text and its siblings; other models are served by coterie.load."
    )


def _head(model: nn.Module) -> nn.Linear | None:
    head = getattr(model, "head", None)
    return head if isinstance(head, nn.Linear) else None


def _write_heads(predictor: Predictor, group: int, head: nn.Linear, place: Path) -> list[dict[str, Any]]:
    """Rows of the head of the group's tasks, one below the other; and what they are."""
    tensors = require("safetensors.torch", extra="language", purpose="Exporting adapters")
    work, rows, described = predictor.workload, [], []
    for task, columns in zip(work.tasks, work.columns, strict=True):
        if task.name in predictor.groups[group]:
            entry = {**task.to_dict(), "rows": [len(rows), len(rows) + task.width]}
            entry["serves"] = predictor.serves[task.name] == group
            described.append(entry)
            rows += range(columns.start, columns.stop)
    saved = {"weight": head.weight[rows].detach().cpu().contiguous(), "bias": head.bias[rows].detach().cpu()}
    atomic_write(place / HEADS, tensors.save(saved))
    return described


def _describe(predictor: Predictor, group: int, model: nn.Module, base: Any) -> dict[str, Any]:
    reading: Any = getattr(model, "reading", None)
    return {
        "group": group,
        "tasks": [{"name": name} for name in predictor.groups[group]],
        "pooling": getattr(model, "pooling", None),
        "max_length": None if reading is None else reading.max_length,
        "layers": getattr(base.config, "num_hidden_layers", None),
    }
