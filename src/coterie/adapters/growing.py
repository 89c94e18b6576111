"""A further task for an adapted model, whose known tasks stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from coterie._check import is_whole
from coterie._random import random_numbers
from coterie._surface import known_arguments
from coterie.adapters.adapted import AdaptedModel
from coterie.adapters.heads import Dense, Head, Image
from coterie.errors import SettingError


@known_arguments
def grow(
    adapted: AdaptedModel,
    task: str,
    head: Head | None = None,
    *,
    similarities: Mapping[str, float],
    neighbours: int = 2,
    own: float = 0.5,
    seed: int = 0,
) -> None:
    """Add a task; freeze all that the known tasks use, so that their outputs stay the same.

    Without a graph (``torch.no_grad()``) they are the same bit by bit; with one, the backbone may take another kernel.

    The known tasks' columns of Omega are reused: the new column is the mean of the normalised columns of the most
    similar tasks, weighted by similarity. The new embedding starts at the mean of the embeddings with these weights,
    and gets the share `own` of the new column. So the new task starts where its neighbours point (zero-shot), and what
    is trained is its embedding, its head, and the decoder when it is the first dense task.

    Args:
        adapted: grown in place. Afterwards :meth:`AdaptedModel.trainable` has the new task's parameters alone.
        task: name of the new task.
        head: what it predicts.
        similarities: with known tasks, none negative; larger is nearer. From other knowledge, or from gradients on
            a few labelled examples by :meth:`Troa.similarities`.
        neighbours: how many of the most similar tasks are used.
        own: share of the new task's own embedding, above 0 and up to 1; with less the others' are followed more.
        seed: of the random numbers that the head starts from.

    Raises:
        SettingError: when the task is known, or no similarity is positive, or a value is out of range.
        ModelError: when the adapters were detached.

    Source: zero-shot task transfer of D. Bhattacharjee et al., ICCV 2023, arXiv 2308.12372. That columns of similar
    tasks are reused is a reconstruction.

    Example:
        >>> transformers = __import__("pytest").importorskip("transformers")
        >>> from coterie.adapters import attach
        >>> config = transformers.ViTConfig(image_size=16, patch_size=4, hidden_size=12, num_hidden_layers=2,
        ...                                 num_attention_heads=2, intermediate_size=24)
        >>> adapted = attach(transformers.ViTModel(config), {"depth": Image(1), "edges": Image(1)})
        >>> grow(adapted, "normals", Image(3), similarities={"depth": 0.6, "edges": 0.2})
        >>> adapted.embeddings.weights[:, 2].round(3).tolist()
        [0.375, 0.125, 0.5]
        >>> [name for name, p in adapted.own_parameters() if p.requires_grad]
        ['embeddings.vectors.2', 'heads.2.linear.weight', 'heads.2.linear.bias']
    """
    adapted.need_attached()
    _check(adapted, task, head, similarities)
    if not is_whole(neighbours) or neighbours < 1 or not 0 < own <= 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(f"`neighbours` should be from 1 on, `own` in (0, 1]. Found {neighbours!r}, {own!r}.")
    embeddings, n = adapted.embeddings, len(adapted.tasks)
    near = sorted(similarities, key=lambda name: -similarities[name])[:neighbours]
    shares = np.array([similarities.get(name, 0.0) if name in near else 0.0 for name in adapted.tasks])
    column = embeddings.weights @ (shares / shares.sum())
    vectors = torch.stack(list(embeddings.vectors)).detach()
    start = torch.from_numpy(column).to(vectors) @ vectors
    omega = np.zeros((n + 1, n + 1))
    omega[:n, :n], omega[:n, n], omega[n, n] = embeddings.omega, (1 - own) * column, own

    adapted.requires_grad_(False)
    had_decoder = adapted.decoder is not None
    embeddings.add(task, start)
    embeddings.set_omega(omega)
    with random_numbers(torch.device("cpu"), seed):
        adapted.add_head(task, head)
    # where the other own parts are, which may have been moved since they were attached
    like = adapted.projection.weight
    adapted.heads[-1].to(like.device, like.dtype).train(adapted.training)
    if adapted.decoder is not None and not had_decoder:
        adapted.decoder.to(like.device, like.dtype).train(adapted.training)


def _check(adapted: AdaptedModel, task: Any, head: Any, similarities: Any) -> None:
    if not isinstance(task, str) or not task.strip() or task in adapted.tasks:
        raise SettingError(f"Parameter `task` should be a new name. Found {task!r} among {list(adapted.tasks)}.")
    if not isinstance(head, Dense | Image | None):
        raise SettingError(f"Parameter `head` should be Dense, Image or None. Found {head!r}.")
    if not isinstance(similarities, Mapping) or not all(
        name in adapted.tasks
        and isinstance(value, int | float | np.integer | np.floating)
        and 0 <= float(value) < np.inf
        for name, value in similarities.items()
    ):
        raise SettingError(
            f"Parameter `similarities` should map some of {list(adapted.tasks)} to numbers from 0 on. "
            f"Found {similarities!r}."
        )
    if not any(value > 0 for value in similarities.values()):
        raise SettingError(
            "Parameter `similarities` has no positive number: no known task is related to the new one. Name the tasks "
            "to start from, or train adapters of its own with `attach`."
        )
