"""Inputs as models get them: copies, since a model may change what it is given."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def copied(value: Any) -> Any:
    """Tensors, and dicts, lists and tuples of them at any depth, copied; everything else as it is.

    A model that writes into its input (``x += shift``, ``x.relu_()``, ``batch.pop(...)``) would change it for all that
    are asked after it.

    Example:
        >>> import torch
        >>> x = torch.zeros(2)
        >>> copied({"x": [x]})["x"][0].add_(1), x
        (tensor([1., 1.]), tensor([0., 0.]))
    """
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if type(value) in (list, tuple):
        return type(value)(copied(part) for part in value)
    return value
