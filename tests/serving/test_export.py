"""Served models as one file, run by other programs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import coterie
from coterie.datasets import names
from coterie.errors import ModelError, SettingError
from coterie.serving import export

onnxruntime = pytest.importorskip("onnxruntime")
QUICK: dict[str, Any] = {"groups": 2, "seeds": 2, "method": "label-correlation"}


def onnx_answers(path: Path, *parts: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {one.name: part for one, part in zip(session.get_inputs(), parts, strict=True)}
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, feed), strict=True))


def both(predictor: coterie.Predictor, folder: Path, raw: Any, *parts: np.ndarray) -> None:
    """Both formats answer as the predictor does, for any number of rows."""
    onnx = predictor.export(folder / "served.onnx")
    program = torch.export.load(predictor.export(folder / "served.pt2", "torch.export")).module()
    for rows in (1, 5):
        some = [part[:rows] for part in parts]
        expected = predictor.predict(
            {name: value[:rows] for name, value in raw.items()} if isinstance(raw, dict) else raw[:rows]
        )
        tensors = [torch.from_numpy(part) for part in some]
        for found in (onnx_answers(onnx, *some), dict(zip(expected, program(*tensors), strict=True))):
            assert list(found) == list(predictor.tasks)
            for task, values in expected.items():
                assert np.asarray(found[task]) == pytest.approx(values, rel=1e-5, abs=1e-5)


def test_mixed_tasks_with_large_offsets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)) + np.array([0.0, 1.7e9, 1e12])  # times and identifiers: float32 would lose all
    z = x - [0.0, 1.7e9, 1e12]
    y = np.stack([z[:, 0] > 0, np.digitize(z[:, 1], [-0.5, 0.5]), 1e6 + 100 * z[:, 2]], 1)
    tasks = [
        coterie.Task("yes or no", "binary"),
        coterie.Task("class", "multiclass", classes=3),
        coterie.Task("amount", "regression"),
    ]
    work = coterie.from_arrays(x, y, tasks=tasks, hidden=(8,), recipe=coterie.Recipe(epochs=20))
    predictor = coterie.load(coterie.run(work, **QUICK))
    assert predictor.predict(x)["amount"].std() > 1
    both(predictor, tmp_path, x, x)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.line = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor, extra: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.line(self.body(image).mean((2, 3))) + extra.sum(1, keepdim=True)
        return {"a": found[:, 0], "b": found[:, 1]}


def test_a_model_of_ones_own_with_several_inputs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = {"image": rng.normal(size=(90, 1, 6, 6)), "extra": rng.normal(size=(90, 2))}
    y = np.stack([x["image"].mean((1, 2, 3)) > 0, x["extra"][:, 0] > 0], 1).astype(float)
    work = coterie.from_arrays(
        x, y, tasks=["a", "b"], build_model=Convolutions, recipe=coterie.Recipe(epochs=2), standardize=False
    )
    predictor = coterie.load(coterie.run(work, **{**QUICK, "groups": 1}))
    both(predictor, tmp_path, x, x["image"], x["extra"])


def test_the_file_needs_neither_coterie_nor_torch(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4))
    work = coterie.from_arrays(x, x[:, :2] > 0, tasks=["a", "b"], hidden=(4,), recipe=coterie.Recipe(epochs=1))
    predictor = coterie.load(coterie.run(work, **QUICK))
    path = predictor.export(tmp_path / "served.onnx")
    program = f"""
import sys, json, numpy, onnxruntime
session = onnxruntime.InferenceSession({str(path)!r})
answers = session.run(["b"], {{"x": numpy.array({x[:3].tolist()!r})}})
assert not {{"coterie", "torch"}} & set(sys.modules)
print(json.dumps([answers[0].tolist(), json.loads(session.get_modelmeta().custom_metadata_map["coterie"])]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    values, facts = json.loads(done.stdout)
    assert values == pytest.approx(predictor.predict(x[:3])["b"].tolist(), rel=1e-5)
    assert facts["tasks"] == [{"name": "a", "kind": "binary"}, {"name": "b", "kind": "binary"}]
    assert facts["inputs"] == [{"name": "x", "shape": ["rows", 4]}]
    assert facts["groups"] == [list(group) for group in predictor.groups]


class ByValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x) if float(x.sum()) > 1e9 else -self.line(x)


def test_what_cannot_be_a_graph_is_refused_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    work = coterie.from_arrays(x, x[:, :2] > 0, build_model=ByValue, recipe=coterie.Recipe(epochs=1))
    predictor = coterie.load(coterie.run(work, **{**QUICK, "groups": 1}))
    with pytest.raises(ModelError, match="decides by values of its inputs"):
        predictor.export(tmp_path / "served.onnx")
    with pytest.raises(SettingError, match="`format`"):
        predictor.export(tmp_path / "served.onnx", "pickle")
    plain = coterie.from_arrays(x, x[:, :2] > 0, hidden=(4,), recipe=coterie.Recipe(epochs=1))
    predictor = coterie.load(coterie.run(plain, **QUICK))
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    for format in ("onnx", "torch.export"):
        with pytest.raises(ModelError, match="otherwise than `predict`"):
            predictor.export(tmp_path / "served", format)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*names()} - {"texts"}))  # language models are refused
def test_built_in_workloads(name: str, tmp_path: Path) -> None:
    work = coterie.load_workload(name)
    work = replace(
        work, recipe=replace(work.recipe, epochs=1, steps=None) if hasattr(work.recipe, "steps") else work.recipe
    )
    predictor = coterie.load(coterie.run(work, **{**QUICK, "groups": 1}))
    rows = work.inputs[:5].double().numpy()
    raw = rows if work.input_scale is None else rows * work.input_scale.numpy() + work.input_center.numpy()
    both(predictor, tmp_path, raw, raw if work.inputs.is_floating_point() else work.inputs[:5].numpy())
