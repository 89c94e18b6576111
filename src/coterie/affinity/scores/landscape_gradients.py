"""Gradients of single examples at the start: which rows, and block by block so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from coterie._progress import Progress
from coterie.affinity.scores.landscape_linear import LinearTrunk
from coterie.errors import ResourceError, WorkloadError
from coterie.features.plan import measure_pass
from coterie.features.probe import choose_backend, warn_fallback
from coterie.features.program import MarginProgram
from coterie.features.reverse import gradients
from coterie.features.storage import Pairs, labelled_pairs
from coterie.workload import Workload

#: rows of different tasks are compared within blocks of this many
BLOCK = 8
#: pairs of row and task that are differentiated together, each on its own and by linear layers
_PAIRS, _LINEAR_PAIRS = 64, 1024

#: gradients (c, T, p); mask (c, T); gradients for comparisons at the same position (c, T, w)
Block = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Coreset:
    """The training rows that gradients are taken on.

    Attributes:
        rows: (M, T) row number of each position and task.
        seen: (M, T) bool, whether the task has a label there.
        paired: all tasks have the same row at a position, and are compared row by row; otherwise each task has rows of
            its own, which are compared with all other rows of a block.
    """

    rows: Tensor
    seen: Tensor
    paired: bool


def choose_rows(workload: Workload, samples: int, min_common: int, seed: int) -> Coreset:
    """A random coreset of training rows.

    The rows are the same for all tasks if every pair of tasks has at least `min_common` labels in common among them.
    Otherwise every task gets rows of its own, the first that it has labels on in one random order; a task with fewer
    labels repeats its rows. Tasks with the same pattern of labels get the same rows.

    Raises:
        WorkloadError: when a task has no label in the training part.

    Example:
        >>> from coterie import datasets
        >>> choose_rows(datasets.load("digits"), 256, 16, 0).paired
        True
    """
    device = workload.labels.device
    train = workload.rows_of(range(workload.n_tasks), "train").to(device)
    order = train[torch.from_numpy(np.random.default_rng(seed).permutation(len(train))).to(device)]
    seen = workload.observed[order[:samples]]
    common = seen.double().T @ seen.double()
    if float(common.min()) >= min_common:
        rows = order[:samples, None].expand(-1, workload.n_tasks)
        return Coreset(rows, seen, True)
    _check_labels(workload, train)
    own = [order[workload.observed[order, task]] for task in range(workload.n_tasks)]
    count = max(min(samples, max(len(rows) for rows in own)), BLOCK)
    count = -(-count // BLOCK) * BLOCK
    position = torch.arange(count, device=device)
    rows = torch.stack([rows[position % len(rows)] for rows in own], 1)
    return Coreset(rows, torch.ones_like(rows, dtype=torch.bool), False)


def _check_labels(workload: Workload, train: Tensor) -> None:
    empty = (~workload.observed[train].any(0)).nonzero().flatten().tolist()
    if empty:
        raise WorkloadError(
            f"No label in the training part for the tasks {[workload.task_names[task] for task in empty[:5]]}. "
            "Leave these tasks out, or split the data so that each task has labels in every part."
        )


@dataclass(eq=False)
class SampleGradients:
    """Gradients of each task's loss at each example of a coreset, with respect to the trunk.

    Args:
        workload: tasks and data.
        model: at the start, in evaluation mode.
        trunk: names of the shared parameters.
        coreset: rows.
        coordinates: sorted numbers of the trunk's entries to keep; None keeps all.
        memory: bytes for everything that is held at a time.
        progress: called as ``progress(stage, done, total)``.

    Raises:
        ResourceError: when the gradients of one block do not fit.

    Cost: a forward and a backward pass for each labelled (row, task) pair; twice where the gradients do not fit the
        memory together, since they are needed twice.
    """

    workload: Workload
    model: nn.Module
    trunk: tuple[str, ...]
    coreset: Coreset
    coordinates: Tensor | None
    memory: int
    progress: Progress
    #: (row, task) pairs differentiated so far
    passes: int = 0
    _kept: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        coreset, self._program = self.coreset, MarginProgram(self.workload, self.model, self.trunk)
        sizes = [value.numel() for value in self._program.parameters.values()]
        layer = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        if self.coordinates is not None:
            layer = layer[self.coordinates.cpu()]
        #: how many of the kept entries each tensor of the trunk has
        self.layers: list[int] = torch.bincount(layer, minlength=len(sizes)).tolist()
        row = self.workload.n_tasks * sum(self.layers) * self._program.dtype.itemsize
        count, step = len(coreset.rows), 1 if coreset.paired else BLOCK
        rest = self.memory // 2 - 4 * row  # means in double precision, and what is scaled
        if rest < 3 * step * row:
            raise ResourceError(
                f"Gradients of {self.workload.n_tasks} tasks with {sum(self.layers)} shared numbers at {step} examples "
                f"need about {2 * (3 * step + 4) * row / 2**30:.2f} GiB, more than `memory` allows "
                f"({self.memory / 2**30:.2f} GiB). Give more `memory`, or compare a random part of the numbers: "
                "`coordinates`=10000, for example."
            )
        self._keep = 2 * count * row <= self.memory
        self._step = max(step, min(32, rest // (3 * row)) // step * step)
        every = labelled_pairs(self.workload, "train", coreset.rows.unique())
        self._batched = self._choose(every)
        need = 3 * measure_pass(self.workload, self.model, every.rows).total
        need += 2 * sum(sizes) * self._program.dtype.itemsize
        self._together = int(max(1, min(_PAIRS, self.memory // 4 // max(1, need))))
        self._slopes, self._position = self._first(every.rows)
        self._linear = self._find_linear(self._together)
        if self._linear is not None:
            self._together = int(max(1, min(_LINEAR_PAIRS, self.memory // 4 // max(1, need))))
        short = self._linear is not None and self.coordinates is None
        #: the same for the gradients that are compared at the same position
        self.narrow_layers: list[int] = self._linear.widths if self._linear and short else self.layers

    def _find_linear(self, limit: int) -> LinearTrunk | None:
        rows = self.coreset.rows[self.coreset.seen[:, 0], 0][: min(2, limit)]

        def expected() -> Tensor:
            return self._one_by_one(rows, torch.zeros_like(rows))

        return LinearTrunk.find(self.workload, self.model, self.trunk, rows, expected)

    def _choose(self, pairs: Pairs) -> bool:
        backend, problem = choose_backend(self._program, [], pairs, "reverse")
        if problem is not None:
            warn_fallback("reverse", backend, problem)
        return backend.batched

    @torch.no_grad()
    def _first(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative of each loss with respect to its margin on each row, and where a row number is in it."""
        parts = []
        for part in rows.split(256):
            batch, targets = self._program.data(part)
            margins = self._program.margins(self._program.parameters, batch, targets)
            parts.append(self.workload.first(margins, targets))
        position = torch.zeros(len(self.workload.labels), dtype=torch.int64, device=rows.device)
        position[rows] = torch.arange(len(rows), device=rows.device)
        return torch.cat(parts), position

    def blocks(self) -> Iterator[Block]:
        """Gradients, zero where there is no label, block by block.

        Yields:
            gradients (c, T, p); the mask (c, T); and gradients (c, T, w) whose L1 norms and distances between tasks at
            the same position are the same, often with far fewer numbers (else the very same tensor).
        """
        if self._kept:
            yield from self._kept
            return
        kept: list[Block] = []
        count = len(self.coreset.rows)
        for start in range(0, count, self._step):
            stop = min(start + self._step, count)
            block = self._block(self.coreset.rows[start:stop], self.coreset.seen[start:stop])
            kept += [block] if self._keep else []
            self.progress("gradients of examples", stop, count)
            yield block
        self._kept = kept

    def _block(self, rows: Tensor, seen: Tensor) -> Block:
        where, task = seen.nonzero(as_tuple=True)
        found = torch.zeros(*seen.shape, sum(self.layers), dtype=self._program.dtype, device=seen.device)
        short = self.narrow_layers is not self.layers
        narrow = found.new_zeros(*seen.shape, sum(self.narrow_layers)) if short else found
        for part in torch.arange(len(task), device=seen.device).split(self._together):
            chosen = rows[where[part], task[part]]
            both = self._linear.gradients(chosen, task[part]) if self._linear else None
            flat = self._one_by_one(chosen, task[part]) if both is None else both[0].to(found.dtype)
            found[where[part], task[part]] = flat if self.coordinates is None else flat[:, self.coordinates]
            if short and both is not None:
                narrow[where[part], task[part]] = both[1].to(found.dtype)
        self.passes += len(task)
        return found, seen, narrow

    def _one_by_one(self, rows: Tensor, tasks: Tensor) -> Tensor:
        """(n, p) gradients of the losses of n pairs, each by itself."""
        margins = gradients(self._program, rows, tasks, batched=self._batched)
        flat = torch.cat([margins[name].reshape(len(rows), -1) for name in self._program.parameters], 1)
        return flat * self._slopes[self._position[rows], tasks][:, None]
