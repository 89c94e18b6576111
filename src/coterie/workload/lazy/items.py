"""Rows of data sets that are asked for by number, with the randomness of their augmentation under control."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from coterie.errors import WorkloadError
from coterie.workload.lazy.inputs import Inputs, LazyInputs, current_step

#: one item, or the batch that a collate makes of several -> its inputs
Collate = Callable[[list[Any]], Inputs]
#: random numbers that code may draw from without being given a generator: those of Python, NumPy and torch
_State = tuple[Any, Any, Tensor]


def states() -> _State:
    """The global random numbers on the CPU, as they are now."""
    # what users' code draws from without being told
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def same_states(a: _State, b: _State) -> bool:
    """Whether nothing was drawn in between."""
    numpy = a[1][2] == b[1][2] and np.array_equal(a[1][1], b[1][1])
    return numpy and a[0] == b[0] and torch.equal(a[2], b[2])


@contextmanager
def untouched() -> Generator[_State]:
    """Put all global random numbers on the CPU back afterwards; yields what they were."""
    state = states()
    try:
        yield state
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        torch.set_rng_state(state[2])


def seed_all(seed: int) -> None:
    """Seed the global random numbers of Python, NumPy and torch on the CPU; inside of :func:`untouched`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)


class SeededItems:
    """Items of a data set, each read under random numbers of its own where wanted.

    Args:
        dataset: with ``__getitem__``.
        where: how messages call it.
    """

    def __init__(self, dataset: Any, where: str) -> None:
        self.dataset, self.where = dataset, where

    def __getitems__(self, requests: Sequence[tuple[int, int | None]]) -> tuple[list[Any], bool]:
        """Items of (number, seed) pairs, and whether they drew random numbers; without seeds that is not looked at."""
        if all(seed is None for _, seed in requests):
            return self._plain([row for row, _ in requests]), False
        with untouched():
            seed_all(int(requests[0][1] or 0))
            before = states()
            items = [self._item(row) for row, _ in requests]
            if same_states(before, states()):
                return items, False
            for place, (row, seed) in enumerate(requests):
                seed_all(int(seed or 0))
                items[place] = self._item(row)
            return items, True

    def __getitem__(self, request: tuple[int, int | None]) -> tuple[list[Any], bool]:
        return self.__getitems__([request])

    def _plain(self, rows: list[int]) -> list[Any]:
        many = getattr(self.dataset, "__getitems__", None)
        return list(many(rows)) if many is not None else [self._item(row) for row in rows]

    def _item(self, row: int) -> Any:
        try:
            return self.dataset[row]
        except (IndexError, KeyError) as error:
            raise WorkloadError(
                f"{self.where}: item {row} cannot be read ({type(error).__name__}: {error}). Items should have the "
                f"numbers from 0 to len(dataset) - 1. The likely cause is a length that counts more than there is."
            ) from error


class _Wanted:
    """What a loader's workers are asked for next: a batch sampler that is told its batches."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int | None]]] = []

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _as_they_are(fetched: Any) -> Any:
    return fetched


class ItemReader:
    """Reads items by number, in worker processes where wanted.

    Args:
        items: of a data set.
        workers: processes; 0 reads here.
        start: called with its number in each worker, as a loader does.
        context: how processes are started, as a loader takes it.
    """

    def __init__(
        self, items: SeededItems, workers: int, start: Callable[[int], None] | None = None, context: Any = None
    ) -> None:
        self.items, self.workers, self.start, self.context = items, workers, start, context
        self._loader: DataLoader[Any] | None = None
        self._wanted = _Wanted()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loader": None, "_wanted": _Wanted()}

    def __call__(self, requests: list[tuple[int, int | None]]) -> tuple[list[Any], bool]:
        """Items of (number, seed) pairs, and whether they drew random numbers."""
        share = -(-len(requests) // max(1, self.workers))
        # a pass of a worker costs about a millisecond, whatever it brings
        if self.workers == 0 or share < 2:
            return self.items.__getitems__(requests)
        if self._loader is None:
            self._loader = DataLoader(
                self.items,  # pyright: ignore[reportArgumentType]
                batch_sampler=self._wanted,  # pyright: ignore[reportArgumentType]
                num_workers=self.workers,
                collate_fn=_as_they_are,
                persistent_workers=True,
                worker_init_fn=self.start,
                multiprocessing_context=self.context,
                generator=torch.Generator(),  # or else each pass would draw from the numbers of the training
            )
        self._wanted.batches = [requests[start : start + share] for start in range(0, len(requests), share)]
        found = list(self._loader)
        return [item for items, _ in found for item in items], any(drew for _, drew in found)


class ItemInputs(LazyInputs):
    """The inputs of a data set whose items are asked for by number.

    Args:
        reader: of its items.
        rows: how many items.
        collate: items -> inputs of all of them.
        seed: of the augmentation.
    """

    def __init__(self, reader: ItemReader, rows: int, collate: Collate, seed: int) -> None:
        self.reader, self.rows, self.collate, self.seed = reader, rows, collate, seed
        self.random = False

    def requests(self, rows: Sequence[int], *, seeded: bool) -> list[tuple[int, int | None]]:
        """(row, seed) pairs, as :class:`SeededItems` takes them."""
        if not seeded:
            return [(row, None) for row in rows]
        step = current_step() or ()
        return [(row, _seed(self.seed, row, *step)) for row in rows]

    def collated(self, items: list[Any], rows: Sequence[int]) -> Inputs:
        """Inputs of items; a collate may draw random numbers, too."""
        if not self.random:
            return self.collate(items)
        with untouched():
            self.seed_collate(rows)
            return self.collate(items)

    def seed_collate(self, rows: Sequence[int]) -> None:
        """Seed what a collate draws for these rows; inside of :func:`untouched`."""
        seed_all(_seed(self.seed, rows[0], len(rows), *(current_step() or ()), 1))

    def read(self, rows: Tensor) -> Inputs:
        """Inputs of ascending row numbers."""
        numbers: list[int] = rows.tolist()
        items, _ = self.reader(self.requests(numbers, seeded=self.random))
        return self.collated(items, numbers)


def _seed(*path: int) -> int:
    return int(np.random.SeedSequence([number % 2**63 for number in path]).generate_state(1, np.uint64)[0] >> 1)
