"""Adapters, embeddings, decoder, heads and Omega on disk; the backbone is not written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie._files import user_path
from coterie._surface import known_arguments
from coterie.adapters.adapted import AdaptedModel
from coterie.adapters.attaching import attach, check_backbone
from coterie.adapters.heads import head_from_dict, head_to_dict
from coterie.adapters.identity import describe_backbone, differences
from coterie.errors import SettingError, StoreError
from coterie.store.arrays import read_pair, sealed_pair
from coterie.store.files import atomic_write, make_directory, reading, whole

#: 1 had no checksum of the description and no list of what is frozen
FORMAT = 2
DESCRIPTION, TENSORS = "adapters.json", "adapters.safetensors"


def save(adapted: AdaptedModel, path: str | Path) -> None:
    """Write ``adapters.json`` and ``adapters.safetensors`` into a directory, which is made.

    What is frozen, as after :func:`grow`, is kept along.

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
    path = user_path(path)
    arrays = {name: parameter.detach() for name, parameter in adapted.own_parameters()}
    description = {
        "format": FORMAT,
        "tasks": [{"name": task, "head": head_to_dict(adapted.specs[task])} for task in adapted.tasks],
        "layers": list(adapted.layers),
        "blocks": list(adapted.blocks),
        "embedding": adapted.embeddings.size,
        "decoder": adapted.decoder_width,
        "omega": adapted.embeddings.omega.tolist(),
        "frozen": [name for name, parameter in adapted.own_parameters() if not parameter.requires_grad],
        "backbone": describe_backbone(adapted.backbone),
    }
    make_directory(path)
    for name, data in sealed_pair((DESCRIPTION, TENSORS), description, arrays).items():
        atomic_write(path / name, data)


@known_arguments
def load(path: str | Path, model: Any, *, check_weights: bool = True) -> AdaptedModel:
    """Attach what :func:`save` wrote to the backbone it was trained on; what was frozen is frozen again.

    When it fails, the backbone is left as it was.

    Args:
        path: the directory.
        model: the backbone, without adapters.
        check_weights: False takes a backbone of the same architecture whose weights differ, such as the same one in
            another precision.

    Raises:
        StoreError: when the files cannot be read or are damaged.
        SettingError: when the backbone is another one; the message says in what.
    """
    path = user_path(path)
    if not (path / DESCRIPTION).exists():
        raise StoreError(f"There are no adapters in {str(path)!r}: it has no {DESCRIPTION}. Check the path.")
    description, tensors = read_pair(path, (DESCRIPTION, TENSORS), 1, FORMAT)
    check_backbone(model)
    found = describe_backbone(model)
    with reading(path / DESCRIPTION, "adapters that fit their tensors and backbone"):
        words = differences(description["backbone"], found, weights=check_weights)
        kind = str(description["backbone"]["class"])
    if words:
        raise SettingError(
            f"The adapters in {str(path)!r} belong to another backbone, {kind}: {'; '.join(words)}. "
            "Load them onto that one."
        )
    with reading(path / DESCRIPTION, "adapters that fit their tensors and backbone"):
        _check_sizes(description, tensors)
        adapted = _attached(description, model)
        try:
            _fill(adapted, description, tensors)
        except BaseException:
            adapted.detach()
            raise
    return adapted


def _check_sizes(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise ValueError where the description asks for parts larger than any tensor, before they are made."""
    heads = [task["head"] or {} for task in description["tasks"]]
    asked = [description["embedding"], *(size for head in heads for name, size in head.items() if name != "kind")]
    if any(head.get("kind") == "dense" for head in heads):
        asked.append(description["decoder"])
    largest = max((size for value in tensors.values() for size in value.shape), default=0)
    if any(whole(size) > largest for size in asked):
        raise ValueError("it describes parts that are larger than any of its tensors")


def _attached(description: dict[str, Any], model: Any) -> AdaptedModel:
    """Fresh adapters of the shape that is described."""
    specs = {task["name"]: head_from_dict(task["head"]) for task in description["tasks"]}
    return attach(
        model,
        specs,
        layers=description["layers"],
        block=_common(description["blocks"]),
        embedding=description["embedding"],
        decoder=description["decoder"],
    )


def _fill(adapted: AdaptedModel, description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Numbers, Omega, and what is frozen."""
    own = dict(adapted.own_parameters())
    if {name: p.shape for name, p in own.items()} != {name: value.shape for name, value in tensors.items()}:
        raise ValueError("the tensors have other names or shapes")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
    adapted.embeddings.set_omega(np.array(description["omega"], dtype=np.float64))
    for name in description.get("frozen", []):
        own[name].requires_grad_(False)


def _common(blocks: list[int]) -> int | None:
    """What `attach` was told: one size that all layers share, or None for a size of each layer's own."""
    return blocks[0] if len(set(blocks)) == 1 else None
