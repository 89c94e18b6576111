"""A run that is killed at any moment and started again ends with the same numbers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from coterie.pipeline import run
from coterie.workload import Recipe, from_arrays
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


def test_a_step_does_not_depend_on_whether_the_ones_before_were_computed_or_read(tmp_path: Path) -> None:
    x, y = load_digits(return_X_y=True)
    labels = (y[:300, None] == np.arange(5)).astype(float)
    work = from_arrays(x[:300], labels, recipe=Recipe(batch_size=50, check_every=5, epochs=2), hidden=(16,))

    def searched(out: Path) -> dict[str, Any]:
        run(work, budget=4, seeds=2, bases=2, out=out)
        return numbers(json.loads((out / "result.json").read_text()))

    expected = searched(tmp_path / "whole")
    units = sorted((tmp_path / "whole" / "units").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    names = {unit.stem: json.loads(unit.read_text())["name"] for unit in units}
    searches = [stem for stem, name in names.items() if name == "groups"]
    affinity = next(stem for stem, name in names.items() if name == "affinity")
    assert len(searches) > 1
    for lost in (searches, searches[1:], [affinity, *searches[1:]]):
        part = tmp_path / f"without {len(lost)} {lost[0]}"
        shutil.copytree(tmp_path / "whole", part)
        (part / "result.json").unlink()
        for stem in lost:
            for path in (part / "units").glob(f"{stem}.*"):
                path.unlink()
        assert searched(part) == expected


def test_killed_runs_resume_to_the_same_numbers(scripts: Scripts, tmp_path: Path) -> None:
    kill_and_resume(scripts, tmp_path, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_random_kills(scripts: Scripts, tmp_path: Path) -> None:
    kill_and_resume(scripts, tmp_path, kills=20)
