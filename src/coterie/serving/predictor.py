"""The trained group models as one predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._check import whole_number
from coterie._files import user_path
from coterie._surface import known_arguments
from coterie.errors import ModelError, SettingError, StoreError, require
from coterie.serving.models import build_with, check_probe, find_source
from coterie.serving.saved import Saved, no_rows, prepare, read_served
from coterie.workload import Split, Task, Workload
from coterie.workload.arrays import Inputs
from coterie.workload.build import n_rows
from coterie.workload.checks import as_device
from coterie.workload.text.encoder import TextEncoder

if TYPE_CHECKING:
    import pandas as pd

    from coterie.workload.workload import Forward

#: rows that go through a model at once
CHUNK = 4096


@known_arguments
@dataclass(frozen=True, eq=False)
class Predictor:
    """One predictor for all tasks, made by :func:`load`; each task is answered by the model of its group.

    Attributes:
        workload: tasks and how a model is called; holds no data.
        groups: task names that each model was trained on.
        serves: task name -> index of the group that answers.
        models: one module a group, in evaluation mode.
        form: what inputs look like.
        input_center: subtracted from raw inputs; None where nothing was.
        input_scale: divided out of raw inputs.
        input_names: columns of the training inputs; None where they had no names.
    """

    workload: Workload
    groups: tuple[tuple[str, ...], ...]
    serves: dict[str, int]
    models: tuple[nn.Module, ...]
    form: Mapping[str, Any]
    input_center: Tensor | None
    input_scale: Tensor | None
    input_names: tuple[str, ...] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the workload."""
        return self.workload.task_names

    def __repr__(self) -> str:
        return f"Predictor({len(self.tasks)} tasks, {len(self.groups)} models)"

    def to(self, device: str | torch.device) -> Predictor:
        """Move the models (in place); inputs are moved to them and results come back as arrays.

        Raises:
            SettingError: when there is no such device here.
        """
        found = as_device(device)
        for model in self.models:
            model.to(found)
        return self

    def predict(self, x: Any, *, chunk: int = CHUNK) -> dict[str, NDArray[np.float64]]:
        """Predictions of every task, each model run once over the rows.

        Args:
            x: raw inputs in the form of training: array, tensor, data frame, mapping, or, for a workload of
                :func:`coterie.workload.from_text`, texts. Columns of a data frame are found by name where training had
                names, else by position; columns and keys that training did not have are ignored with a warning. They
                are standardised as at training. No rows (an empty list, too) give empty answers.
            chunk: rows that go through a model at once.

        Returns:
            task name -> (rows,) probability of label 1 (binary) or of the answer (sequence), or value in the units of
            the raw labels (regression), or (rows, classes) class probabilities (multi-class).

        Raises:
            WorkloadError: when the inputs do not fit: number or names of columns, keys, missing or infinite values.
            SettingError: when `chunk` is no whole number of at least 1.
            ModelError: when a model fails on them.
        """
        chunk = whole_number(chunk, "chunk", low=1)
        reader = self.models[0]
        if isinstance(reader, TextEncoder) and not isinstance(x, Mapping) and not hasattr(x, "columns"):
            none = not isinstance(x, str) and hasattr(x, "__len__") and not len(x)
            x = no_rows(self.form) if none else reader.encode(x)
        inputs = prepare(x, self.form, self.input_center, self.input_scale, self.input_names, self)
        answers: dict[str, NDArray[np.float64]] = {}
        for group in sorted(set(self.serves.values())):
            outputs = self._outputs(group, inputs, chunk)
            for task, columns in zip(self.workload.tasks, self.workload.columns, strict=True):
                if self.serves[task.name] == group:
                    answers[task.name] = task.loss.decode(outputs[:, columns], task.center, task.scale).numpy()
        return {name: answers[name] for name in self.tasks}

    def predict_frame(self, x: Any) -> pd.DataFrame:
        """:meth:`predict` as one table (needs pandas, extra ``table``); multi-class tasks take a column a class.

        The index is that of `x` where `x` is a data frame. Columns are ``task`` or ``task=class``.
        """
        pandas = require("pandas", extra="table", purpose="Predictor.predict_frame()")
        columns: dict[str, NDArray[np.float64]] = {}
        for name, values in self.predict(x).items():
            if values.ndim == 1:
                columns[name] = values
            else:
                columns.update({f"{name}={c}": values[:, c] for c in range(values.shape[1])})
        return pandas.DataFrame(columns, index=getattr(x, "index", None) if hasattr(x, "columns") else None)

    def export(self, path: str | Path, format: str = "onnx") -> Path:
        """Write all group models as one file that serves without this library.

        What is in it: standardisation of the inputs, every group model, and predictions as :meth:`predict` gives them,
        one output a task, named like it (``torch.export`` has a tuple in the order of :attr:`tasks`). Any number of
        rows goes in. Standardised inputs are float64, as `predict` reads them: large values keep their digits.

        Args:
            path: the file.
            format: ``"onnx"`` (extra ``onnx``; for onnxruntime and others) or ``"torch.export"``, which
                ``torch.export.load`` reads. Tasks, inputs and groups stand in the file's metadata, ``coterie`` or
                ``coterie.json``.

        Raises:
            SettingError: for an unknown format, and for language models, whose tokenizer is no part of a graph.
            ModelError: when the models cannot be traced, or the file does not answer as `predict` does, on other rows
                than it was made with, to 1e-5 (of values above 1, relative). Then nothing is written.
            MissingDependencyError: when ``onnx`` or ``onnxscript`` is not installed.

        Cost: a few seconds. Without onnxruntime an ONNX file is not checked.

        Example:
            >>> import coterie
            >>> x = np.random.default_rng(0).normal(size=(60, 5))
            >>> recipe = coterie.Recipe(epochs=1)
            >>> work = coterie.from_arrays(x, x[:, :3] > 0, hidden=(4,), recipe=recipe)
            >>> result = coterie.run(work, groups=1, seeds=2, method="label-correlation")
            >>> with TemporaryDirectory() as folder:
            ...     path = load(result).export(Path(folder) / "served.pt2", "torch.export")
            ...     served = torch.export.load(path).module()
            >>> len(served(torch.from_numpy(x[:7])))
            3
        """
        from coterie.serving.export import export

        return export(self, path, format)

    def _outputs(self, group: int, inputs: Inputs, chunk: int) -> Tensor:
        model, rows = self.models[group], n_rows(inputs)
        first = next(iter(model.parameters()), None)
        device = torch.device("cpu") if first is None else first.device
        parts: list[Tensor] = []
        for start in range(0, rows, chunk):
            here = slice(start, start + chunk)
            if isinstance(inputs, dict):
                batch: Any = {name: part[here].to(device) for name, part in inputs.items()}
            else:
                batch = inputs[here].to(device)
            try:
                with torch.inference_mode():
                    parts.append(self.workload.outputs(model, batch).cpu())
            except (RuntimeError, IndexError, TypeError) as error:
                raise ModelError(f"The model of group {group} fails on rows {start} and following: {error}") from error
        return torch.cat(parts) if parts else torch.zeros(0, self.workload.columns[-1].stop)


@known_arguments
def load(
    run: Any,
    *,
    build_model: Callable[..., nn.Module] | None = None,
    workload: Workload | str | None = None,
    forward: Forward | None = None,
    model: Any = None,
    tokenizer: Any = None,
) -> Predictor:
    """The recommended models of a run as one predictor.

    Args:
        run: the run directory, or the result of :func:`coterie.run`, which brings its models and its workload along
            where it was made without a directory.
        build_model: makes the module, where it is your own: a run holds numbers, never code.
        workload: in place of it, the workload or its reference (``"file.py:workload"``), a file that is then run.
        forward: ``forward(model, batch)`` -> outputs, where the workload had one.
        model: for runs of ``from_text`` and ``from_causal``, in place of `workload`: the frozen transformer, or its
            folder. No texts of training are read.
        tokenizer: of that transformer; None takes the one in its folder.

    Raises:
        SettingError: when `run` is neither.
        StoreError: when the run has no served models or they are damaged.
        ModelError: when the code of the model was not given or does not match what was saved.

    No code is imported or run that the caller does not name: a directory of somebody else can be loaded.

    Cost: reading the file and building the models; no training data are needed for built-in models.
    """
    saved = _saved(run)
    if getattr(run, "path", run) is None and workload is None and build_model is None and model is None:
        workload = run.workload
    text = saved.description
    source = find_source(text, build_model, workload, forward, model, tokenizer)
    tasks = tuple(Task.from_dict(task) for task in text["tasks"])
    none = torch.zeros(0, dtype=torch.int64)
    shell = Workload(
        text["name"],
        tasks,
        torch.zeros(0, 1),
        torch.zeros(0, len(tasks)),
        Split(none, none, none),
        source.build,
        forward=source.forward,
    )
    models = tuple(build_with(source.build, state, group) for group, state in enumerate(saved.states))
    check_probe(shell, models, saved.probe)
    return Predictor(
        shell,
        tuple(tuple(group) for group in text["groups"]),
        dict(text["serves"]),
        models,
        text["inputs"],
        saved.input_center,
        saved.input_scale,
        None if text.get("input_names") is None else tuple(text["input_names"]),
    )


def _saved(run: Any) -> Saved:
    """The served models of a directory, or of a result without one: both are read alike, so that both serve the same.

    Raises:
        SettingError: it is neither.
        StoreError: see :func:`coterie.serving.saved.read_served`.
    """
    path = getattr(run, "path", run)
    if isinstance(path, str | PathLike):
        return read_served(user_path(Path(path)))
    if path is not None or run is None:
        raise SettingError(
            "Parameter `run` should be a run directory, or what coterie.run returned. "
            f"Found a value of type {type(run).__name__}."
        )
    files: Mapping[str, bytes] = getattr(run, "files", {})
    if not files:
        raise StoreError(
            "Parameter `run`: there are no served models. It was not written to a directory (run again with `out=`), "
            "or it is one of a trainer of your own, which keeps its models: its `served` says which groups to serve."
        )
    with TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return read_served(Path(folder))
