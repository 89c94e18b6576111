"""How many parameters an adapted model trains, and the memory that they take."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from coterie.adapters.adapted import AdaptedModel


@dataclass(frozen=True)
class Summary:
    """Parameters of an adapted model.

    Attributes:
        trainable: numbers that are trained.
        frozen: all others, those of the backbone among them.
        share: trainable of all, from 0 to 1.
        trainable_bytes: memory of the trainable ones. Training with Adam takes about four times as much: gradients
            and two moments.
        frozen_bytes: memory of the others.
        parts: numbers, trainable or not, of adapters, embeddings, projection, decoder, heads and backbone.
    """

    trainable: int
    frozen: int
    share: float
    trainable_bytes: int
    frozen_bytes: int
    parts: dict[str, int]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count:,}" for name, count in self.parts.items() if count)
        return (
            f"{self.trainable:,} of {self.trainable + self.frozen:,} parameters are trained ({self.share:.1%}, "
            f"{self.trainable_bytes / 2**20:.1f} MiB); {self.frozen:,} are frozen "
            f"({self.frozen_bytes / 2**20:.1f} MiB). By part: {parts}."
        )


def summary(adapted: AdaptedModel) -> Summary:
    """Count.

    Example:
        >>> transformers = __import__("pytest").importorskip("transformers")
        >>> from coterie.adapters import Image, attach
        >>> config = transformers.ViTConfig(image_size=16, patch_size=4, hidden_size=12, num_hidden_layers=2,
        ...                                 num_attention_heads=2, intermediate_size=24)
        >>> found = summary(attach(transformers.ViTModel(config), {"kind": Image(10)}, layers=[1]))
        >>> found.trainable, found.parts["heads"]
        (9730, 130)
    """
    every = list(adapted.parameters())
    trained, others = [p for p in every if p.requires_grad], [p for p in every if not p.requires_grad]
    trainable, frozen = sum(p.numel() for p in trained), sum(p.numel() for p in others)
    names = ("adapters", "embeddings", "projection", "decoder", "heads", "backbone")
    parts: dict[str, int] = {}
    for name in names:
        part: nn.Module | None = getattr(adapted, name)
        parts[name] = 0 if part is None else sum(p.numel() for p in part.parameters())
    return Summary(
        trainable,
        frozen,
        trainable / max(1, trainable + frozen),
        sum(p.numel() * p.element_size() for p in trained),
        sum(p.numel() * p.element_size() for p in others),
        parts,
    )
