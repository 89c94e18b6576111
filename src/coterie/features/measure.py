"""What one forward pass of a model costs: operations and memory for one row."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from coterie.workload.graph_net import whole_pass
from coterie.workload.workload import Workload

#: rows of the trial pass
_ROWS = 8


class TensorSizes(TorchDispatchMode):
    """Sees every tensor that an operation makes, below vmap and differentiation.

    Attributes:
        largest: bytes of the largest.
        sizes: the different sizes.
        total: bytes of all together.
        peak: most bytes that were alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.sizes: set[int] = set()
        self.total = 0
        self.peak = 0
        self._alive: dict[int, int] = {}
        self._now = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            # views (transposed weights, slices of the inputs) are no new memory
            if isinstance(value, Tensor) and not func.is_view:
                self._see(value)
        return result

    def _see(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        self.largest = max(self.largest, size)
        self.sizes.add(size)
        self.total += size
        self._alive[key] = size
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._alive.pop(key, 0)


@dataclass(frozen=True)
class PassCost:
    """Cost of one forward pass for one row.

    Attributes:
        flops: multiplications and additions.
        largest: bytes of the largest tensor that an operation makes.
        total: bytes of all tensors that operations make.
    """

    flops: float
    largest: int
    total: int


def measure_pass(workload: Workload, model: nn.Module, rows: Tensor) -> PassCost:
    """Run a few rows and count; all rows where a pass costs the same for any."""
    chosen = rows if whole_pass(model) else rows[:_ROWS]
    batch = workload.batch(chosen)
    counter, sizes = FlopCounterMode(display=False), TensorSizes()
    with torch.no_grad(), counter, sizes:
        workload.outputs(model, batch)
    n = len(chosen)
    return PassCost(counter.get_total_flops() / n, -(-sizes.largest // n), -(-sizes.total // n))
