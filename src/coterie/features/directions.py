"""Directions in parameter space: what gradients are projected on."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from coterie._surface import known_arguments
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


@known_arguments
class RandomDirections(Directions):
    """Independent signs, +-1/sqrt(d), as in the published projection; never stored.

    Entry i of direction j of a parameter depends on (seed, j, name of the parameter, i) only: chunks of any size, in
    any order, on any device, give the same signs. The bits come from numpy's Philox counter generator, keyed by a hash
    of seed and name, with the direction in the counter.

    Args:
        shapes: name -> shape of the parameters to move.
        count: number of directions d.
        seed: any whole number.

    Cost:
        One random bit a parameter and direction; a chunk holds (chunk x parameters) numbers.

    Example:
        >>> directions = RandomDirections({"w": (4, 5)}, count=16, seed=0)
        >>> directions.chunk(2, 5)["w"].shape
        torch.Size([3, 4, 5])
        >>> sorted(set(directions.chunk(0, 16)["w"].flatten().tolist()))
        [-0.25, 0.25]
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], count: int, seed: int = 0) -> None:
        if count < 1:
            raise SettingError(f"Parameter `count` (number of directions d) should be at least 1. Found {count}.")
        if not shapes:
            raise SettingError("Parameter `shapes` is empty: name at least one parameter to move.")
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._count = count
        self._seed = seed
        self._keys = {name: _key(seed, name) for name in self._shapes}
        signs = 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) - 1.0
        self._table = (signs / np.sqrt(count)).astype(np.float32)

    @staticmethod
    def of(model: nn.Module, count: int, seed: int = 0, names: Sequence[str] | None = None) -> RandomDirections:
        """Directions over parameters of a model: all that are trained (as published), or those in `names`."""
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        chosen = parameters if names is None else {name: parameters[name] for name in names}
        return RandomDirections({name: tuple(p.shape) for name, p in chosen.items()}, count, seed)

    @property
    def count(self) -> int:
        """Number of directions d."""
        return self._count

    @property
    def seed(self) -> int:
        """The seed."""
        return self._seed

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter that the directions move."""
        return dict(self._shapes)

    def chunk(self, start: int, stop: int) -> dict[str, Tensor]:
        """Directions start..stop-1, on the CPU."""
        return {name: self.part(name, start, stop) for name in self._shapes}

    def part(self, name: str, start: int, stop: int) -> Tensor:
        """Directions start..stop-1 of one parameter, on the CPU."""
        shape = self._shapes[name]
        size = prod(shape)
        words = np.empty((stop - start, -(-size // 64)), dtype="<u8")
        generator = np.random.Philox(key=self._keys[name], counter=np.array([0, 0, start, 0], np.uint64))
        # to the next direction: a new generator would take three times as long, which shows for small parameters
        onwards = 2**128 - -(-words.shape[1] // 4)
        for row in words:
            row[:] = generator.random_raw(words.shape[1])
            generator.advance(onwards)
        # one table look-up turns eight bits into eight signs: a single pass over memory
        signs = self._table.take(words.view(np.uint8), axis=0).reshape(stop - start, -1)
        return torch.from_numpy(signs)[:, :size].unflatten(1, shape) if shape else torch.from_numpy(signs)[:, 0]


def _key(seed: int, name: str) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)
