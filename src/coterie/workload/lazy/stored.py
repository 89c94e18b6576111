"""Rows of a stream, written to disk as they come, from where any of them can be read again."""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coterie.errors import WorkloadError
from coterie.workload.lazy.inputs import Inputs, LazyInputs, each_part, named_parts, update_digest


class StoredInputs(LazyInputs):
    """The inputs of a stream, in files that are removed with the last reference to them.

    Args:
        folder: with one file a part, rows one after the other.
        files: name of a part -> name of its file.
        example: the first row.
        rows: how many there are.
        digest: of their values.
    """

    random = False

    def __init__(
        self,
        folder: tempfile.TemporaryDirectory[str],
        files: Mapping[str, str],
        example: Inputs,
        rows: int,
        digest: str,
    ) -> None:
        self.example, self.rows, self._digest = example, rows, digest
        self.files = {name: Path(folder.name) / file for name, file in files.items()}
        self._finalizer = weakref.finalize(self, folder.cleanup)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_finalizer"}

    def read(self, rows: Tensor) -> Inputs:
        """Inputs of ascending row numbers."""
        parts = named_parts(self.example)
        found = {name: self._part(name, parts[name], rows) for name in parts}
        return found if isinstance(self.example, dict) else found[""]

    def _part(self, name: str, like: Tensor, rows: Tensor) -> Tensor:
        size = like[0].numel() * like.element_size()
        if not size or not len(rows):
            return torch.empty((len(rows), *like.shape[1:]), dtype=like.dtype)
        # mapped for this batch only: what a mapping has read counts as memory of the process
        bytes_ = np.memmap(self.files[name], np.uint8, "r", shape=(self.rows, size))
        return torch.from_numpy(bytes_[rows.numpy()]).view(like.dtype).view(len(rows), *like.shape[1:])


class StreamWriter:
    """Writes batches of inputs one after the other.

    Args:
        where: how messages call the data.
    """

    def __init__(self, where: str) -> None:
        self.where, self.rows = where, 0
        self._folder = tempfile.TemporaryDirectory(prefix="coterie-rows-")
        self._files: dict[str, Path] = {}
        self._digest = hashlib.sha256()
        self._example: Inputs | None = None

    def add(self, inputs: Inputs) -> None:
        """Write a batch.

        Raises:
            WorkloadError: when its rows are not as those before.
        """
        parts = named_parts(inputs)
        if self._example is None:
            self._example = each_part(inputs, lambda part: part[:1].clone())
            for number, name in enumerate(parts):
                self._files[name] = Path(self._folder.name, f"{number}.bin")
        form = {name: (part.dtype, tuple(part.shape[1:])) for name, part in parts.items()}
        first = {name: (part.dtype, tuple(part.shape[1:])) for name, part in named_parts(self._example).items()}
        if form != first:
            raise WorkloadError(
                f"{self.where}: all inputs of a stream should have the same names, types and sizes. Found {first} at "
                f"first and {form} from row {self.rows} on. The likely cause is texts that are padded to the longest "
                "of their batch, or images of different sizes: pad, crop or resize to one size."
            )
        for name, part in parts.items():
            flat = part.detach().cpu().contiguous().reshape(-1)
            if flat.numel():
                with self._files[name].open("ab") as file:
                    file.write(flat.view(torch.uint8).numpy().data)
        update_digest(self._digest, each_part(inputs, Tensor.cpu))
        self.rows += len(next(iter(parts.values())))

    def finish(self) -> StoredInputs:
        """What was written.

        Raises:
            WorkloadError: when nothing was.
        """
        if self._example is None or not self.rows:
            raise WorkloadError(
                f"{self.where} gives no rows. The likely causes are a filter that drops everything, and a generator "
                "that has been read already, which can be read once: give an iterable that starts anew each time."
            )
        files = {name: file.name for name, file in self._files.items()}
        return StoredInputs(self._folder, files, self._example, self.rows, self._digest.hexdigest())
