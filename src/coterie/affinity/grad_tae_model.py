"""Predictions of Grad-TAE for any subset of tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._files import atomic_write, user_path
from coterie._json import reading, real, text
from coterie._sealed import pack, read_sealed
from coterie.affinity.affinity import check_names
from coterie.affinity.blocks import Statistics, pack_blocks, under, unpack_blocks
from coterie.affinity.costs import Prepared
from coterie.affinity.gain_model import NamedGainModel, SubsetsLike, as_subsets
from coterie.affinity.linear import LinearBase, mixed, path_values, place_of
from coterie.affinity.newton import Solution
from coterie.errors import SettingError
from coterie.features.directions import Directions
from coterie.features.heads import head_displacement
from coterie.training.evaluate import evaluate
from coterie.workload import get_loss

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


#: losses below this count as zero when gains are formed
TINY = 1e-12


@final
class GradTAEModel(NamedGainModel):
    """Predicted values and gains from linearised base models.

    The predicted value of a task is the mean over the bases; the gain is its relative reduction against the predicted
    value of the task alone. Estimated differences are larger than real ones (docs/decisions.md): use them to
    rank.

    Args:
        tasks: names.
        bases: linearised bases.
        ridge: strength of the ridge.
        converged: fit to the optimum instead of one Newton step.
        network: evaluates with the real network when given.
        method: name for tables.
        kinds: kind of loss of each task, needed to save the model.
        path: strengths among which each subset chooses, see :mod:`coterie.affinity.linear`; none for `ridge` alone.
    """

    def __init__(
        self,
        tasks: tuple[str, ...],
        bases: Sequence[LinearBase],
        ridge: float,
        converged: bool = False,
        network: NetworkValues | None = None,
        method: str = "grad-tae",
        kinds: tuple[str, ...] = (),
        path: Sequence[float] = (),
    ) -> None:
        super().__init__(tasks, method)
        self.bases = tuple(bases)
        self.ridge = ridge
        self.converged = converged
        self.network = network
        self.kinds = kinds
        #: bytes that the solver may use at a time
        self.memory = 2**30
        self.path = tuple(path)
        self._alone: NDArray[np.float64] | None = None

    def save(self, path: str | Path) -> Path:
        """Write the model to one safetensors file, see :func:`coterie.affinity.grad_tae_model.save_model`."""
        return save_model(self, path)

    @staticmethod
    def load(path: str | Path) -> GradTAEModel:
        """The inverse of :meth:`save`."""
        return load_model(path)

    def values_by_base(self, subsets: SubsetsLike) -> NDArray[np.float64]:
        """(bases, m, T) predicted validation losses, NaN outside the subset; lower is better."""
        asked = as_subsets(subsets, self.tasks)
        unique, back = np.unique(asked, axis=0, return_inverse=True)
        rows = [self._values(number, unique) for number in range(len(self.bases))]
        return np.stack(rows)[:, back.reshape(-1)]

    def predict_values(self, subsets: SubsetsLike) -> NDArray[np.float64]:
        """(m, T) predicted validation losses: mean over the bases, NaN outside the subset; lower is better."""
        return self.values_by_base(subsets).mean(0)

    def _predict(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        alone = self._single().mean(0)
        return (alone - self.predict_values(subsets)) / np.maximum(alone, TINY)

    def _standard_error(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        # the spread between bases covers the luck of the base's seed only, not the error that all bases share
        if len(self.bases) < 2:
            return None
        return self._gains_by_base(subsets).std(0, ddof=1) / len(self.bases) ** 0.5

    @property
    def uncertainty(self) -> str:
        """Standard errors are the spread of the bases, where there are several."""
        return "spread of bases" if len(self.bases) > 1 else ""

    def _total_covariance(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        if len(self.bases) < 2:
            return None
        totals = np.where(subsets, self._gains_by_base(subsets), 0.0).sum(2)
        away = totals - totals.mean(0)
        return away.T @ away / (len(self.bases) * (len(self.bases) - 1))

    def _gains_by_base(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(bases, m, T) gains by each base, over the mean value of each task alone."""
        alone = self._single()
        return (alone[:, None] - self.values_by_base(subsets)) / np.maximum(alone.mean(0), TINY)

    def _single(self) -> NDArray[np.float64]:
        """(bases, T) predicted values of each task alone."""
        if self._alone is None:
            n = len(self.tasks)
            self._alone = self.values_by_base(np.eye(n, dtype=bool))[:, np.arange(n), np.arange(n)]
        return self._alone

    def _values(self, number: int, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        base = self.bases[number]
        if self.path:
            place = place_of(self.ridge, self.path)
            along = path_values(base, subsets, self.path, around=place, converged=self.converged, memory=self.memory)
            return mixed(along, self.path, self.ridge)
        if self.network is None:
            return base.values(subsets, self.ridge, converged=self.converged, memory=self.memory)
        solution = base.solve(subsets, self.ridge, converged=self.converged, memory=self.memory)
        return self.network.values(number, solution, subsets)


#: 1 had no checksum
_KIND = "coterie gain model 2"


def save_model(model: GradTAEModel, path: str | Path) -> Path:
    """Write an estimate to one safetensors file: sums over the training examples, validation features, labels.

    Raises:
        SettingError: when values come from the real network, which is not part of the file.
        StoreError: when the file cannot be written.
    """
    if model.network is not None:
        raise SettingError(
            "Parameter `model` asks the real network for its values (evaluation='network'), which cannot be saved. "
            "Estimate with evaluation='linear', or save the affinity."
        )
    tensors: dict[str, Tensor] = {}
    for number, base in enumerate(model.bases):
        tensors.update({f"{number}/statistics/{k}": v for k, v in base.statistics.to_tensors().items()})
        for part in ("train", "validation") if model.converged else ("validation",):
            tensors.update({f"{number}/{part}/{k}": v for k, v in pack_blocks(getattr(base, part)).items()})
    facts = {
        "tasks": list(model.tasks),
        "kinds": list(model.kinds),
        "ridge": model.ridge,
        "path": list(model.path),
        "converged": model.converged,
        "method": model.method,
        "stretch": [base.stretch for base in model.bases],
        "raw": [base.raw for base in model.bases],
    }
    atomic_write(path, pack(_KIND, facts, tensors))
    return user_path(path)


def load_model(path: str | Path) -> GradTAEModel:
    """The inverse of :func:`save_model`.

    Raises:
        StoreError: when the file cannot be read, is damaged or is something else.
    """
    facts, tensors = read_sealed(_KIND, path)
    with reading(path, "a gain model"):
        kinds, tasks = ([text(entry) for entry in facts[key]] for key in ("kinds", "tasks"))
        check_names(tasks)  # a model is asked by name
        losses = [get_loss(kind) for kind in kinds]
        raws = facts.get("raw", [False] * len(facts["stretch"]))  # older files do not say
        bases = [
            LinearBase(
                Statistics.from_tensors(under(tensors, f"{number}/statistics/")),
                unpack_blocks(losses, under(tensors, f"{number}/train/")),
                unpack_blocks(losses, under(tensors, f"{number}/validation/")),
                real(stretch),
                bool(raw),
            )
            for number, (stretch, raw) in enumerate(zip(facts["stretch"], raws, strict=True))
        ]
        model = GradTAEModel(
            tuple(tasks),
            bases,
            real(facts["ridge"]),
            bool(facts["converged"]),
            None,
            text(facts["method"]),
            tuple(kinds),
            path=tuple(real(strength) for strength in facts["path"]),
        )
        model.predict([range(len(tasks))])  # sizes that do not fit are found now, rather than when the model is asked
    return model
