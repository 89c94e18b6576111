"""The loop over a function, a trainer or a command."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import coterie
from coterie import create_study
from coterie.errors import ModelError, SettingError, WorkerError
from coterie.training import CommandTrainer
from reference.executors import Inline, KilledWorker, lost
from reference.own_trainers import linear

TASKS = ("a", "b", "c")


@pytest.fixture
def study(tmp_path):
    return create_study("s", tasks=TASKS, storage=tmp_path / "s.journal")


@pytest.mark.parametrize("work", [linear, coterie.FunctionTrainer(linear, TASKS)])
@pytest.mark.parametrize("threads", [None, 3])
def test_a_function_is_called_until_there_are_so_many_runs(study, work, threads):
    executor = None if threads is None else ThreadPoolExecutor(threads)
    done = study.optimize(work, runs=5, executor=executor)
    assert len(done) == len(study.runs) == 5
    for run in study.runs:
        assert {task: value for task, (value, _) in run.losses.items()} == linear(run.tasks, run.seed)
    assert study.optimize(work, runs=5) == []


def test_failures_are_told_and_the_loop_goes_on(study):
    calls = []

    def picky(tasks, seed):
        calls.append(tasks)
        if len(calls) in (2, 4, 5):
            raise MemoryError("too large")
        return dict.fromkeys(tasks, np.nan if len(calls) == 6 else 1.0)

    with pytest.raises(ModelError, match="3 runs in a row failed"):
        study.optimize(picky, runs=30)
    assert [run.state for run in study.runs] == ["told", "failed", "told", "failed", "failed", "failed"]
    assert study.runs[1].reason == "MemoryError: too large"
    assert "should be a finite number" in study.runs[5].reason


def test_three_failures_in_a_row_end_it(study):
    calls = []

    def broken(tasks, seed):
        calls.append(tasks)
        raise RuntimeError("no GPU")

    with pytest.raises(ModelError, match=r"3 runs in a row failed.*RuntimeError: no GPU"):
        study.optimize(broken, runs=9)
    assert len(calls) == 3
    assert [run.state for run in study.runs] == ["failed"] * 3


def test_an_interrupted_run_is_asked_again_at_once(study):
    def interrupted(tasks, seed):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.optimize(interrupted, runs=1)
    (done,) = study.optimize(linear, runs=1)
    assert (done.again, done.tasks) == (0, TASKS)


def test_workers_that_are_lost_get_the_run_again(study):
    done = study.optimize(linear, runs=3, executor=Inline(*lost()[:2]))
    assert [run.state for run in done] == ["told"] * 3
    (never,) = study.optimize(linear, runs=4, executor=Inline(*[KilledWorker("again")] * 3))
    assert (never.state, never.reason) == ("failed", "KilledWorker: again")


def test_what_is_no_function(study):
    with pytest.raises(SettingError, match="should be a function of"):
        study.optimize(3, runs=1)
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    with pytest.raises(WorkerError, match="takes no work"):
        study.optimize(linear, runs=1, executor=closed)


def test_a_command_may_report_metrics_and_gets_number_and_variant(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import json, sys\n"
        "tasks, seed, out, number, variant = sys.argv[1:]\n"
        "print('run', number, repr(variant))\n"
        "found = {task: {'auc': 0.5, 'loss': 2.0} for task in tasks.split(',')}\n"
        "json.dump({'validation': found, 'cost': 3}, open(out, 'w'))\n"
    )
    study = create_study("s", tasks=TASKS, metric="auc", direction="maximize", storage=tmp_path / "s.journal")
    command = [sys.executable, str(script), "{tasks}", "{seed}", "{out}", "{number}", "{variant}"]
    study.optimize(CommandTrainer(command, TASKS, logs=tmp_path / "logs"), runs=2, executor=ThreadPoolExecutor(2))
    assert [run.cost for run in study.runs] == [3, 3]
    assert study.runs[0].metrics["a"] == {"auc": 0.5, "loss": 2.0}
    assert sorted(path.name for path in Path(tmp_path / "logs").iterdir()) == ["run-0.log", "run-1.log"]
    assert "run 1 ''" in (tmp_path / "logs" / "run-1.log").read_text()
