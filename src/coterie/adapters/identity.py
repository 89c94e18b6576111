"""Which backbone it is: its architecture and a checksum of its weights."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from coterie.adapters.sites import base_of
from coterie.store.files import to_plain

#: settings of a configuration that decide whether adapters fit
_SETTINGS = (
    "model_type",
    "image_size",
    "patch_size",
    "num_channels",
    "embed_dim",
    "depths",
    "num_heads",
    "window_size",
    "pretrained_window_sizes",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "mlp_ratio",
    "qkv_bias",
)


def describe_backbone(model: Any) -> dict[str, Any]:
    """JSON-ready: class, settings, checksum.

    The name that the backbone was loaded by is left out: it may be a path on somebody's disk. The checksum is of names,
    types and bits of parameters and buffers. Cost: one pass over them.
    """
    base = base_of(model)
    settings: dict[str, Any] = base.config.to_dict()
    return {
        "class": type(base).__name__,
        "settings": {name: to_plain(settings[name]) for name in _SETTINGS if name in settings},
        "sha256": _checksum(base),
    }


def _checksum(base: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(base.state_dict().items()):
        if name.startswith("pooler."):  # adapters do not use it, and a backbone may be loaded without
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def differences(saved: dict[str, Any], found: dict[str, Any], *, weights: bool) -> list[str]:
    """What differs between two backbones, in words; the checksum, when `weights`, only where nothing else does."""
    before, now = saved["settings"], found["settings"]
    words = [
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in _SETTINGS
        if before.get(name) != now.get(name)
    ]
    if weights and not words and saved["sha256"] != found["sha256"]:
        words = ["the settings are the same, the weights are others"]
    return words
