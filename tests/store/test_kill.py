"""A run killed at any moment goes on where it was and ends with the same numbers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import coterie
from coterie.store import RunDirectory

SOURCE = str(Path(coterie.__file__).parents[1])
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


def start(path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": SOURCE}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )


def finish(path):
    process = start(path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return (path / "result.json").read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_random_moments_gives_the_same_result(tmp_path):
    expected = finish(tmp_path / "whole")
    rng, path, kills = random.Random(0), tmp_path / "killed", 0
    for _ in range(6):
        process = start(path)
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.08))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
        _no_unit_is_torn(path)
        (path / "result.json").unlink(missing_ok=True)
    assert finish(path) == expected
    assert kills
    assert not list(path.rglob("*.tmp"))


def _no_unit_is_torn(path):
    """Every record that is there belongs to a whole unit: reading them all neither warns nor computes."""
    with RunDirectory(path, fingerprint="f", settings={"n": 40}) as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        for record in sorted(run.units.glob("*.json")):
            key = json.loads(record.read_text())["key"]
            run.unit("noise", key, lambda: pytest.fail("a finished unit was lost"))
