"""A user's own file: own data, own module with BatchNorm, mixed tasks, missing labels; command line to predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from coterie.serving import load
from reference.forked import Scripts

USER_FILE = """import numpy as np
from torch import nn
from coterie import Recipe, from_arrays

rng = np.random.default_rng(0)
x = rng.normal(size=(400, 6)).astype("float32")
y = np.stack([x[:, 0] > 0, x[:, 0] + x[:, 1], np.digitize(x[:, 2], [-0.5, 0.5]), x[:, 3] > x[:, 4]], 1).astype(float)
y[rng.random(y.shape) < 0.3] = np.nan

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(16, n) for n in (1, 1, 3, 1)])
    def forward(self, batch):
        return [head(self.trunk(batch)) for head in self.heads]

workload = from_arrays(x, y, build_model=lambda seed: Net(), recipe=Recipe(epochs=6, batch_size=32, learning_rate=1e-2))
"""


def test_the_user_file_is_short() -> None:
    assert len([line for line in USER_FILE.splitlines() if line.strip()]) <= 20


def test_run_on_a_user_file(tmp_path: Path, scripts: Scripts) -> None:
    (tmp_path / "mine.py").write_text(USER_FILE)
    out = tmp_path / "run"
    options = ("--groups", "2", "--seeds", "2", "--bases", "2", "--json")
    done = scripts.command("run", "mine.py:workload", "--out", out, *options, cwd=tmp_path)
    assert done.code == 0, done.text("stderr")
    result = json.loads(done.text("stdout"))
    assert [task["kind"] for task in result["workload"]["tasks"]] == ["binary", "regression", "multiclass", "binary"]
    assert any("BatchNorm" in warning for warning in result["warnings"])
    assert "Traceback" not in done.text("stderr")
    assert (out / "report.html").exists()

    x = np.random.default_rng(1).normal(size=(7, 6)).astype("float32")
    predictor = load(out, workload=str(tmp_path / "mine.py"))
    predicted = predictor.predict(x)
    shapes = [value.shape for value in predicted.values()]
    assert shapes == [(7,), (7,), (7, 3), (7,)]
    assert all(np.isfinite(value).all() for value in predicted.values())
    # the second task is learnable: its predictions follow the truth
    many = np.random.default_rng(2).normal(size=(500, 6)).astype("float32")
    names = list(predicted)
    assert np.corrcoef(predictor.predict(many)[names[1]], many[:, 0] + many[:, 1])[0, 1] > 0.7
