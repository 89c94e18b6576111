"""What the scores from single-task models have in common: the trainings, the rows, the representations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._check import whole_number
from coterie._context import DEFAULT_CONTEXT, Context
from coterie._units import Payload
from coterie.affinity.affinity import Affinity
from coterie.affinity.costs import Costs, Prepared, prepare, timed
from coterie.affinity.estimator import Estimate, Estimator
from coterie.affinity.gain_model import PairwiseGainModel
from coterie.affinity.linearize import train
from coterie.errors import ModelError, WorkloadError
from coterie.training.job import Fit, Job, derive
from coterie.workload import Workload
from coterie.workload.lazy.inputs import in_memory
from coterie.workload.structure import Structure

#: rows that go through a model at a time
CHUNK = 1024


def single_task_fits(prepared: Prepared) -> list[Fit]:
    """One ordinary training a task, all from the context's seed.

    All scores from single-task models ask for the same unit, so that a run trains these models once.

    Cost: `tasks` trainings.
    """
    jobs = [Job((task,), prepared.context.seed) for task in prepared.everything]
    return train(prepared, jobs, stage="single-task models", name="single-tasks")


def models_of(prepared: Prepared, fits: Sequence[Fit]) -> Generator[nn.Module]:
    """The trained models one after the other, in evaluation mode; one module is used for all."""
    model = prepared.workload.build_model(prepared.context.seed).to(prepared.workload.labels.device).eval()
    for fit in fits:
        model.load_state_dict(dict(fit.state), strict=False)
        yield model


def sample_rows(workload: Workload, count: int, seed: int) -> Tensor:
    """At most `count` rows of the validation part with a label of any task, drawn at random, in ascending order.

    All models look at the same rows. Where each task has rows of its own they are drawn from those of all tasks.
    """
    rows = workload.rows_of(range(workload.n_tasks), "validation")
    chosen = np.random.default_rng(derive(seed, 61)).permutation(len(rows))[:count]
    return rows[torch.from_numpy(np.sort(chosen)).to(rows.device)]


def encoder(structure: Structure, task: int, name: str) -> str:
    """The module whose input is the last representation that a task shares with others: its head.

    Raises:
        ModelError: when the head is no module.
    """
    head = structure.heads[task]
    if head.module is not None:
        return head.module
    owners = [parameter.split(".")[:-1] for parameter, _ in head.parameters]
    common: list[str] = []
    for parts in zip(*owners, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    if not common:
        raise _no_module(name)
    return ".".join(common)


def representations(prepared: Prepared, fits: Sequence[Fit], rows: Tensor) -> Generator[Tensor]:
    """For each trained model the input (rows, width) of its own task's head: what its encoder makes of the rows.

    Representations with more dimensions are flattened; float64.

    Raises:
        ModelError: when a head is no module, or is not called once a pass.

    Cost: one forward pass over the rows a model.
    """
    for fit, model in zip(fits, models_of(prepared, fits), strict=True):
        task = fit.job.subset[0]
        name = prepared.workload.task_names[task]
        yield _encode(prepared.workload, model, encoder(prepared.structure, task, name), rows, name)


@torch.no_grad()
def _encode(workload: Workload, model: nn.Module, path: str, rows: Tensor, name: str) -> Tensor:
    seen: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple[object, ...]) -> None:
        del module
        if inputs and isinstance(inputs[0], Tensor):
            # a copy, as the head may write into it
            seen.append(inputs[0].detach().flatten(1).to(torch.float64, copy=True))

    hook = model.get_submodule(path).register_forward_pre_hook(record)
    chunks = rows.split(CHUNK)
    try:
        for chunk in chunks:
            workload.outputs(model, workload.batch(chunk))
    finally:
        hook.remove()
    if len(seen) != len(chunks) or sum(map(len, seen)) != len(rows):
        raise _no_module(name)
    return torch.cat(seen)


def _no_module(name: str) -> ModelError:
    return ModelError(
        f"The representation that task {name!r} reads cannot be found: its head is no module that is called once a "
        "pass with one row an example. Make the head an nn.Module of its own (an nn.Linear, for instance), or choose "
        "a score that needs no representations."
    )


def floating_inputs(workload: Workload, purpose: str) -> dict[str, Tensor]:
    """The floating-point inputs by name; a single tensor has the name "".

    Raises:
        WorkloadError: when there is none, as with token numbers.
    """
    inputs = in_memory(workload.inputs, purpose)
    named: Mapping[str, Tensor] = {"": inputs} if isinstance(inputs, Tensor) else inputs
    found = {name: value for name, value in named.items() if value.is_floating_point()}
    if not found:
        kinds = sorted({str(value.dtype).removeprefix("torch.") for value in named.values()})
        raise WorkloadError(
            f"{purpose} needs inputs that are floating-point numbers. Found only {', '.join(kinds)}: numbers of "
            "tokens or categories are the likely cause. Choose another score, such as rsa, or give embeddings as "
            "inputs."
        )
    return found


def as_estimate(
    workload: Workload,
    costs: Costs,
    values: NDArray[np.float64],
    method: str,
    notes: Sequence[str] = (),
    facts: Mapping[str, float] | None = None,
    cluster: Callable[[int], NDArray[np.int64]] | None = None,
) -> Estimate:
    """An estimate from scores (T, T): rows are targets, larger is better. The diagonal is set to 0."""
    values = values.copy()
    np.fill_diagonal(values, 0.0)
    affinity = Affinity(values, workload.task_names, kind="raw", method=method)
    return Estimate(PairwiseGainModel(affinity), costs, notes=tuple(notes), facts=dict(facts or {}), cluster=cluster)


@dataclass(frozen=True)
class SingleTaskScore(Estimator):
    """A symmetric score that compares what single-task models make of the same rows; a subclass says what.

    Args:
        rows: number of validation rows, the same for all tasks. Where every task has rows of its own they are drawn
            from those of all tasks.

    Raises:
        SettingError: when `rows` is below `least`.
    """

    rows: int = 500

    #: name of the method
    measured: ClassVar[str]
    #: of the work, for progress and costs
    stage: ClassVar[str]
    #: fewest rows that the score can be computed from
    least: ClassVar[int] = 1

    def __post_init__(self) -> None:
        whole_number(self.rows, "rows", low=self.least)

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.measured

    def estimate(self, workload: Workload, context: Context = DEFAULT_CONTEXT, subset_size: int = 2) -> Estimate:
        """Train the single-task models and compare them.

        Raises:
            WorkloadError, ModelError, ResourceError: when the models cannot be compared, see the class.
        """
        del subset_size
        prepared = prepare(workload, context)
        rows = sample_rows(workload, self.rows, context.seed)
        self._check(workload, len(rows), context.memory)
        fits = single_task_fits(prepared)
        payload = timed(
            prepared.context.store,
            prepared.costs,
            self.stage,
            self.name,
            {"seed": context.seed, "rows": len(rows)},
            lambda: self._compare(prepared, fits, rows),
        )
        prepared.costs.add(self.stage, self._flops(prepared, len(rows), payload))
        notes = [f"{len(rows)} validation rows compared"]
        return as_estimate(workload, prepared.costs, np.asarray(payload.arrays["values"]), self.name, notes)

    @abstractmethod
    def _check(self, workload: Workload, rows: int, memory: int) -> None:
        """Refuse what cannot be compared, before anything is trained."""

    @abstractmethod
    def _compare(self, prepared: Prepared, fits: list[Fit], rows: Tensor) -> Payload:
        """The scores (T, T) as ``values``."""

    @abstractmethod
    def _flops(self, prepared: Prepared, rows: int, payload: Payload) -> float:
        """What comparing takes, beside the trainings."""
