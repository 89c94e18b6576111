"""Adapters, embeddings, decoder, heads and Omega on disk; the backbone is not written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from coterie.adapters.adapted import AdaptedModel
from coterie.adapters.attaching import attach
from coterie.adapters.heads import head_from_dict, head_to_dict
from coterie.adapters.identity import describe_backbone, differences
from coterie.errors import SettingError, StoreError
from coterie.store.arrays import decode, encode, plain_arrays
from coterie.store.files import atomic_write, digest, directory_error, read_json, write_json

FORMAT = 1
DESCRIPTION, TENSORS = "adapters.json", "adapters.safetensors"


def save(adapted: AdaptedModel, path: str | Path) -> None:
    """Write ``adapters.json`` and ``adapters.safetensors`` into a directory, which is made.

    Raises:
        StoreError: when it cannot be written.

    Example:
        >>> transformers = __import__("pytest").importorskip("transformers")
        >>> import tempfile
        >>> from coterie.adapters import Image
        >>> config = transformers.ViTConfig(image_size=16, patch_size=4, hidden_size=12, num_hidden_layers=2,
        ...                                 num_attention_heads=2, intermediate_size=24)
        >>> vit, pixels = transformers.ViTModel(config), torch.randn(1, 3, 16, 16)
        >>> adapted = attach(vit, {"kind": Image(10)})
        >>> before = adapted(pixels, task="kind")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(adapted, folder)
        ...     again = load(folder, adapted.detach())
        >>> bool((again(pixels, task="kind") == before).all())
        True
    """
    path = Path(path)
    data = encode(plain_arrays({name: parameter.detach() for name, parameter in adapted.own_parameters()}))
    description = {
        "format": FORMAT,
        "tasks": [{"name": task, "head": head_to_dict(adapted.specs[task])} for task in adapted.tasks],
        "layers": list(adapted.layers),
        "blocks": list(adapted.blocks),
        "embedding": adapted.embeddings.size,
        "decoder": adapted.decoder_width,
        "omega": adapted.embeddings.omega.tolist(),
        "backbone": describe_backbone(adapted.backbone),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise directory_error(error, path) from error
    # the description is written last: its checksum says that both belong together
    atomic_write(path / TENSORS, data)
    write_json(path / DESCRIPTION, {**description, "sha256": digest(data)})


def load(path: str | Path, model: Any, *, check_weights: bool = True) -> AdaptedModel:
    """Attach what :func:`save` wrote to the backbone it was trained on.

    Args:
        path: the directory.
        model: the backbone, without adapters.
        check_weights: False takes a backbone of the same architecture whose weights differ, such as the same one in
            another precision.

    Raises:
        StoreError: when the files cannot be read or are damaged.
        SettingError: when the backbone is another one; the message says in what.
    """
    path = Path(path)
    description, tensors = _read(path)
    found = differences(description["backbone"], describe_backbone(model), weights=check_weights)
    if found:
        raise SettingError(
            f"The adapters in {str(path)!r} belong to another backbone, {description['backbone']['class']} "
            f"{description['backbone']['name']!r}: {'; '.join(found)}. Load them onto that one."
        )
    specs = {task["name"]: head_from_dict(task["head"]) for task in description["tasks"]}
    adapted = attach(
        model,
        specs,
        layers=description["layers"],
        block=_common(description["blocks"]),
        embedding=description["embedding"],
        decoder=description["decoder"],
    )
    own = dict(adapted.own_parameters())
    if {name: p.shape for name, p in own.items()} != {name: value.shape for name, value in tensors.items()}:
        adapted.detach()
        raise StoreError(f"The tensors in {str(path)!r} are not those that {DESCRIPTION} describes. Save them again.")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
    adapted.embeddings.set_omega(np.array(description["omega"], dtype=np.float64))
    return adapted


def _common(blocks: list[int]) -> int | None:
    """What `attach` was told: one size that all layers share, or None for a size of each layer's own."""
    return blocks[0] if len(set(blocks)) == 1 else None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not (path / DESCRIPTION).exists():
        raise StoreError(f"There are no adapters in {str(path)!r}: it has no {DESCRIPTION}. Check the path.")
    description = read_json(path / DESCRIPTION)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise StoreError(f"The file {str(path / DESCRIPTION)!r} is not of the format {FORMAT} that this version reads.")
    try:
        data = (path / TENSORS).read_bytes()
    except OSError as error:
        raise StoreError(f"Cannot read {str(path / TENSORS)!r}: {error.strerror or error}.") from error
    if digest(data) != description["sha256"]:
        raise StoreError(f"The file {str(path / TENSORS)!r} is damaged: its checksum is not that of {DESCRIPTION}.")
    return cast("dict[str, Any]", description), cast("dict[str, Tensor]", decode(data, None))
