"""The built-in model: a multi-layer perceptron with a shared trunk and one fused linear head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from coterie._check import is_whole
from coterie._random import random_numbers
from coterie._surface import known_arguments
from coterie.errors import SettingError


class Mlp(nn.Module):
    """Linear layers with ReLU between them (`trunk`), then one linear layer for all tasks together (`head`).

    Inputs (rows, ...) are flattened to (rows, n_inputs); outputs are (rows, n_outputs).

    Args:
        n_inputs: width of a flattened example.
        hidden: widths of the hidden layers; empty for a linear model.
        n_outputs: sum of the widths of the tasks.

    Example:
        >>> import torch
        >>> Mlp(4, [8, 8], 3)(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], n_outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = n_inputs
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, ...) -> (rows, n_outputs)."""
        return self.head(self.trunk(x.flatten(1)))


@dataclass(frozen=True)
class MlpBuilder:
    """seed -> a freshly initialised :class:`Mlp`. Can be pickled; leaves the global random state alone."""

    n_inputs: int
    hidden: tuple[int, ...]
    n_outputs: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters by name, without making them."""
        widths = (self.n_inputs, *self.hidden, self.n_outputs)
        layers = [f"trunk.{2 * number}" for number in range(len(self.hidden))] + ["head"]
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (before, after) in zip(layers, itertools.pairwise(widths), strict=True):
            shapes |= {f"{layer}.weight": (after, before), f"{layer}.bias": (after,)}
        return shapes

    def __call__(self, seed: int) -> Mlp:
        """The model of a seed."""
        with random_numbers(seed=seed):
            return Mlp(self.n_inputs, self.hidden, self.n_outputs)


@known_arguments
def mlp_spec(n_inputs: int, hidden: Sequence[int], n_outputs: int) -> dict[str, Any]:
    """JSON-ready description of an :class:`Mlp`, for :func:`build_from_spec`.

    Raises:
        SettingError: when a width is not a whole number of at least 1.

    Example:
        >>> mlp_spec(4, (8,), 2)
        {'kind': 'mlp', 'n_inputs': 4, 'hidden': [8], 'n_outputs': 2}
    """
    for name, sizes in (("n_inputs", [n_inputs]), ("hidden", list(hidden)), ("n_outputs", [n_outputs])):
        for size in sizes:
            if not is_whole(size) or size < 1:
                raise SettingError(
                    f"Parameter `{name}` of the built-in model should be made of whole numbers of at least 1. Found "
                    f"{size!r}. For example hidden=(64, 32)."
                )
    return {"kind": "mlp", "n_inputs": n_inputs, "hidden": list(hidden), "n_outputs": n_outputs}


def build_from_spec(spec: Mapping[str, Any]) -> MlpBuilder:
    """`build_model` of a built-in model from its description.

    Raises:
        SettingError: when the description names no built-in model or is incomplete.

    Example:
        >>> model = build_from_spec(mlp_spec(4, (8,), 2))(seed=0)
        >>> count_parameters(model)
        58
    """
    if spec.get("kind") != "mlp":
        raise SettingError(
            f"Parameter `spec` should have kind 'mlp', the only built-in model. Found {spec.get('kind')!r}. A model "
            "of your own is given as `build_model` instead."
        )
    missing = [key for key in ("n_inputs", "hidden", "n_outputs") if key not in spec]
    if missing:
        raise SettingError(f"Parameter `spec` lacks {missing}. Make it with coterie.workload.mlp.mlp_spec.")
    checked = mlp_spec(spec["n_inputs"], spec["hidden"], spec["n_outputs"])
    return MlpBuilder(checked["n_inputs"], tuple(checked["hidden"]), checked["n_outputs"])


def count_parameters(model: nn.Module) -> int:
    """Number of trainable numbers in a module."""
    return sum(math.prod(p.shape) for p in model.parameters() if p.requires_grad)
