"""How much memory a member of a population takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coterie._random import random_numbers
from coterie.training.evaluate import row_losses
from coterie.workload.workload import Workload

# parameters, gradients, two moments, the best checkpoint and one copy while members are selected
_COPIES = 6
# on a CPU, stacks that outgrow the caches are slower than several smaller ones
_CACHE_BYTES = 24 * 2**20
# parameters of the members of a chunk on a CPU; smaller chunks would be slower, larger ones leave processes idle
_CHUNK_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Footprint:
    """Bytes that one member needs.

    Attributes:
        parameters: bytes of its parameters and buffers.
        row: bytes that a forward and a backward pass keep for one row.
        batch: rows of a batch.
        cpu: whether members live on the CPU.
    """

    parameters: int
    row: int
    batch: int
    cpu: bool

    @property
    def member(self) -> int:
        """Bytes of one member in training."""
        return _COPIES * self.parameters + self.batch * self.row

    def members(self, memory: int) -> int:
        """How many members to train at once within a number of bytes; 0 when not even one fits."""
        fit = memory // self.member
        if self.cpu:
            fit = min(fit, max(16, _CACHE_BYTES // (4 * self.parameters)))
        return int(fit)

    @property
    def enough(self) -> int:
        """Members that fill a processor: more of them at once are hardly faster, and fewer chunks are left to share."""
        return max(16, _CHUNK_BYTES // self.parameters) if self.cpu else 10**9

    def cells(self, memory: int) -> int:
        """How many (member, row) pairs to evaluate at once."""
        cells = max(64, memory // 4 // self.row)
        return min(cells, 16384) if self.cpu else cells


def measure_footprint(workload: Workload) -> Footprint:
    """Count the bytes that autograd keeps for a few rows."""
    device = workload.labels.device
    with random_numbers(device):
        model = workload.build_model(0).to(device)
        own = [*model.parameters(), *model.buffers()]
        known = {value.untyped_storage().data_ptr() for value in own}
        kept: list[int] = []

        def count(value: Tensor) -> None:
            # nothing is handed back: a graph that holds its own results this way is never freed
            if value.untyped_storage().data_ptr() not in known:
                kept.append(value.numel() * value.element_size())

        totals: list[int] = []
        train = workload.split.train
        for size in (4, 8):
            kept.clear()
            rows = train[torch.arange(size, device=train.device) % len(train)]
            with torch.autograd.graph.saved_tensors_hooks(count, _not_kept):
                row_losses(workload, model, rows)[0].sum()
            totals.append(sum(kept))
    inputs = workload.inputs.values() if isinstance(workload.inputs, dict) else [workload.inputs]
    input_bytes = sum(value[0].numel() * value.element_size() for value in inputs)
    # gradients of the activations pass by as well, hence twice what autograd keeps
    row = 2 * max(0, totals[1] - totals[0]) // 4 + 2 * input_bytes + 16 * workload.labels.shape[1]
    parameters = sum(value.numel() * value.element_size() for value in own)
    return Footprint(max(1, parameters), row, workload.recipe.batch_size, device.type == "cpu")


def _not_kept(packed: None) -> Tensor:
    raise AssertionError("The graph was only measured; there is no way back through it.")
