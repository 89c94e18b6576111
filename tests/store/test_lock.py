import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import coterie
from coterie.errors import FallbackWarning, StoreError
from coterie.store import RunDirectory
from coterie.store import run as lock_module
from coterie.store.files import Place
from coterie.store.run import RunLock

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(coterie.__file__).parents[1])}
HOLD = """
import sys, time
from pathlib import Path
from coterie.store.run import RunLock
from coterie.store.files import Place
lock = RunLock(Place(Path(sys.argv[1])))
print("held", flush=True)
time.sleep(60)
"""


def hold(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_two_processes_do_not_write_to_the_same_run(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(StoreError, match=f"being written by process {process.pid} on"):
            RunDirectory(tmp_path, fingerprint="f", settings={})
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / ".lock").exists()
        RunDirectory(tmp_path, fingerprint="f", settings={}).close()  # the dead do not hold locks
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_one_process_does_not_open_a_run_twice(tmp_path):
    with RunDirectory(tmp_path, fingerprint="f", settings={}), pytest.raises(StoreError, match="this very process"):
        RunDirectory(tmp_path, fingerprint="f", settings={})
    RunDirectory(tmp_path, fingerprint="f", settings={}).close()


def test_a_forgotten_run_is_released(tmp_path):
    RunDirectory(tmp_path, fingerprint="f", settings={})
    RunDirectory(tmp_path, fingerprint="f", settings={}).close()


def test_closing_twice_is_harmless(tmp_path):
    run = RunDirectory(tmp_path, fingerprint="f", settings={})
    run.close()
    run.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_outlives_us_does_not_hold_the_lock(tmp_path):
    script = """
import os, sys, time
from pathlib import Path
from coterie.store.run import RunLock
from coterie.store.files import Place
lock = RunLock(Place(Path(sys.argv[1])))
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        while True:  # the child may still be on its way out of fork
            try:
                RunLock(Place(tmp_path)).release()
                break
            except StoreError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        os.kill(child, 0)  # it is alive all the while
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_module, "_lock", refuse)
    with pytest.warns(FallbackWarning, match="has no locks"):
        RunLock(Place(tmp_path)).release()
