"""A run that is killed at any moment and started again ends with the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROGRAM = """
import sys, numpy as np, torch
torch.set_num_threads(1)
from sklearn.datasets import load_digits
from coterie.pipeline import run
from coterie.workload import Recipe, from_arrays
x, y = load_digits(return_X_y=True)
labels = (y[:500, None] == np.arange(5)).astype(float)
recipe = Recipe(learning_rate=5e-3, batch_size=50, check_every=5, patience=2, epochs=6)
print("ready", flush=True)
run(from_arrays(x[:500], labels, recipe=recipe, hidden=(16,)), groups=2, seeds=3, bases=2, out=sys.argv[1])
"""


def start(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(out: Path) -> dict[str, Any]:
    process = start(out)
    assert process.wait(timeout=120) == 0
    return numbers(json.loads((out / "result.json").read_text()))


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """The result without what may differ: how long things took."""
    kept = {key: value for key, value in result.items() if key not in ("seconds", "date")}
    kept["costs"] = [{key: value for key, value in row.items() if key != "seconds"} for row in result["costs"]]
    return kept


def kill_and_resume(tmp_path: Path, kills: int) -> None:
    begin = time.perf_counter()
    expected = finish(tmp_path / "whole")
    length = time.perf_counter() - begin
    rng = np.random.default_rng(0)
    for number in range(kills):
        out = tmp_path / f"killed-{number}"
        process = start(out)
        try:
            process.wait(timeout=rng.uniform(0.02, 0.95) * length)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert finish(out) == expected


def test_killed_runs_resume_to_the_same_numbers(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_random_kills(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=20)
