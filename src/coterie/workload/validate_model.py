"""Checks of the model: it can be built, it can be built again, and it answers as the tasks need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from coterie._random import random_numbers
from coterie._surface import warn
from coterie.errors import DataWarning, ModelError, NonDeterministicModelError, WorkloadError
from coterie.workload.arrays import Inputs
from coterie.workload.builders import refuse_meta
from coterie.workload.initial import check_kept
from coterie.workload.task import Task
from coterie.workload.workload import Batch, Workload

#: rows that the model is tried on
ROWS = 8


def check_model(workload: Workload) -> None:
    """Build the model five times and run it on up to 8 training rows.

    Raises:
        ModelError: it cannot be built or run, has nothing to train, is not reproducible, mixes rows, returns NaN, or
            keeps something outside of its state_dict.
        NonDeterministicModelError: two evaluation passes over the same rows differ.
        WorkloadError: its outputs do not have the shape that the tasks need.

    Warns:
        DataWarning: the seed makes no difference.
    """
    model = _build(workload, 0)
    _check_parameters(model)
    _check_reproducible(workload, model)
    rows = workload.split.train[:ROWS]
    batch = workload.batch(rows)
    was_training = model.training
    model.eval()
    outputs = _run(workload, model, batch, len(rows))
    _check_outputs(workload, model, outputs)
    with torch.no_grad():
        _check_deterministic(workload, model, batch, outputs.detach())
        _check_rows_independent(workload, model, rows, outputs.detach())
    model.train(was_training)
    _check_kept(workload, batch)


def _build(workload: Workload, seed: int) -> nn.Module:
    build: Any = workload.build_model
    if not callable(build):
        raise ModelError(
            "Parameter `build_model` should be a function of the seed that returns a torch.nn.Module. Found "
            f"{type(build).__name__}. For example build_model=lambda seed: Net()."
        )
    try:
        model = build(seed)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"Parameter `build_model`: calling it with seed {seed} raised {type(error).__name__}: {error}. It is "
            "called with the seed as its only argument, or with none if it takes none."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"Parameter `build_model` should return a torch.nn.Module. Found {type(model).__name__}. The likely cause "
            "is a missing `return`, or the class in place of an instance."
        )
    return model


def _check_parameters(model: nn.Module) -> None:
    refuse_meta(model)
    _check_kinds(model)
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ModelError(
            f"The model has parameters without a shape yet ({', '.join(lazy[:3])}). Give the lazy layers their sizes, "
            "or run one batch through the model inside `build_model` before returning it."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"The model ({type(model).__name__}) has no parameters to train. Likely causes are layers kept in a plain "
            "list or dict (use torch.nn.ModuleList or ModuleDict), or requires_grad set to False everywhere."
        )


def _check_kinds(model: nn.Module) -> None:
    """Refuse modules whose passes cannot be differentiated example by example, or whose mode cannot be set."""
    for name, module in model.named_modules():
        where = f"{type(module).__name__}{f' ({name})' if name else ''}"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"The model has a part of TorchScript: {where}. Such parts cannot be stacked or differentiated example "
                "by example. Give the Python module that was scripted or traced; torch.compile is no hindrance."
            )
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ModelError(
                f"The model has a layer with sparse gradients: {where}. Make it with sparse=False; the numbers are the "
                "same."
            )
    try:
        model.train(model.training)
    except NotImplementedError as error:
        raise ModelError(
            f"The model ({type(model).__name__}) cannot be switched between training and evaluation: {error} The "
            "likely cause is a program of torch.export. Give the module that was exported."
        ) from error


def _check_reproducible(workload: Workload, model: nn.Module) -> None:
    first, again = model.state_dict(), _build(workload, 0).state_dict()
    different = [name for name in first if name not in again or not _same(first[name], again[name])]
    if different or set(again) - set(first):
        raise ModelError(
            f"Parameter `build_model`: two models of seed 0 differ ({', '.join(different[:3])}). The same seed should "
            "give the same parameters. Seed every random source that it uses (torch, numpy, random) from its "
            "argument."
        )
    other = _build(workload, 1).state_dict()
    if first and all(name in other and _same(first[name], other[name]) for name in first):
        warn(
            "Parameter `build_model`: the models of seeds 0 and 1 are equal, so intervals over seeds show the noise "
            "of the order of the rows only. Use the seed for at least the heads.",
            DataWarning,
            about=workload,
        )


def _run(workload: Workload, model: nn.Module, batch: Batch, rows: int) -> Tensor:
    try:
        outputs = workload.outputs(model, batch)
    except WorkloadError:
        raise
    except Exception as error:
        described = {k: tuple(v.shape) for k, v in batch.items()} if isinstance(batch, dict) else tuple(batch.shape)
        dtype = {k: v.dtype for k, v in batch.items()} if isinstance(batch, dict) else batch.dtype
        raise ModelError(
            f"The model ({type(model).__name__}) failed on a batch of shape {described} and dtype {dtype}: "
            f"{type(error).__name__}: {error}. {_cause(batch, error)}"
        ) from error
    if outputs.shape[0] != rows:
        raise WorkloadError(
            f"The model should return one row of outputs a row of inputs. Found {outputs.shape[0]} for {rows} rows. "
            "The likely cause is a pooling or a reshape over the batch dimension."
        )
    return outputs


def _cause(batch: Batch, error: Exception) -> str:
    """The likely cause of a model that fails on its first batch."""
    parts: dict[str, Tensor] = batch if isinstance(batch, dict) else {"": batch}
    whole = [f"x[{name!r}]" if name else "x" for name, part in parts.items() if not part.is_floating_point()]
    text = str(error).lower()
    # layers that look rows up name Long as the type they want, not as the one they got
    if whole and re.search(r"\blong\b|\blongtensor\b|\bint64\b|mixed dtype", text) and "indices" not in text:
        return (
            f"The likely cause is that `{whole[0]}` holds whole numbers and was kept as int64, as token numbers are, "
            "while the model reads floating-point numbers: pass x.astype('float32'), or cast inside the model."
        )
    return (
        "Likely causes are a first layer of another width, another dtype or device, or an argument that "
        "`forward=lambda model, batch: ...` should fill."
    )


def _check_outputs(workload: Workload, model: nn.Module, outputs: Tensor) -> None:
    if not outputs.is_floating_point() or not outputs.requires_grad:
        raise ModelError(
            f"The outputs of the model ({type(model).__name__}) carry no gradient (dtype {outputs.dtype}). Likely "
            "causes are torch.no_grad, .detach(), argmax or rounding inside forward. Return raw scores."
        )
    bad = ~torch.isfinite(outputs)
    if bool(bad.any()):
        column = int(bad.any(0).nonzero()[0])
        position = next(i for i, columns in enumerate(workload.columns) if column < columns.stop)
        raise ModelError(
            f"The freshly built model returns NaN or inf for task {workload.task_names[position]!r} on the first "
            "training rows. Likely causes are a logarithm or a division inside the model, inputs on a very large "
            "scale, or float16."
        )


def _check_deterministic(workload: Workload, model: nn.Module, batch: Batch, outputs: Tensor) -> None:
    again = workload.outputs(model, batch)
    if not torch.allclose(again, outputs, rtol=1e-4, atol=1e-5):
        raise NonDeterministicModelError(
            f"Two evaluation passes of the model ({type(model).__name__}) over the same rows differ by up to "
            f"{float((again - outputs).abs().max()):.2g}. Likely causes are F.dropout without training=self.training, "
            "torch.rand in forward, or state that changes in evaluation mode. Make the evaluation mode deterministic."
        )


def _check_rows_independent(workload: Workload, model: nn.Module, rows: Tensor, outputs: Tensor) -> None:
    half = len(rows) // 2
    if half < 2:
        return
    alone = workload.outputs(model, workload.batch(rows[:half]))
    size = float(outputs.abs().max())
    if not torch.allclose(alone, outputs[:half], rtol=1e-2, atol=1e-3 * max(size, 1e-3)):
        raise ModelError(
            f"The outputs of the model ({type(model).__name__}) for a row depend on the other rows of the batch in "
            "evaluation mode. Likely causes are BatchNorm with track_running_stats=False, or a softmax, norm or mean "
            "over dimension 0. Gradients of single examples have no meaning then."
        )


def _check_kept(workload: Workload, batch: Batch) -> None:
    """Whether the state_dict holds what passes in training mode change, and what depends on the seed."""
    model = workload.build_model(1).to(workload.labels.device).train()
    try:
        with torch.no_grad(), random_numbers(workload.labels.device):
            for _ in range(2):
                workload.outputs(model, batch)
    except Exception:  # of a batch that is too small for it, say; training will tell
        return
    check_kept(workload, model, "after two passes in training mode")


def _same(first: Any, second: Any) -> bool:
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return True  # extra state of a module; its business
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)


#: a parameter's name, a dimension of it, and positions along it (None: all of them)
Slices = tuple[str, int, Tensor | None]


@torch.no_grad()
def dependents(workload: Workload, model: nn.Module, batch: Batch, slices: Sequence[Slices]) -> np.ndarray:
    """Tasks whose outputs are computed from some slices of the parameters, as a (tasks,) bool array.

    NaN in the slices spreads to whatever is computed from them: through dead units, weights of 0 and inputs of 0, where
    gradients are 0. It does not spread through what is picked by an index, such as the experts of a hard gate; there
    the answer holds for the given rows only. A model that refuses NaN counts as using the slices for every task.

    Args:
        workload: tasks, and the way to call the model.
        model: in evaluation mode; left as it was.
        batch: a few rows.
        slices: what is made NaN, all at once.

    Cost: a forward pass.

    Example:
        >>> from coterie.workload import Split, Task
        >>> n = torch.arange(4)
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> tasks, x, y = (Task("a"), Task("b")), torch.zeros(4, 3), torch.ones(4, 2)
        >>> work = Workload("w", tasks, x, y, Split(n, n, n), lambda seed: net)
        >>> dependents(work, net.eval(), work.batch(n), [("0.weight", 0, None)]).tolist()
        [True, True]
        >>> dependents(work, net, work.batch(n), [("2.weight", 0, torch.tensor([1]))]).tolist()
        [False, True]
    """
    everyone = np.ones(workload.n_tasks, bool)
    kept = {name: model.get_parameter(name).clone() for name, _, _ in slices}
    try:
        for name, dimension, positions in slices:
            parameter = model.get_parameter(name)
            if positions is None:
                parameter.fill_(torch.nan)
            else:
                parameter.index_fill_(dimension, positions.to(parameter.device), torch.nan)
        lost = torch.isnan(workload.outputs(model, batch)).any(0).cpu().numpy()
    except Exception:  # a check of the model's own, that its numbers are finite
        return everyone
    finally:
        for name, value in kept.items():
            model.get_parameter(name).copy_(value)
    return np.array([lost[columns].any() for columns in workload.columns])


#: rows that are compared first; columns that agree there are compared as a whole
_PROBE = 64
#: with fewer labels, two columns may well agree by chance
_FEWEST = 10


def warn_labels_among_inputs(
    inputs: Inputs, labels: NDArray[np.float64], tasks: tuple[Task, ...], names: tuple[str, ...] | None
) -> None:
    """Warn (DataWarning) when a column of inputs is a column of labels wherever there is a label, whatever its name.

    Args:
        inputs: as given, before they are standardised; arrays of more than two dimensions are not looked at.
        labels: (rows, tasks) as given, NaN where missing.
        tasks: of the columns.
        names: of the columns of inputs, where there are some.

    Cost: a comparison of 64 rows of each pair of columns.
    """
    found: list[str] = []
    for name, part in (inputs if isinstance(inputs, dict) else {"": inputs}).items():
        columns = part[:, None] if part.dim() == 1 else part
        if columns.dim() != 2:
            continue
        for index, task in enumerate(tasks):
            for column in _copies(columns, labels[:, index]):
                shown = repr(name) if name else f"column {column}" if names is None else repr(names[column])
                found.append(f"{shown} is the label of {task.name!r}")
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        warn(
            f"Parameter `x` holds labels: {'; '.join(found[:5])}{more}. A model reads the answer there, and no task "
            "can help. Drop these columns from the inputs, for example with x.drop(columns=[...]).",
            DataWarning,
        )


def _copies(columns: Tensor, labels: NDArray[np.float64]) -> list[int]:
    """Columns that are equal to the labels, to the precision of float32, in all rows with a label."""
    known = np.flatnonzero(np.isfinite(labels))
    if len(known) < _FEWEST or labels[known].min() == labels[known].max():
        return []
    probe = known[np.linspace(0, len(known) - 1, min(_PROBE, len(known))).astype(int)]
    fit = torch.arange(columns.shape[1], device=columns.device)
    for rows in (probe, known):
        wanted = torch.from_numpy(labels[rows].astype(np.float32)).to(columns.device)
        part = columns[torch.from_numpy(rows).to(columns.device)][:, fit].float()
        fit = fit[(part == wanted[:, None]).all(0)]
        if not len(fit):
            break
    return fit.tolist()
