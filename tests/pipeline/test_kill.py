"""A run that is killed at any moment and started again ends with the same numbers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference.forked import Scripts

PROGRAM = """
import sys, numpy as np, torch
torch.set_num_threads(1)
from sklearn.datasets import load_digits
from coterie.pipeline import run
from coterie.workload import Recipe, from_arrays
x, y = load_digits(return_X_y=True)
labels = (y[:500, None] == np.arange(5)).astype(float)
recipe = Recipe(learning_rate=5e-3, batch_size=50, check_every=5, patience=2, epochs=6)
run(from_arrays(x[:500], labels, recipe=recipe, hidden=(16,)), groups=2, seeds=3, bases=2, out=sys.argv[1])
"""


def finish(scripts: Scripts, program: Path, out: Path) -> dict[str, Any]:
    done = scripts.run(program, out, cwd=out.parent, seconds=120)
    assert done.code == 0, done.text("stderr")
    return numbers(json.loads((out / "result.json").read_text()))


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """The result without what may differ: how long things took."""
    kept = {key: value for key, value in result.items() if key not in ("seconds", "date")}
    kept["costs"] = [{key: value for key, value in row.items() if key != "seconds"} for row in result["costs"]]
    return kept


def kill_and_resume(scripts: Scripts, folder: Path, kills: int) -> None:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    scripts.warm()  # what it imports is no part of the length
    begin = time.perf_counter()
    expected = finish(scripts, program, folder / "whole")
    length = time.perf_counter() - begin
    rng = np.random.default_rng(0)
    for number in range(kills):
        out = folder / f"killed-{number}"
        script = scripts.start(program, out, cwd=folder)
        if script.wait(rng.uniform(0.02, 0.95) * length) is None:
            script.kill()
        assert finish(scripts, program, out) == expected


def test_killed_runs_resume_to_the_same_numbers(scripts: Scripts, tmp_path: Path) -> None:
    kill_and_resume(scripts, tmp_path, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_random_kills(scripts: Scripts, tmp_path: Path) -> None:
    kill_and_resume(scripts, tmp_path, kills=20)
