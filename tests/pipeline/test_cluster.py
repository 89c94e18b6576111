"""Whole runs, features and the command line on several processes: the same results bit for bit, also after kills."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from coterie import Context
from coterie._units import drop_shards, folder_of
from coterie.cli.app import app
from coterie.errors import SettingError, WorkerError
from coterie.executors import LocalExecutor
from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.features import shards as shard_files
from coterie.features import shards as shards_module
from coterie.features.directions import Directions, StackedDirections
from coterie.features.part import PartFeatures
from coterie.features.shards import compute_shards
from coterie.pipeline import run
from coterie.pipeline.accounts import RecordingStore
from coterie.store import MemoryRun, RunDirectory
from coterie.workload import Recipe, Workload, from_arrays
from coterie.workload.structure import find_structure
from reference.executors import Inline
from reference.training_workloads import make

footprint = import_module("coterie.training.evaluate")

OPTIONS: dict[str, Any] = {"groups": 2, "seeds": 2, "bases": 2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def numbers(result: Any) -> dict[str, Any]:
    """The result without how long things took."""
    kept = {key: value for key, value in result.items() if key not in ("seconds", "date")}
    kept["costs"] = [{key: value for key, value in row.items() if key != "seconds"} for row in result["costs"]]
    return kept


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few members a chunk, so that even a small run has many jobs."""
    monkeypatch.setattr(footprint.Footprint, "enough", property(lambda self: 3))


@pytest.mark.usefixtures("chunks")
def test_a_run_is_the_same_in_processes(tiny: Workload, tmp_path: Path, two_processes: LocalExecutor) -> None:
    here = run(tiny, out=tmp_path / "here", **OPTIONS)
    run(tiny, out=tmp_path / "there", executor=two_processes, **OPTIONS)
    one, other = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("here", "there"))
    assert numbers(one) == numbers(other)
    assert numbers(one) == numbers(here.result)
    for name in ("serve.safetensors", "comparison.safetensors", "affinity.csv"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert {p.name for p in (tmp_path / "here" / "units").iterdir()} == {
        p.name for p in (tmp_path / "there" / "units").iterdir()
    }


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("method", ["task-vectors", "label-injection", "linear-surrogate"])
def test_every_kind_of_estimate_is_the_same_elsewhere(tiny: Workload, method: str) -> None:
    options = {"linear-surrogate": {"runs": 12}, "task-vectors": {"bases": 2}}.get(method, {})
    one = run(tiny, method=method, groups=2, seeds=1, **options)
    other = run(tiny, method=method, groups=2, seeds=1, executor=Inline(), **options)
    assert numbers(one.result) == numbers(other.result)


def test_a_run_by_halving_with_balancing_is_the_same_elsewhere(tiny: Workload) -> None:
    options: dict[str, Any] = {"seeds": 2, "bases": 1, "compare_runs": 60, "balancing": "famo"}
    assert numbers(run(tiny, **options).result) == numbers(run(tiny, executor=Inline(), **options).result)


# on a cluster


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


@contextmanager
def killer(client: Any, every: float, most: int) -> Iterator[list[int]]:
    """Kill a random worker process now and then."""
    stop, killed, rng = threading.Event(), list[int](), np.random.default_rng(0)

    def kill() -> None:
        while not stop.wait(every) and len(killed) < most:
            nannies = [nanny for nanny in client.cluster.workers.values() if nanny.pid]
            if nannies:
                pid = nannies[rng.integers(len(nannies))].pid
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("chunks")
def test_a_run_is_the_same_on_a_dask_cluster_with_killed_workers(tiny: Workload, tmp_path: Path) -> None:
    options = {**OPTIONS, "seeds": 8}
    here = run(tiny, **options)
    with cluster(3) as client:
        whole = run(tiny, executor=client.get_executor(), **options)
        assert numbers(whole.result) == numbers(here.result)
        kills = 0
        for number in range(3):  # until one run is long enough to be hit
            with killer(client, every=0.4, most=4) as killed:
                hit = run(tiny, out=tmp_path / f"{number}", executor=client.get_executor(), **options)
            assert numbers(hit.result) == numbers(here.result)
            kills += len(killed)
        assert kills


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("chunks")
def test_local_processes_may_be_killed(tiny: Workload) -> None:
    options = {**OPTIONS, "seeds": 6}
    here = run(tiny, **options)
    with LocalExecutor(2) as executor:
        done = threading.Event()
        killed: list[int] = []

        def kill() -> None:
            while not done.wait(1.0) and len(killed) < 3:
                processes = list((getattr(executor._pool, "_processes", None) or {}).values())
                if processes:
                    os.kill(processes[0].pid, signal.SIGKILL)
                    killed.append(processes[0].pid)

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            there = run(tiny, executor=executor, **options)
        finally:
            done.set()
            thread.join()
    assert killed
    assert numbers(there.result) == numbers(here.result)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """A caller that is killed leaves no processes behind."""
    import subprocess
    import sys

    program = (
        "import os, time\nfrom coterie.executors import LocalExecutor\n"
        "if __name__ == '__main__':\n"
        "    executor = LocalExecutor(1)\n"
        "    print(executor.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    script = tmp_path / "caller.py"
    script.write_text(program)
    caller = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    worker = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    for _ in range(100):
        if not alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker went on")


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for is dead all the same."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# feature shards


def assert_same(one: PartFeatures, other: PartFeatures, tolerance: float | None = None) -> None:
    def check(a: torch.Tensor, b: torch.Tensor) -> None:
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if tolerance is None:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

    assert (one.part, one.tasks, one.heads, one.plan.mode) == (other.part, other.tasks, other.heads, other.plan.mode)
    for name in ("starts", "rows", "local", "targets"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("offset", "g"):
        check(getattr(one, name), getattr(other, name))
    for task in range(len(one.tasks)):
        check(one.head(task), other.head(task))


def sharded(work: Workload, **options: Any) -> PartFeatures:
    model = work.build_model(0)
    structure = find_structure(work, model)
    along = options.pop("directions", None) or RandomDirections.of(model, 6, seed=0, names=structure.trunk)
    context = Context(executor=options.pop("executor", None))
    folder, how = options.pop("folder", None), FeatureOptions(**options)
    with cut_into(8):
        return compute_shards(work, model.state_dict(), along, how, context, structure=structure, folder=folder)


@contextmanager
def cut_into(rows: int) -> Generator[None]:
    """Shards of so many rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "SHARD_ROWS", rows)
        yield


@pytest.fixture(scope="module", params=["mixed", "separate", "stacked"])
def problem(request: pytest.FixtureRequest) -> tuple[Workload, Directions | None]:
    """Linear heads of one layer, heads that are not linear, and directions that are held in memory."""
    work = make("mixed", missing=0.4, separate=request.param == "separate")
    if request.param != "stacked":
        return work, None
    model = work.build_model(0)
    trunk = find_structure(work, model).trunk
    named = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    return work, StackedDirections({n: torch.randn(3, *named[n].shape, generator=generator) for n in trunk})


def test_shards_are_the_features(problem, tmp_path: Path) -> None:
    work, along = problem
    model = work.build_model(0)
    structure = find_structure(work, model)
    directions = along or RandomDirections.of(model, 6, seed=0, names=structure.trunk)
    whole = compute_features(work, model, directions, structure=structure)
    one = sharded(work, directions=along)
    assert len(one.rows.unique()) > 16  # three shards at least
    assert_same(one, whole, tolerance=1e-5)
    assert_same(sharded(work, directions=along, executor=Inline()), one)
    assert_same(sharded(work, directions=along, executor=Inline(), folder=tmp_path / "shards"), one)
    for task in range(work.n_tasks):
        w = torch.randn(one.head_width(task), generator=torch.Generator().manual_seed(task))
        moves = one.head_apply(task, w), whole.head_apply(task, w)
        assert moves[0].keys() == moves[1].keys()
        for name, (rows, value) in moves[0].items():
            assert rows == moves[1][name][0]
            torch.testing.assert_close(value, moves[1][name][1])


def test_several_processes_write_shards_into_one_folder(
    tiny: Workload, tmp_path: Path, two_processes: LocalExecutor
) -> None:
    model = tiny.build_model(0)
    structure = find_structure(tiny, model)
    along = RandomDirections.of(model, 6, seed=0, names=structure.trunk)
    what = tiny, model.state_dict(), along, FeatureOptions()
    folder = tmp_path / "shards"
    with cut_into(32):
        one = compute_shards(*what, Context(), structure=structure)
        assert_same(compute_shards(*what, Context(executor=two_processes), structure=structure, folder=folder), one)
    found = sorted(folder.iterdir())
    assert len(found) == -(-len(tiny.split.train) // 32)
    assert all(path.suffix == ".safetensors" for path in found)
    drop_shards(folder)
    assert not folder.exists()


def test_shards_that_are_there_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make("binary")
    one = sharded(work, folder=tmp_path)
    calls: list[object] = []
    real = shards_module.compute_features
    monkeypatch.setattr(shards_module, "compute_features", lambda *a, **k: calls.append(a) or real(*a, **k))
    assert_same(sharded(work, folder=tmp_path), one)
    assert not calls
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])  # half a file, as another program might leave it
    assert_same(sharded(work, folder=tmp_path), one)
    assert len(calls) == 2
    sharded(work, folder=tmp_path, heads="none")  # other features have files of their own
    assert len(calls) > 4


def test_a_worker_that_does_not_see_the_folder_sends_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make("binary")
    one = sharded(work)
    real = shards_module.compute_shard

    def far(value: Any, shard: Any) -> Any:
        return real(value, replace(shard, folder=str(tmp_path / "elsewhere")))

    monkeypatch.setattr(shards_module, "compute_shard", far)
    assert_same(sharded(work, folder=tmp_path / "here"), one)
    assert list((tmp_path / "here").glob("*.safetensors"))


def test_features_can_be_stored_in_half_the_bytes(tmp_path: Path) -> None:
    one = sharded(make("binary"))
    half = sharded(make("binary"), dtype="float16", folder=tmp_path)
    assert half.matrix.stored.dtype == torch.float16
    torch.testing.assert_close(half.g, one.g, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_plan_of_shards_says_what_was_done(mode: str, dtype: str) -> None:
    work = make("mixed", separate=True)
    model = work.build_model(0)
    structure = find_structure(work, model)
    directions = RandomDirections.of(model, 6, seed=0, names=structure.trunk)
    whole = compute_features(work, model, directions, FeatureOptions(mode=mode, dtype=dtype), structure=structure).plan
    plan = sharded(work, mode=mode, dtype=dtype).plan
    assert (plan.mode, plan.way, plan.feature_bytes) == (whole.mode, whole.way, whole.feature_bytes)
    assert plan.reason.split(". ")[-1] == whole.reason.split(". ")[-1]


def test_a_shard_may_have_most_of_the_labels() -> None:
    """What fits in one piece fits in shards, wherever the labels are."""
    work = make("binary", rows=200)
    labels = work.labels.clone()
    labels[work.split.train[16:], 1:] = torch.nan
    work = replace(work, labels=labels)
    model = work.build_model(0)
    structure = find_structure(work, model)
    directions = RandomDirections.of(model, 400, seed=0, names=structure.trunk)
    options = FeatureOptions(heads="none", mode="reverse")
    plan = compute_features(work, model, directions, options, structure=structure).plan
    context = Context(memory=plan.feature_bytes + 12_000)
    whole = compute_features(work, model, directions, options, context, structure=structure)
    with cut_into(8):
        found = compute_shards(work, model.state_dict(), directions, options, context, structure=structure)
    assert_same(found, whole, tolerance=1e-5)


def test_shards_that_come_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder, too, the shards are not all held beside the table: each goes there as soon as it can."""
    events: list[str] = []

    def note(module: Any, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: events.append(name) or real(*a, **k))

    note(shard_files, "read")
    note(shards_module, "compute_features")
    sharded(make("binary"))
    assert len(events) > 6
    assert events == ["compute_features", "read"] * (len(events) // 2)


def test_few_rows_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    work = make("binary")
    model = work.build_model(0)
    structure = find_structure(work, model)
    along = RandomDirections.of(model, 6, seed=0, names=structure.trunk)
    monkeypatch.setattr(shards_module, "run_jobs", lambda *_, **__: pytest.fail("cut"))
    found = compute_shards(
        work, model.state_dict(), along, FeatureOptions(), Context(executor=Inline()), structure=structure
    )
    assert_same(found, compute_features(work, model, along, structure=structure))


def test_a_run_drops_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = load_digits(return_X_y=True)
    labels = (y[:200, None] == np.arange(3)).astype(float)
    work = from_arrays(x[:200], labels, recipe=Recipe(epochs=2, batch_size=50, check_every=2), hidden=(8,))
    monkeypatch.setattr(shards_module, "SHARD_ROWS", 32)
    made: list[Path] = []
    real = shard_files.write
    monkeypatch.setattr(shard_files, "write", lambda path, data: made.append(path) or real(path, data))
    run(work, method="task-vectors", groups=2, seeds=1, bases=1, out=tmp_path / "run", executor=Inline())
    assert made
    assert made[0].parent == tmp_path / "run" / "shards"
    assert not (tmp_path / "run" / "shards").exists()


def test_stores_say_where_shards_go(tmp_path: Path) -> None:
    assert folder_of(MemoryRun(), "shards") is None
    with RunDirectory(tmp_path, fingerprint="f", settings={}) as directory:
        assert folder_of(RecordingStore(directory), "shards") == tmp_path / "shards"
        (tmp_path / "shards").mkdir()
        kept, shard = tmp_path / "shards" / "notes.txt", tmp_path / "shards" / f"{'a' * 64}-00000.safetensors"
        kept.touch()
        shard.touch()
    with RunDirectory(tmp_path, fingerprint="f", settings={}, overwrite=True):
        assert kept.exists()
        assert not shard.exists()


# the command line


def test_options_exclude_each_other() -> None:
    found = CliRunner().invoke(app, ["run", "digits", "--workers", "2", "--dask", "tcp://localhost:1"])
    assert found.exit_code == 1
    assert "exclude each other" in " ".join(found.output.split())


def test_where_sets_one_thread_and_gives_it_back() -> None:
    from coterie.cli.workers import where

    torch.set_num_threads(2)
    with where(None, None) as executor:
        assert (executor, torch.get_num_threads()) == (None, 2)
    with where(1, None) as executor:
        assert (executor, torch.get_num_threads()) == (None, 1)
    with where(3, None) as executor:
        assert isinstance(executor, LocalExecutor)
        assert executor.workers == 3
    assert torch.get_num_threads() == 2
    with pytest.raises(SettingError), where(2, "tcp://localhost:1"):
        pass


def test_a_scheduler_that_is_not_there_is_an_error() -> None:
    pytest.importorskip("distributed")
    import dask

    from coterie.cli.workers import where

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(WorkerError, match=r"No Dask scheduler.*dask scheduler"),
        where(None, "tcp://127.0.0.1:9"),
    ):
        pass


@pytest.mark.slow
def test_the_command_line_gives_the_same_with_any_number_of_workers(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\nfrom sklearn.datasets import load_digits\n"
        "from coterie.workload import Recipe, from_arrays\n"
        "x, y = load_digits(return_X_y=True)\nlabels = (y[:300, None] == np.arange(4)).astype(float)\n"
        "workload = from_arrays(x[:300], labels, recipe=Recipe(epochs=2, batch_size=50, check_every=3), hidden=(8,))\n"
    )
    found: list[dict[str, Any]] = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        done = CliRunner().invoke(
            app,
            ["run", str(file), "--groups", "2", "--seeds", "2", "--bases", "1", "--workers", workers, "-o", str(out)],
        )
        assert done.exit_code == 0, done.output
        found.append(json.loads((out / "result.json").read_text()))
    assert numbers(found[0]) == numbers(found[1])
