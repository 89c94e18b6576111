"""Adapters, embeddings, decoder, heads and Omega on disk; the backbone is not written."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from coterie._surface import known_arguments
from coterie.adapters.adapted import AdaptedModel
from coterie.adapters.attaching import attach, check_backbone
from coterie.adapters.heads import head_from_dict, head_to_dict
from coterie.adapters.identity import describe_backbone, differences
from coterie.errors import SettingError, StoreError
from coterie.store.arrays import decode, encode, plain_arrays
from coterie.store.files import atomic_write, digest, directory_error, read_json, write_json

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
        "frozen": [name for name, parameter in adapted.own_parameters() if not parameter.requires_grad],
        "backbone": describe_backbone(adapted.backbone),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise directory_error(error, path) from error
    # the description is written last: its checksums say that both belong together, and that it is whole itself
    atomic_write(path / TENSORS, data)
    description["sha256"] = digest(data)
    write_json(path / DESCRIPTION, {**description, "checksum": digest(description)})


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
    path = Path(path)
    description, tensors = _read(path)
    check_backbone(model)
    found = describe_backbone(model)
    with _described(path):
        words = differences(description["backbone"], found, weights=check_weights)
        kind = str(description["backbone"]["class"])
    if words:
        raise SettingError(
            f"The adapters in {str(path)!r} belong to another backbone, {kind}: {'; '.join(words)}. "
            "Load them onto that one."
        )
    with _described(path):
        adapted = _attached(description, model)
        try:
            _fill(adapted, description, tensors)
        except BaseException:
            adapted.detach()
            raise
    return adapted


@contextmanager
def _described(path: Path) -> Generator[None]:
    """Whatever a description that does not fit leads to is a damaged file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"The file {str(path / DESCRIPTION)!r} does not describe adapters that fit its tensors and backbone "
            f"({type(error).__name__}: {error}). It was changed by hand, or by another program. Save them again."
        ) from error


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


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not (path / DESCRIPTION).exists():
        raise StoreError(f"There are no adapters in {str(path)!r}: it has no {DESCRIPTION}. Check the path.")
    description = read_json(path / DESCRIPTION)
    if not isinstance(description, dict) or description.get("format") not in (1, FORMAT):
        raise StoreError(
            f"The file {str(path / DESCRIPTION)!r} is not of a format that this version reads, 1 or {FORMAT}. Another "
            "version wrote it: load it with that one, or save the adapters again."
        )
    described = cast("dict[str, Any]", description)
    rest = {name: value for name, value in described.items() if name != "checksum"}
    if described["format"] != 1 and described.get("checksum") != digest(rest):
        raise StoreError(
            f"The file {str(path / DESCRIPTION)!r} is damaged or was changed: its checksum is not that of its content."
        )
    try:
        data = (path / TENSORS).read_bytes()
    except OSError as error:
        raise StoreError(f"Cannot read {str(path / TENSORS)!r}: {error.strerror or error}.") from error
    if digest(data) != described.get("sha256"):
        raise StoreError(f"The file {str(path / TENSORS)!r} is damaged: its checksum is not that of {DESCRIPTION}.")
    return described, cast("dict[str, Tensor]", decode(data, None))
