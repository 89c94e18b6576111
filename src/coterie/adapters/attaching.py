"""Adapters into a frozen vision transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from coterie._random import random_numbers
from coterie._surface import known_arguments
from coterie.adapters.adapted import AdaptedModel
from coterie.adapters.blocks import block_size
from coterie.adapters.heads import Dense, Head, Image
from coterie.adapters.sites import Site, base_of, find_sites, place_of
from coterie.errors import SettingError

#: length of the embeddings for windows of 7 x 7 tokens, as in the source
EMBEDDING = 343


@known_arguments
def attach(
    model: Any,
    tasks: Sequence[str] | Mapping[str, Head | None],
    *,
    layers: Sequence[int] | None = None,
    block: int | None = None,
    embedding: int | None = None,
    decoder: int = 64,
    seed: int = 0,
) -> AdaptedModel:
    """Freeze a Swin, Swin-V2 or ViT of Hugging Face transformers and put adapters into some of its blocks.

    The model is not edited: adapters work through hooks, which :meth:`AdaptedModel.detach` removes. At first the
    adapted model computes what the frozen one does, for every task: bit by bit where PyTorch takes the same kernels,
    which it does but for a ViT with ``scaled_dot_product_attention`` on CUDA, where a bias of zeros may bring another
    one and equality is up to rounding. Only adapters, embeddings, decoder and heads have gradients.

    Args:
        model: the backbone, or a model around one, whose backbone is used. All of it is frozen.
        tasks: names, or a mapping from names to heads (:class:`Dense`, :class:`Image`, None).
        layers: indices of the blocks that get an adapter, counted over all stages. None is the last quarter of the
            blocks, at least two: 6 of the 24 blocks of the source.
        block: size of the blocks of the attention's matrix, a divisor of the number of tokens that attend to each
            other. None is the divisor nearest to its square root, 7 for the source's windows of 7 x 7 tokens.
        embedding: length of the tasks' embeddings. None is the number of tokens times the block size, as in the source
            (343 for windows of 7 x 7), but at most 343: beyond, the linear maps from it outgrow the backbone.
        decoder: features of the decoder that dense tasks share.
        seed: of the random numbers that embeddings, projections and heads start from.

    Returns:
        The adapted model, on the device and in the precision of the backbone.

    Raises:
        SettingError: for another kind of model, one with weights on several devices or in several precisions, or
            settings that do not fit it.

    Cost: a pass for one task is a pass of the backbone plus the adapters. Several tasks at once share
    the blocks before the first adapter; later blocks run once a task. With ``scaled_dot_product_attention``, PyTorch
    may choose another kernel for a bias that is trained, which rounds in another way.

    Source: D. Bhattacharjee et al., "Vision Transformer Adapters for Generalizable Multitask Learning", ICCV 2023,
    arXiv 2308.12372. Rebuilt: the parts of the adapter are the source's, their place is changed so that the adapted
    model starts as the frozen one. Both norms of a block are task-scaled, and the bottleneck is added to the block's
    output, where the source's figure has a block of its own around them.

    Example:
        >>> transformers = __import__("pytest").importorskip("transformers")
        >>> config = transformers.ViTConfig(image_size=16, patch_size=4, hidden_size=12, num_hidden_layers=2,
        ...                                 num_attention_heads=2, intermediate_size=24)
        >>> vit, pixels = transformers.ViTModel(config).eval(), torch.randn(2, 3, 16, 16)
        >>> adapted = attach(vit, {"depth": Dense(1), "kind": Image(10)})
        >>> tuple(adapted(pixels, task="depth").shape), tuple(adapted(pixels, task="kind").shape)
        ((2, 1, 16, 16), (2, 10))
        >>> sorted(adapted(pixels, task=adapted.tasks))
        ['depth', 'kind']
        >>> vit is adapted.detach()
        True
    """
    check_backbone(model)
    base = base_of(model)
    specs = _checked(tasks)
    sites = find_sites(base)
    chosen = [sites[index] for index in _layers(layers, len(sites))]
    blocks = [_block(site, block) for site in chosen]
    size = min(EMBEDDING, max(site.tokens * b for site, b in zip(chosen, blocks, strict=True)))
    if (embedding is not None and embedding < 1) or decoder < 1:
        raise SettingError(f"Parameters `embedding` and `decoder` should be at least 1. Found {embedding}, {decoder}.")
    with random_numbers(torch.device("cpu"), seed):
        # the generator of the CPU alone: the same numbers on every device
        adapted = AdaptedModel(model, chosen, blocks, specs, embedding or size, decoder)
    return adapted.place_own()


def check_backbone(model: Any) -> None:
    """Refuse a model that adapters do not fit, whatever their settings.

    Raises:
        SettingError: for another kind of model, one that has adapters, or one in several places or precisions.
    """
    base = base_of(model)
    if any(getattr(hook, "__self__", None).__class__ is AdaptedModel for hook in base._forward_pre_hooks.values()):
        raise SettingError("Parameter `model` has adapters already. Detach them first, or grow them by a task.")
    place_of(base)


def _checked(tasks: Sequence[str] | Mapping[str, Any]) -> dict[str, Head | None]:
    if isinstance(tasks, str):  # pyright: ignore[reportUnnecessaryIsInstance] # text is a sequence too
        raise SettingError(f"Parameter `tasks` should be a sequence or a mapping. Found the text {tasks!r}.")
    specs: dict[str, Any] = dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
    if not specs or len(specs) < len(tasks) or not all(isinstance(name, str) and name.strip() for name in specs):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(f"Parameter `tasks` should have unique names, at least one. Found {list(tasks)}.")
    for name, spec in specs.items():
        if not isinstance(spec, Dense | Image | None):
            raise SettingError(f"The head of task {name!r} should be Dense, Image or None. Found {spec!r}.")
    return specs


def _layers(layers: Sequence[int] | None, count: int) -> list[int]:
    if layers is None:
        return list(range(count - min(count, max(2, count // 4)), count))
    chosen = sorted(set(layers))
    if not chosen or len(chosen) < len(layers) or chosen[0] < 0 or chosen[-1] >= count:
        raise SettingError(
            f"Parameter `layers` should have indices from 0 to {count - 1}, none twice. Found {list(layers)}."
        )
    return chosen


def _block(site: Site, block: int | None) -> int:
    if block is None:
        return block_size(site.tokens)
    if block < 1 or site.tokens % block:
        raise SettingError(
            f"Parameter `block` should divide the {site.tokens} tokens of block {site.index}. Found {block}. "
            f"None chooses {block_size(site.tokens)}."
        )
    return block
