"""One pass over data sets and loaders: labels are kept, inputs stay where they are or go to disk."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from coterie._surface import warn
from coterie.errors import DataWarning, WorkloadError
from coterie.workload.lazy.form import ItemForm, LabelReader
from coterie.workload.lazy.inputs import Inputs, LazyInputs, each_part, named_parts, training_step, update_digest
from coterie.workload.lazy.items import ItemInputs, ItemReader, SeededItems, same_states, seed_all, states, untouched
from coterie.workload.lazy.stored import StreamWriter

#: rows that are read at once; also what a digest goes by
_CHUNK = 256
#: rows that are read twice, to see whether they are the same
_TWICE = 8


@dataclass(frozen=True)
class Source:
    """One data set or loader as it was given.

    Attributes:
        data: a data set with ``__getitem__`` and a length, or an iterable of items, or of batches.
        form: how items are taken apart.
        own: its only task, where there is a data set a task.
        part: "train", "validation" or "test"; None where rows are split later.
        collate: of the user's, which makes batches of items; None stacks inputs.
        workers: processes that read.
        start, context: of a loader's workers.
        batches: whether an iterable gives batches.
    """

    data: Any
    form: ItemForm
    own: str | None = None
    part: str | None = None
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0
    start: Callable[[int], None] | None = None
    context: Any = None
    batches: bool = False

    @property
    def by_number(self) -> bool:
        """Whether items can be asked for by number.

        Raises:
            WorkloadError: when they can, but nobody knows how many there are.
        """
        data = self.data
        if self.batches or is_stream(data):
            if not hasattr(data, "__iter__"):
                raise WorkloadError(
                    f"{self.form.where} should be a data set with `__getitem__` and `__len__`, or an iterable of "
                    f"items. Found {type(data).__name__}."
                )
            return False
        try:
            len(data)
        except (TypeError, NotImplementedError) as error:
            raise WorkloadError(
                f"{self.form.where} has no length: {type(data).__name__} has `__getitem__` and no `__len__`. Rows are "
                "drawn by number, so their number has to be known. Give the class a `__len__`, or `__iter__` in place "
                "of `__getitem__`, for a stream."
            ) from error
        return True

    def taken_apart(self, items: list[Any]) -> tuple[Inputs, Any, bool]:
        """Inputs and labels of items, and whether the labels are a batch of the collate's."""
        if self.collate is None:
            inputs, labels = zip(*map(self.form.split, items), strict=True)
            return self.form.stacked(inputs), list(labels), False
        inputs, labels = self.form.split(self.collate(items))
        return self.form.checked(inputs, len(items)), labels, True


def is_stream(data: Any) -> bool:
    """Whether items can only be read one after the other."""
    return isinstance(data, IterableDataset) or not hasattr(data, "__getitem__")


def read_source(source: Source, labels: LabelReader, first: int, seed: int) -> LazyInputs:
    """The inputs of a source, whose labels are put to those that were read, from row `first` on.

    Raises:
        WorkloadError: when there are no rows, or they cannot be used.

    Warns:
        DataWarning: when the same seeds do not give the same rows.
    """
    if source.by_number:
        return _by_number(source, labels, first, seed)
    return _stream(source, labels, first, seed)


def _by_number(source: Source, labels: LabelReader, first: int, seed: int) -> ItemInputs:
    rows = len(source.data)
    if rows == 0:
        raise WorkloadError(f"{source.form.where} is empty. The likely cause is a filter that drops everything.")
    reader = ItemReader(SeededItems(source.data, source.form.where), source.workers, source.start, source.context)
    inputs = ItemInputs(reader, rows, _InputsOf(source), seed)
    digest = hashlib.sha256()
    wanted = torch.arange(rows) if source.form.labelled else torch.linspace(0, rows - 1, min(rows, _CHUNK)).long()
    for chunk in wanted.split(_CHUNK):
        found, own, collated = _read(source, inputs, chunk)
        if int(chunk[0]) == 0:
            inputs.example = each_part(found, lambda part: part[:1].clone())
        source.form.check_finite(found, int(chunk[0]))
        if not source.form.labelled:
            continue
        update_digest(digest, found)
        if collated:
            labels.add_batch(first + int(chunk[0]), own, len(chunk), source.own)
        else:
            labels.add(first + int(chunk[0]), own, source.own)
    inputs._digest = digest.hexdigest() if source.form.labelled else None
    _check_again(source, inputs)
    return inputs


@dataclass(frozen=True)
class _InputsOf:
    """Items -> their inputs; unlike a lambda it can be sent to other processes."""

    source: Source

    def __call__(self, items: list[Any]) -> Inputs:
        return self.source.taken_apart(items)[0]


def _read(source: Source, inputs: ItemInputs, chunk: Tensor) -> tuple[Inputs, Any, bool]:
    """Inputs and labels of some rows; notes whether reading them drew random numbers."""
    numbers: list[int] = chunk.tolist()
    items, drew = inputs.reader(inputs.requests(numbers, seeded=True))
    if source.collate is not None and not (inputs.random or drew):
        with untouched():
            drew = _draws(lambda: source.taken_apart(items))
    inputs.random = inputs.random or drew
    if not inputs.random:
        return source.taken_apart(items)
    with untouched():
        inputs.seed_collate(numbers)
        return source.taken_apart(items)


def _draws(call: Callable[[], object]) -> bool:
    before = states()
    call()
    return not same_states(before, states())


def _check_again(source: Source, inputs: ItemInputs) -> None:
    """Read a few rows again: they, and their labels in any step, have to be the same."""
    few = torch.arange(min(inputs.rows, _TWICE))
    (once, _, _), (again, _, _) = _read(source, inputs, few), _read(source, inputs, few)
    if not _equal(once, again):
        inputs.random = True
        _warn_unseeded(source)
    if inputs.random and source.form.labelled:
        drawn: list[Any] = []
        for step in (0, 1):
            found = LabelReader(source.form.where, source.form.tasks or None)
            with training_step(0, step):
                _, own, collated = _read(source, inputs, few)
            (found.add_batch(0, own, len(few), source.own) if collated else found.add(0, own, source.own))
            drawn.append([values.tolist() for values in found.triples()])
        if drawn[0] != drawn[1]:
            raise WorkloadError(
                f"{source.form.where}: the labels of a row change from one reading to the next. The likely cause is a "
                "collate that mixes rows (mixup, cutmix). Labels are read once; mix inside of the model's forward "
                "instead, or leave it out."
            )


def _warn_unseeded(source: Source) -> None:
    warn(
        f"{source.form.where} cannot be seeded: the same row, read twice under the same random numbers of "
        "Python, NumPy and torch, was not the same. The likely cause is a generator of its own "
        "(numpy.random.default_rng()) or the time. Results will not repeat exactly, and stored runs are not found "
        "again. Draw from torch's random numbers.",
        DataWarning,
    )


def _equal(a: Inputs, b: Inputs) -> bool:
    mine, other = named_parts(a), named_parts(b)
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def _stream(source: Source, labels: LabelReader, first: int, seed: int) -> LazyInputs:
    writer = StreamWriter(source.form.where)
    head: Inputs | None = None
    with untouched():
        seed_all(seed)
        for inputs, own, size, collated in _batches(source):
            source.form.check_finite(inputs, writer.rows)
            if source.form.labelled and collated:
                labels.add_batch(first + writer.rows, own, size, source.own)
            elif source.form.labelled:
                labels.add(first + writer.rows, own, source.own)
            head = inputs if head is None else head
            writer.add(inputs)
        found = writer.finish()
        seed_all(seed)
        # what can be read once only, such as a generator, is at its end now
        again = next(_batches(source), None) if iter(source.data) is not source.data else None
    if again is not None and head is not None and not _equal(head, again[0]):
        _warn_unseeded(source)
    return found


def _batches(source: Source) -> Iterator[tuple[Inputs, Any, int, bool]]:
    """Inputs, labels, number of rows, and whether the labels are those of a batch, again and again."""
    rows: Iterable[Any] = source.data
    if source.batches:
        for batch in rows:
            inputs, labels = source.form.split(batch)
            size = len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)
            yield source.form.checked(inputs, size), labels, size, True
        return
    for items in _chunks(rows):
        inputs, labels, collated = source.taken_apart(items)
        yield inputs, labels, len(items), collated


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk


def read_sources(
    sources: Sequence[Source], labels: LabelReader, seed: int
) -> tuple[list[LazyInputs], dict[str | None, list[tuple[int, int]]]]:
    """Inputs of all sources, and which rows (from, to) belong to which part."""
    found: list[LazyInputs] = []
    places: dict[str | None, list[tuple[int, int]]] = {}
    row = 0
    for number, source in enumerate(sources):
        found.append(read_source(source, labels, row, seed + number))
        places.setdefault(source.part, []).append((row, row + found[-1].rows))
        row += found[-1].rows
    return found, places
