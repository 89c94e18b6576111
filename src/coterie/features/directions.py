"""Directions in parameter space: what gradients are projected on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from coterie.errors import SettingError

#: directions that are drawn at once by :meth:`Directions.displacement`
_CHUNK = 32


class Directions(ABC):
    """`count` directions over the parameters called `names`.

    Feature j of an example is the directional derivative of its margin along direction j, so the features are
    ``P^T grad`` for the (parameters x count) matrix ``P`` whose column j is direction j. The matrix need not exist.
    """

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of directions d."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter that the directions move."""

    @abstractmethod
    def chunk(self, start: int, stop: int) -> dict[str, Tensor]:
        """Directions start..stop-1: one tensor (stop - start, *shape) a parameter."""

    def part(self, name: str, start: int, stop: int) -> Tensor:
        """Directions start..stop-1 of one parameter: (stop - start, *shape)."""
        return self.chunk(start, stop)[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that the directions move."""
        return tuple(self.shapes)

    @property
    def size(self) -> int:
        """Number of parameters p that the directions move."""
        return sum(prod(shape) for shape in self.shapes.values())

    def displacement(self, u: Tensor) -> dict[str, Tensor]:
        """``P u``: the sum over j of u_j times direction j.

        Args:
            u: (d,), or (m, d) for m displacements at once.

        Returns:
            One tensor (*shape), or (m, *shape), a parameter.

        Raises:
            SettingError: when the last dimension of `u` is not the number of directions.
        """
        if u.dim() not in (1, 2) or u.shape[-1] != self.count:
            raise SettingError(
                f"Parameter `u` should have shape ({self.count},) or (m, {self.count}): one number a direction. "
                f"Found {tuple(u.shape)}."
            )
        total: dict[str, Tensor] = {}
        for start in range(0, self.count, _CHUNK):
            stop = min(start + _CHUNK, self.count)
            for name, value in self.chunk(start, stop).items():
                flat = value.to(u.device, u.dtype).reshape(stop - start, -1)
                part = (u[..., start:stop] @ flat).reshape((*u.shape[:-1], *value.shape[1:]))
                total[name] = total[name] + part if name in total else part
        return total


class StackedDirections(Directions):
    """Directions that are held in memory: task vectors, task gradients, unit directions.

    They are used as they are; make them orthonormal before, where that matters.

    Args:
        tensors: name of a parameter -> (d, *shape).

    Example:
        >>> directions = StackedDirections({"weight": torch.eye(3).reshape(3, 1, 3)})
        >>> directions.count, directions.displacement(torch.tensor([1.0, 0.0, 2.0]))["weight"].tolist()
        (3, [[1.0, 0.0, 2.0]])
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        counts = {value.shape[0] if value.dim() else 0 for value in tensors.values()}
        if len(counts) != 1 or 0 in counts:
            raise SettingError(
                "Parameter `tensors` should map each parameter name to a (directions, *shape) tensor, with the same "
                f"number of directions for all. Found the numbers {sorted(counts)}."
            )
        bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
        if bad:
            raise SettingError(f"Parameter `tensors`: the directions of {bad[:3]} are not finite.")
        self._tensors = {name: value.detach() for name, value in tensors.items()}
        self._count = counts.pop()

    @property
    def count(self) -> int:
        """Number of directions d."""
        return self._count

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter that the directions move."""
        return {name: tuple(value.shape[1:]) for name, value in self._tensors.items()}

    def chunk(self, start: int, stop: int) -> dict[str, Tensor]:
        """Directions start..stop-1."""
        return {name: value[start:stop] for name, value in self._tensors.items()}

    def part(self, name: str, start: int, stop: int) -> Tensor:
        """Directions start..stop-1 of one parameter."""
        return self._tensors[name][start:stop]
