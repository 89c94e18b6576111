"""Many workers on one storage: no run is lost, none is done twice, also when workers are killed at random."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import coterie
from coterie import create_study, load_study

TASKS = ("a", "b", "c", "d", "e")
WORKER = """
import random, sys, time
import optuna
from coterie import load_study
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = load_study("s", storage=sys.argv[1])
while (run := study.ask_within(int(sys.argv[2]))) is not None:
    time.sleep(float(sys.argv[3]) * random.random())
    study.tell(run, {task: 1 + 0.1 * random.random() for task in run.tasks})
"""


def start(storage, runs, pause):
    environment = {**os.environ, "PYTHONPATH": str(Path(coterie.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-W", "ignore", "-c", WORKER, str(storage), str(runs), str(pause)]
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE)


def finish(workers):
    for worker in workers:
        _, errors = worker.communicate(timeout=1200)
        assert worker.returncode == 0, errors.decode()


def check(storage, runs):
    """All runs were told, each once."""
    study = load_study("s", storage=storage)
    told = [run for run in study.runs if run.state == "told"]
    assert len(study.results().losses) == runs
    assert len({(run.tasks, run.seed, run.variant) for run in told}) == runs
    assert {run.state for run in study.runs} <= {"told", "dropped", "asked"}
    lost = [run for run in study.runs if run.state == "asked"]
    again = {run.again for run in study.runs}
    assert all(run.number in again for run in lost)
    return study


@pytest.mark.parametrize("name", ["s.journal", "s.db"])
def test_workers_share_the_runs(tmp_path, name):
    create_study("s", tasks=TASKS, storage=tmp_path / name)
    finish([start(tmp_path / name, 7, 0) for _ in range(3)])
    check(tmp_path / name, 7)


def share(storage, *, killed):
    """Twelve workers do five hundred runs; some are killed at any moment, and others take their place."""
    study = create_study("s", tasks=TASKS, storage=storage, reask_after=20.0 if killed else 3600.0)
    workers = [start(storage, 500, 0.2) for _ in range(12)]
    rng = random.Random(0)
    lost = 0
    while killed and lost < 5:  # until some had a run when they were killed
        time.sleep(1.5 * rng.random())
        lost = sum(run.state == "asked" and run.since < time.time() - 20 for run in study.runs)
        if len(study.runs) >= 450:
            break
        victim = rng.randrange(12)
        workers[victim].send_signal(signal.SIGKILL)
        workers[victim].communicate()
        workers[victim] = start(storage, 500, 0.2)
    finish(workers)
    while killed and len(load_study("s", storage=storage).results().losses) < 500:  # the last that were lost
        time.sleep(5)
        finish([start(storage, 500, 0.2)])
    return check(storage, 500)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("name", ["s.journal", "s.db"])
def test_twelve_workers_do_five_hundred_runs(tmp_path, name, killed):
    study = share(tmp_path / name, killed=killed)
    assert killed or all(run.again is None for run in study.runs)


@pytest.fixture
def postgres():
    """Address of a database of its own."""
    pytest.importorskip("psycopg")
    control = shutil.which("pg_ctl")
    if control is None:
        pytest.skip("no PostgreSQL server on PATH")
    user = {"user": "postgres"} if os.geteuid() == 0 else {}  # the server refuses to run as root
    place = Path(tempfile.gettempdir()) / f"coterie-postgres-{os.getpid()}"
    place.mkdir()
    if user:
        shutil.chown(place, "postgres")
    options = f"-k {place} -c listen_addresses= -c fsync=off"
    try:
        subprocess.run([control, "init", "-D", place / "data", "-o", "-A trust -U me"], check=True, cwd="/", **user)
        command = [control, "start", "-w", "-D", place / "data", "-l", place / "log", "-o", options]
        subprocess.run(command, check=True, cwd="/", **user)
        yield f"postgresql://me@/postgres?host={place}"
    finally:
        subprocess.run([control, "stop", "-m", "immediate", "-D", place / "data"], check=False, cwd="/", **user)
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("killed", [False, True])
def test_twelve_workers_on_postgresql(postgres, killed):
    share(postgres, killed=killed)
