"""A run killed at any moment goes on where it was and ends with the same numbers."""

import json
import random
import signal
import time
import warnings

import pytest

from coterie.store import RunDirectory
from reference.forked import FORKS

SCRIPT = """
import sys
import numpy as np
import torch
import warnings
from coterie.errors import CoterieWarning
from coterie._units import Payload
from coterie.store import RunDirectory

warnings.simplefilter("error", CoterieWarning)
torch.set_num_threads(1)

def compute(index, before):
    rng = np.random.default_rng(index)
    noise = rng.normal(size=(200, 50))
    return Payload({"noise": noise, "t": torch.from_numpy(noise[:3])}, {"sum": float(noise.sum()) + before})

with RunDirectory(sys.argv[1], fingerprint="f", settings={"n": 40}) as run:
    print("open", flush=True)
    total = 0.0
    for index in range(40):
        payload = run.unit("noise", {"index": index}, lambda: compute(index, total))
        total = payload.meta["sum"] + float(payload.arrays["t"].sum())
    run.write_result({"total": total})
"""


@pytest.fixture
def start(tmp_path, scripts):
    """Starts the script on a directory."""
    (tmp_path / "script.py").write_text(SCRIPT)
    return lambda path: scripts.start(tmp_path / "script.py", path, cwd=tmp_path)


def finish(script, path):
    assert script.wait(60) == 0, script.text("stderr")
    return (path / "result.json").read_bytes()


def is_open(script):
    """Wait until it has opened its directory."""
    end = time.monotonic() + 60
    while script.text("stdout") != "open\n":
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.skipif(not FORKS, reason="needs SIGKILL")
def test_killed_at_random_moments_gives_the_same_result(tmp_path, start):
    expected = finish(start(tmp_path / "whole"), tmp_path / "whole")
    rng, path, kills = random.Random(0), tmp_path / "killed", 0
    for _ in range(6):
        script = start(path)
        is_open(script)
        if script.wait(rng.uniform(0.0, 0.08)) is None:
            kills += script.kill() == -signal.SIGKILL
        _no_unit_is_torn(path)
        (path / "result.json").unlink(missing_ok=True)
    assert finish(start(path), path) == expected
    assert kills
    assert not list(path.rglob("*.tmp"))


def _no_unit_is_torn(path):
    """Every record that is there belongs to a whole unit: reading them all neither warns nor computes."""
    with RunDirectory(path, fingerprint="f", settings={"n": 40}) as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        for record in sorted(run.units.glob("*.json")):
            key = json.loads(record.read_text())["key"]
            run.unit("noise", key, lambda: pytest.fail("a finished unit was lost"))
