"""Values by the real network at the fitted parameters, as published."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.affinity.context import Context
from coterie.affinity.newton import Solution
from coterie.features import Directions, head_displacement
from coterie.training import evaluate


@dataclass(frozen=True, eq=False)
class NetworkValues:
    """Moves each base to ``theta* + P u`` (heads included) and evaluates the network there.

    Cost: one forward pass over the validation part for each subset and base.
    """

    context: Context
    states: tuple[Mapping[str, Tensor], ...]
    directions: tuple[Directions, ...]

    known: dict[tuple[int, bytes], NDArray[np.float64]] = field(default_factory=dict, repr=False)

    @torch.no_grad()
    def values(self, number: int, solution: Solution, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(m, T) validation losses of base `number`, NaN outside the subset."""
        start, workload = time.perf_counter(), self.context.workload
        model = workload.build_model(self.context.seed).to(workload.labels.device)
        heads = {task: solution.head(task) for task in range(workload.n_tasks)}
        passes = 0
        for row, subset in enumerate(subsets):
            key = (number, subset.tobytes())
            if key in self.known:
                continue
            members = tuple(np.flatnonzero(subset).tolist())
            model.load_state_dict(dict(self.states[number]))
            # parameters are moved in the module, where tied ones are one tensor
            named = dict(model.named_parameters())
            for name, move in self.directions[number].displacement(solution.trunk[row].float()).items():
                named[name].add_(move.to(named[name]))
            for task in members:
                owners, moves = heads[task]
                own = moves[int(torch.nonzero(owners == row)[0])]
                if own.numel():
                    self._move_head(named, task, own)
            self.known[key] = evaluate(workload, model, "validation", members)
            passes += len(workload.split.validation)
        costs = self.context.costs
        costs.add("network evaluation", passes * costs.unit.forward, time.perf_counter() - start)
        return np.stack([self.known[number, subset.tobytes()] for subset in subsets])

    def _move_head(self, named: Mapping[str, Tensor], task: int, w: Tensor) -> None:
        for name, (rows, move) in head_displacement(self.context.structure, task, w.float(), None).items():
            if rows is None:
                named[name].add_(move.to(named[name]))
            else:
                named[name][list(rows)] += move.to(named[name])
