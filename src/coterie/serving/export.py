"""Served models as one file for other programs: ONNX, or a program of ``torch.export``."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from coterie._check import choice
from coterie._files import atomic_write, user_path
from coterie.errors import ModelError, SettingError, require
from coterie.workload.text.encoder import TextEncoder

if TYPE_CHECKING:
    from coterie.serving.predictor import Predictor

#: what a file may differ from `predict` by, relative to values above 1: rounding of float32 in another order
TOLERANCE = 1e-5
#: rows of the example with which a model is traced, and of that with which the file is checked: not alike, so that a
#: number of rows that got stuck in the program shows
_TRACED, _CHECKED = 3, 7
FORMATS = ("onnx", "torch.export")


class ServedModule(nn.Module):
    """All group models as one module: raw inputs in, the predictions of each task out, in the order of the tasks.

    Args:
        predictor: what is served.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor
        self.columns = predictor.workload.columns  # kept before anything is traced, which would keep its own numbers
        self.groups = nn.ModuleList(deepcopy(predictor.models)).requires_grad_(False)
        self.register_buffer("center", predictor.input_center)
        self.register_buffer("scale", predictor.input_scale)

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Predictions, (rows,) or (rows, classes) a task, float64; see :meth:`coterie.Predictor.predict`."""
        predictor, names = self.predictor, input_names(self.predictor)
        types = [form["dtype"] for form in input_forms(predictor)]
        given = [self._scaled(part).to(getattr(torch, kind)) for part, kind in zip(parts, types, strict=True)]
        batch: Any = dict(zip(names, given, strict=True)) if "parts" in predictor.form else given[0]
        outputs = {
            group: predictor.workload.outputs(self.groups[group], batch) for group in {*predictor.serves.values()}
        }
        answers: list[Tensor] = []
        for task, columns in zip(predictor.workload.tasks, self.columns, strict=True):
            raw = outputs[predictor.serves[task.name]][:, columns]
            answers.append(task.loss.decode(raw, task.center, task.scale))
        return tuple(answers)

    def _scaled(self, part: Tensor) -> Tensor:
        center, scale = self.center, self.scale
        if isinstance(center, Tensor):
            part = part - center
        return part / scale if isinstance(scale, Tensor) else part


def input_forms(predictor: Predictor) -> list[Mapping[str, Any]]:
    """Shape and type of each input, without the rows."""
    return list(predictor.form["parts"].values()) if "parts" in predictor.form else [predictor.form]


def input_names(predictor: Predictor) -> list[str]:
    """Names of the inputs; ``x`` where there is one array."""
    return list(predictor.form["parts"]) if "parts" in predictor.form else ["x"]


def export(predictor: Predictor, path: str | Path, format: str = "onnx") -> Path:
    """Write all group models as one file; see :meth:`coterie.Predictor.export`."""
    choice(format, "format", FORMATS)
    if any(isinstance(module, TextEncoder) for model in predictor.models for module in model.modules()):
        raise SettingError(
            "Language models are not exported: their inputs are texts, and the tokenizer is no part of a graph. Serve "
            "them with `coterie.load`, or export the adapters with `coterie.serving.export_adapters`."
        )
    module = ServedModule(predictor).eval()
    rows = torch.export.Dim("rows", min=1)
    shapes = tuple({0: rows} for _ in input_forms(predictor))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, _example(predictor, _TRACED), dynamic_shapes={"parts": shapes})
    except Exception as error:
        raise ModelError(
            f"The models cannot be written as a graph: {type(error).__name__}: {str(error).strip()[:300]}. A frequent "
            "cause is a forward that decides by values of its inputs, or that depends on the number of rows. Models "
            "that cannot be traced are served with `coterie.load`."
        ) from error
    data = _onnx(program, predictor) if format == "onnx" else _torch(program, predictor)
    _check(data, predictor, format)
    atomic_write(path, data)
    return user_path(path)


def describe(predictor: Predictor) -> dict[str, Any]:
    """What a file says beside the graph: tasks in the order of the outputs, inputs, groups."""
    return {
        "tasks": [
            {"name": task.name, "kind": task.kind, **({"classes": task.classes} if task.classes else {})}
            for task in predictor.workload.tasks
        ],
        "inputs": [
            {"name": name, "shape": ["rows", *form["shape"]]}
            for name, form in zip(input_names(predictor), input_forms(predictor), strict=True)
        ],
        "columns": None if predictor.input_names is None else list(predictor.input_names),
        "groups": [list(group) for group in predictor.groups],
    }


def _example(predictor: Predictor, rows: int) -> tuple[Tensor, ...]:
    """Inputs of the right form; whole numbers, which may be categories, are 0."""
    generator, made = torch.Generator().manual_seed(rows), list[Tensor]()
    for form in input_forms(predictor):
        shape, whole = (rows, *form["shape"]), not getattr(torch, form["dtype"]).is_floating_point
        one = torch.zeros(shape, dtype=torch.int64) if whole else torch.randn(shape, generator=generator).double()
        if not whole and predictor.input_scale is not None:
            one = one * predictor.input_scale.double()
        made.append(one if whole or predictor.input_center is None else one + predictor.input_center.double())
    return tuple(made)


def _torch(program: Any, predictor: Predictor) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"coterie.json": json.dumps(describe(predictor))})
    return buffer.getvalue()


def _onnx(program: Any, predictor: Predictor) -> bytes:
    for name in ("onnx", "onnxscript"):
        require(name, extra="onnx", purpose="Predictor.export(format='onnx')")
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        made: Any = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=input_names(predictor),
            output_names=[task.name for task in predictor.workload.tasks],
        )  # fmt: skip
    proto = made.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "coterie", json.dumps(describe(predictor))
    return proto.SerializeToString()


@contextmanager
def _quiet() -> Generator[None]:
    """Without what the exporter says of packages that are not there and that no model of ours needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check(data: bytes, predictor: Predictor, format: str) -> None:
    """Run what was written on other rows, another number of them."""
    parts = _example(predictor, _CHECKED)
    if format == "onnx":
        try:
            import onnxruntime
        except ImportError:
            return  # the file may be for another machine
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        feed = {one.name: part.numpy() for one, part in zip(session.get_inputs(), parts, strict=True)}
        found = [np.asarray(one) for one in session.run(None, feed)]
    else:
        found = [one.detach().numpy() for one in torch.export.load(io.BytesIO(data)).module()(*parts)]
    by_name = {name: part.numpy() for name, part in zip(input_names(predictor), parts, strict=True)}
    answers = predictor.predict(by_name if "parts" in predictor.form else by_name["x"])
    for task, values in zip(predictor.tasks, found, strict=True):
        expected = answers[task]
        off = float((np.abs(values - expected) / np.maximum(1.0, np.abs(expected))).max(initial=0.0))
        if values.shape != expected.shape or not off <= TOLERANCE:
            raise ModelError(
                f"The exported graph answers task {task!r} otherwise than `predict`, by {off:.1e} (allowed: "
                f"{TOLERANCE:.0e}), so nothing was written. A frequent cause is a model that draws random numbers or "
                "whose forward depends on values of its inputs."
            )
