"""Inputs that are read when a batch of their rows is needed: what all kinds of them have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from coterie.errors import WorkloadError

Inputs = Tensor | dict[str, Tensor]

#: (seed, step) of the training step that reads rows; None where the same row has to be the same at each reading
_STEP: ContextVar[tuple[int, int] | None] = ContextVar("step", default=None)


@contextmanager
def training_step(seed: int, step: int) -> Generator[None]:
    """Rows that are read inside are augmented anew, as the seed of a training and the number of its step say."""
    token = _STEP.set((seed, step))
    try:
        yield
    finally:
        _STEP.reset(token)


def current_step() -> tuple[int, int] | None:
    """Seed and step of the training step that reads; None outside of any."""
    return _STEP.get()


class LazyInputs:
    """Rows of inputs that are read when they are asked for; derive and give `read`.

    Attributes:
        rows: how many there are.
        random: whether a row is another one at each training step (augmentation).
        example: the first row, (1, ...) or a dict of such tensors: data types and sizes.
    """

    rows: int
    random: bool
    example: Inputs
    _digest: str | None = None

    def __len__(self) -> int:
        return self.rows

    def read(self, rows: Tensor) -> Inputs:
        """Inputs of (rows,) numbers on the CPU, each number once and in ascending order."""
        raise NotImplementedError

    def take(self, rows: Tensor) -> Inputs:
        """Inputs of row numbers of any shape, on the device of the numbers; each row is read once."""
        distinct, back = rows.reshape(-1).unique(return_inverse=True)
        found = self.read(distinct.cpu())
        return each_part(found, lambda part: _arranged(part.to(rows.device), back, rows.shape))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the values of all rows, as they are outside of training; one pass over them at first."""
        if self._digest is None:
            found = hashlib.sha256()
            for chunk in torch.arange(self.rows).split(256):
                update_digest(found, self.read(chunk))
            self._digest = found.hexdigest()
        return self._digest


def _arranged(part: Tensor, back: Tensor, shape: torch.Size) -> Tensor:
    return part[back].view(*shape, *part.shape[1:])


def update_digest(digest: Any, inputs: Inputs) -> None:
    """Add the values of some rows, with names and shapes."""
    for name, part in sorted(named_parts(inputs).items()):
        digest.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
        flat = part.detach().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")


def each_part(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Inputs of which each tensor is changed in the same way."""
    return {name: change(part) for name, part in inputs.items()} if isinstance(inputs, dict) else change(inputs)


def named_parts(inputs: Inputs) -> Mapping[str, Tensor]:
    """The tensors of inputs by name; one alone has the name ""."""
    return inputs if isinstance(inputs, dict) else {"": inputs}


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Inputs of several sources below each other.

    Raises:
        WorkloadError: when they have other names or sizes.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    forms = [{name: tuple(part.shape[1:]) for name, part in named_parts(inputs).items()} for inputs in parts]
    if any(form != forms[0] for form in forms):
        odd = next(form for form in forms if form != forms[0])
        raise WorkloadError(
            f"Parameter `dataset`: all data sets should give inputs of the same names and sizes. Found {forms[0]} and "
            f"{odd}. The likely cause is another transform, or padding to the longest row of a batch: pad to one "
            "length."
        )
    if isinstance(first, dict):
        return {name: torch.cat([named_parts(inputs)[name] for inputs in parts]) for name in first}
    return torch.cat([named_parts(inputs)[""] for inputs in parts])


class JoinedInputs(LazyInputs):
    """The rows of several sources, one below the other.

    Args:
        parts: the sources.
    """

    def __init__(self, parts: Sequence[LazyInputs]) -> None:
        joined([part.example for part in parts])
        self.parts = list(parts)
        self.rows = sum(part.rows for part in parts)
        self.random = any(part.random for part in parts)
        self.example = parts[0].example

    def read(self, rows: Tensor) -> Inputs:
        """Inputs of ascending row numbers."""
        found: list[Inputs] = []
        start = 0
        for part in self.parts:
            own = rows[(rows >= start) & (rows < start + part.rows)] - start
            start += part.rows
            if len(own):
                found.append(part.read(own))
        return joined(found) if found else each_part(self.example, lambda part: part[:0])

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of those of the sources."""
        return hashlib.sha256("".join(part.digest for part in self.parts).encode()).hexdigest()


def in_memory(inputs: Inputs | LazyInputs, purpose: str) -> Inputs:
    """Inputs that are tensors.

    Raises:
        WorkloadError: when they are read row by row.
    """
    if isinstance(inputs, LazyInputs):
        raise WorkloadError(
            f"{purpose} needs all inputs in memory. Found a workload of from_dataset or from_loaders, which reads them "
            "row by row. Choose another method, or give the inputs as arrays to coterie.from_arrays."
        )
    return inputs
