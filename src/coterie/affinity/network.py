"""Values by the real network at the fitted parameters, as published."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.affinity.context import Prepared
from coterie.affinity.newton import Solution
from coterie.features.directions import Directions
from coterie.features.heads import head_displacement
from coterie.training.evaluate import evaluate

#: displacements that are made at a time
_TOGETHER = 256


@dataclass(frozen=True, eq=False)
class NetworkValues:
    """Moves each base to ``theta* + P u`` (heads included, or as they are without `heads`) and evaluates the network.

    Cost: one forward pass over the validation part for each subset and base.
    """

    prepared: Prepared
    states: tuple[Mapping[str, Tensor], ...]
    directions: tuple[Directions, ...]
    heads: bool = True

    known: dict[tuple[int, bytes], NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def values(self, number: int, solution: Solution, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(m, T) validation losses of base `number`, NaN outside the subset."""
        new = [row for row, subset in enumerate(subsets) if (number, subset.tobytes()) not in self.known]
        # random directions are drawn again for every call, so many displacements are made of one draw
        size = max(1, min(_TOGETHER, self.prepared.context.memory // (16 * self.directions[number].size)))
        for first in range(0, len(new), size):
            self._evaluate(number, solution, subsets, new[first : first + size])
        return np.stack([self.known[number, subset.tobytes()] for subset in subsets])

    @torch.no_grad()
    def _evaluate(self, number: int, solution: Solution, subsets: NDArray[np.bool_], rows: list[int]) -> None:
        """Evaluate the network of some of the subsets."""
        start, workload = time.perf_counter(), self.prepared.workload
        model = workload.build_model(self.prepared.context.seed).to(workload.labels.device)
        # parameters are moved in the module, where tied ones are one tensor
        named = dict(model.named_parameters())
        fixed = () if self.heads else self.prepared.structure.head_names
        along = self.directions[number]
        trunks = along.displacement(solution.trunk[rows, : along.count].float())  # what follows is an intercept
        for place, row in enumerate(rows):
            members = tuple(np.flatnonzero(subsets[row]).tolist())
            model.load_state_dict(dict(self.states[number]))
            for name, moves in trunks.items():
                if name not in fixed:
                    named[name].add_(moves[place].to(named[name]))
            for task in members if self.heads else ():
                owners, moves = solution.head(task)
                own = moves[int(torch.searchsorted(owners, row))]
                if own.numel():
                    self._move_head(named, task, own)
            self.known[number, subsets[row].tobytes()] = evaluate(workload, model, "validation", members)
        costs = self.prepared.costs
        passes = len(rows) * len(workload.split.validation)
        costs.add("network evaluation", passes * costs.unit.forward, time.perf_counter() - start)

    def _move_head(self, named: Mapping[str, Tensor], task: int, w: Tensor) -> None:
        for name, (rows, move) in head_displacement(self.prepared.structure, task, w.float(), None).items():
            if rows is None:
                named[name].add_(move.to(named[name]))
            else:
                named[name][list(rows)] += move.to(named[name])
