"""Jobs through executors: the same results bit for bit, lost workers, errors, what travels."""

from __future__ import annotations

import logging
import pickle
import warnings
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coterie import Context, _executor, _worker
from coterie._executor import Parcel, run_jobs
from coterie._units import Payload
from coterie.balancing import Balancing
from coterie.errors import CoterieError, ModelError, NumericsWarning, SettingError, WorkerError
from coterie.executors import LocalExecutor, SubmititExecutor
from coterie.store import MemoryRun, RunDirectory
from coterie.training import fit
from coterie.training.job import Fit, Job, pack_fits
from coterie.training.units import FitUnit, fit_units
from coterie.workload import Recipe, Workload, from_arrays, load_workload
from coterie.workload.fingerprint import fingerprint
from coterie.workload.travel import parcel
from reference import executors as jobs_of_tests
from reference.executors import Inline, lost
from reference.training_workloads import make

footprint_module = import_module("coterie.training.evaluate")

pytestmark = pytest.mark.filterwarnings("ignore:Models are trained one after the other")

JOBS = [Job((i % 4, (i + 1) % 4), i) for i in range(10)] + [Job((0, 2), 3, balancing="pcgrad"), Job((1, 3), 3)]


def loads(data: bytes) -> Any:
    """Our own bytes."""
    return pickle.loads(data)  # noqa: S301


class Held:
    """What a parcel opens to."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def open(self) -> Any:
        return self.value


def holding(value: Any) -> Parcel:
    return Parcel(value, [("pickled", lambda: pickle.dumps(Held(value)))], "Try something else")


def assert_same(one: list[Fit], other: list[Fit]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.job == b.job
        assert (a.steps, a.best_step, a.history) == (b.steps, b.best_step, b.history)
        np.testing.assert_array_equal(a.validation, b.validation)
        np.testing.assert_array_equal(a.test, b.test)
        assert a.state.keys() == b.state.keys()
        for name, value in a.state.items():
            assert value.dtype == b.state[name].dtype
            assert torch.equal(value, b.state[name]), name


@pytest.fixture(scope="module")
def work() -> Workload:
    return make("mixed", missing=0.2, epochs=3)


@pytest.fixture(scope="module")
def alone(work: Workload) -> list[Fit]:
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch)
        return fit(work, JOBS)


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


def small_chunks(patch: pytest.MonkeyPatch) -> None:
    """Four members a chunk, so that few jobs are several pieces."""
    patch.setattr(footprint_module.Footprint, "enough", property(lambda self: 4))


@pytest.mark.usefixtures("chunks")
def test_threads_give_the_same_bits(work, alone):
    with ThreadPoolExecutor(3) as executor:
        assert_same(fit(work, JOBS, context=Context(executor=executor)), alone)


@pytest.mark.usefixtures("chunks")
def test_processes_give_the_same_bits(work, alone, two_processes):
    """`executor` is a pool of two spawned processes."""
    done: list[tuple[int, int]] = []
    found = fit(work, JOBS, context=Context(executor=two_processes, progress=lambda stage, a, b: done.append((a, b))))
    assert_same(found, alone)
    assert done[-1] == (12, 12)
    assert [a for a, _ in done] == sorted(a for a, _ in done)
    assert len(done) == 4  # three chunks and the one that cannot be stacked


@pytest.mark.slow
@pytest.mark.usefixtures("chunks")
def test_a_plain_process_pool_does_as_well(work, alone):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert_same(fit(work, JOBS, context=Context(executor=executor)), alone)


def test_states_and_start_states_travel(work):
    (base,) = fit(work, [Job((0, 1, 2, 3), 0, max_steps=2, early_stopping=False)])
    jobs = [Job((task,), 0, start=base.state, max_steps=3, early_stopping=False, checks=False) for task in range(4)]
    assert_same(fit(work, jobs, context=Context(executor=Inline())), fit(work, jobs))
    assert not fit(work, jobs, context=Context(executor=Inline()), keep_states=False)[0].state


def test_chunks_do_not_depend_on_the_executor(work, monkeypatch):
    """A chunk is cut by jobs and memory alone: the same calls go out however many are under way at a time."""
    small_chunks(monkeypatch)
    wide, narrow = Inline(), Inline()
    fit(work, JOBS, context=Context(executor=wide))
    monkeypatch.setattr(_executor, "WINDOW", 1)
    fit(work, JOBS, context=Context(executor=narrow))
    assert [arguments[1] for arguments in wide.arguments] == [arguments[1] for arguments in narrow.arguments]


def test_a_warning_about_the_backend_is_the_same():
    work = make("regression", build=lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)))
    said: list[list[str]] = []
    for executor in (None, Inline()):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(work, [Job((0,), 0, max_steps=1), Job((1,), 0, max_steps=1)], context=Context(executor=executor))
        said.append([str(item.message) for item in caught])
    assert said[0] == said[1] != []


def test_an_error_of_a_job_is_raised_as_it_is(work):
    wild = replace(work, recipe=replace(work.recipe, learning_rate=1e30, optimizer="sgd"))
    with pytest.raises(ModelError, match=r"job 0.*'b'") as here:
        fit(wild, [Job((1,), 0), Job((1, 2), 0)])
    with pytest.raises(ModelError) as there:
        fit(wild, [Job((1,), 0), Job((1, 2), 0)], context=Context(executor=Inline()))
    assert str(here.value) == str(there.value)
    assert "On a worker" in there.value.__notes__[0]


@pytest.mark.parametrize("error", [SettingError("a setting"), KeyError("key"), OSError(2, "nothing")])
def test_errors_keep_their_kind(error):
    with pytest.raises(type(error)) as found:
        run_jobs(Inline(), jobs_of_tests.fail, [error], holding(0))
    assert found.value.args == error.args


def test_an_error_that_cannot_be_sent_says_the_same():
    with pytest.raises(CoterieError, match="Strange: odd things"):
        run_jobs(Inline(), jobs_of_tests.strange, [0], holding(0))


def test_results_are_in_order_and_progress_counts():
    told: list[tuple[str, int, int]] = []
    for executor in (None, Inline()):
        done = run_jobs(
            executor, jobs_of_tests.double, [1, 2, 3], holding(5), stage="s", progress=lambda *a: told.append(a)
        )
        assert [outcome.result for outcome in done] == [5, 10, 15]
    assert told == [("s", 1, 3), ("s", 2, 3), ("s", 3, 3)] * 2


def test_warnings_come_back():
    (outcome,) = run_jobs(Inline(), jobs_of_tests.warn, [7], holding(0))
    with pytest.warns(NumericsWarning, match="number 7"):
        _executor.reissue_warnings(outcome.warned)


@pytest.mark.slow
def test_a_worker_computes_with_the_threads_of_the_caller(two_processes):
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert run_jobs(two_processes, jobs_of_tests.threads, [0], holding(0))[0].result == count
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("error", lost(), ids=lambda error: type(error).__name__)
def test_a_lost_worker_is_replaced(error):
    executor = Inline(None, error, error)
    done = run_jobs(executor, jobs_of_tests.double, [1, 2, 3], holding(2))
    assert [outcome.result for outcome in done] == [2, 4, 6]
    assert executor.calls == 5
    tickets = [arguments[0] for arguments in executor.arguments]
    assert len(set(tickets)) == 5  # Dask would give the old outcome to a call that looks the same


def test_a_job_that_always_loses_its_worker_ends_the_run():
    error = lost()[0]
    with pytest.raises(WorkerError, match=r"Job 1 of 1 of 'things' lost its worker 3 times.*memory.*goes on") as found:
        run_jobs(Inline(*[error] * 9), jobs_of_tests.double, [1], holding(2), stage="things", retries=2)
    assert found.value.__cause__ is error


def test_a_job_that_ends_its_process_is_given_up_soon_and_the_first_loss_is_said(caplog):
    caplog.set_level(logging.WARNING, "coterie")
    executor = Inline(*[lost()[0]] * 9)
    with pytest.raises(WorkerError, match=r"lost its worker 3 times.*memory.*ends its process.*stderr"):
        run_jobs(executor, jobs_of_tests.double, [1], holding(2), stage="things")
    assert executor.calls == 3
    assert [record.getMessage() for record in caplog.records] == [
        "things: job 1 lost its worker (KilledWorker) and is sent again"
    ]


def test_an_error_of_the_executor_is_explained():
    with pytest.raises(WorkerError, match=r"could not run a job.*ModuleNotFoundError.*same versions"):
        run_jobs(Inline(ModuleNotFoundError("coterie")), jobs_of_tests.double, [1], holding(2))


def test_another_version_is_refused(monkeypatch):
    facts = _worker.facts()
    monkeypatch.setattr(_worker, "facts", lambda: {**facts, "versions": {"coterie": "9", "torch": "9"}})
    answer = _worker.work("", b"", b"", facts)
    assert "'coterie': '9'" in str(loads(answer)[1])


def test_a_process_that_dies_is_replaced(tmp_path, two_processes):
    done = run_jobs(two_processes, jobs_of_tests.die_once, list(range(6)), holding(str(tmp_path / "died")))
    assert (tmp_path / "died").exists()
    assert [outcome.result for outcome in done] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_plain_pool_that_broke_names_the_way_out():
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor,
        pytest.raises(WorkerError, match="LocalExecutor"),
    ):
        run_jobs(executor, jobs_of_tests.die, [0], holding(0))


def test_number_of_workers_is_checked():
    for wrong in (0, -1, 1.5, True, "two"):
        with pytest.raises(SettingError, match="workers"):
            LocalExecutor(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match="poll"):
        SubmititExecutor(object(), poll=0)


# what travels


def test_a_built_in_workload_travels_by_its_name():
    work = load_workload("digits")
    data = parcel(work).data
    assert len(data) < 50_000 < work.inputs.numel()  # pyright: ignore[reportAttributeAccessIssue]
    opened = loads(data).open()
    assert fingerprint(opened) == fingerprint(work)
    assert opened.reference == "digits"


def test_changes_travel_with_the_name():
    work = load_workload("digits")
    changed = replace(work, recipe=Recipe(epochs=1), split=replace(work.split, train=work.split.train[:50]))
    data = parcel(changed).data
    assert len(data) < 50_000
    opened = loads(data).open()
    assert fingerprint(opened) == fingerprint(changed)
    assert opened.recipe.epochs == 1


def test_another_workload_behind_the_name_is_found_out(tmp_path):
    file = tmp_path / "mine.py"
    text = (
        "import numpy as np\nfrom coterie.workload import from_arrays, Recipe\n"
        "x = np.random.default_rng(SEED).normal(size=(60, 5))\n"
        "workload = from_arrays(x, x[:, :2], recipe=Recipe(epochs=1))\n"
    )
    file.write_text(text.replace("SEED", "0"))
    work = load_workload(str(file))
    sent = parcel(work)
    first = sent.data
    file.write_text(text.replace("SEED", "1"))
    answer = loads(_worker.work("", b"", first, _worker.facts()))
    assert answer[0] == "unopened"
    assert "another workload here" in answer[1]
    done = fit(work, [Job((0,), 0)], context=Context(executor=Inline()))  # falls back on sending it whole
    assert_same(done, fit(work, [Job((0,), 0)]))
    assert sent.data is not first


def test_other_options_of_the_model_are_found_out(tmp_path):
    """Dropout leaves the initial parameters alone."""
    file = tmp_path / "model.py"
    file.write_text(
        "import numpy as np\nfrom torch import nn\nfrom coterie.workload import from_arrays\n"
        "x = np.random.default_rng(0).normal(size=(60, 5)).astype('float32')\n"
        "def build(seed):\n    return nn.Sequential(nn.Linear(5, 4), nn.Dropout(RATE), nn.Linear(4, 2))\n"
        "workload = from_arrays(x, x[:, :2], build_model=build)\n".replace("RATE", "0.5")
    )
    work = load_workload(str(file))
    data = parcel(work).data
    file.write_text(file.read_text().replace("0.5", "0.1"))
    assert fingerprint(load_workload(str(file))) != fingerprint(work)
    assert loads(_worker.work("", b"", data, _worker.facts()))[0] == "unopened"


def test_only_the_rows_that_are_used_travel(work):
    """A tensor that is a view of a larger one would bring all of it."""
    large = torch.randn(100_000, 5)
    small = replace(work, inputs=large[: len(work.labels)], name="view", reference=None)
    assert len(parcel(small).data) < 100_000


def test_a_model_that_cannot_be_pickled_names_the_way_out(work, monkeypatch):
    monkeypatch.setattr("coterie.workload.travel.find_spec", lambda name: None)  # as without cloudpickle
    local = replace(work, build_model=lambda seed: work.build_model(seed))
    with pytest.raises(WorkerError, match=r"cannot be sent.*file.py:name.*lambda.*cloudpickle"):
        fit(local, [Job((0,), 0), Job((1,), 0)], context=Context(executor=Inline()))


def test_cloudpickle_carries_a_lambda(work):
    pytest.importorskip("cloudpickle")
    local = replace(work, build_model=lambda seed: work.build_model(seed))
    assert_same(fit(local, JOBS[:3], context=Context(executor=Inline())), fit(work, JOBS[:3]))


def test_an_opened_parcel_is_kept():
    opened: list[int] = []

    class Counted(Held):
        def open(self) -> Any:
            opened.append(1)
            return self.value

    pytest.importorskip("cloudpickle")
    import cloudpickle

    sent = Parcel(1, [("pickled", lambda: cloudpickle.dumps(Counted(3)))], "")
    done = run_jobs(Inline(), jobs_of_tests.double, [1, 2], sent)
    assert [outcome.result for outcome in done] == [3, 6]


# units of a store


def unit_payloads(
    work: Workload, store: Any, executor: Executor | None, told: list[Any] | None = None
) -> list[Payload]:
    units = [FitUnit({"n": n}, [Job((0, 1), 5 * n + i) for i in range(5)]) for n in range(4)]
    context = Context(store=store, executor=executor, progress=lambda *a: None if told is None else told.append(a))
    return fit_units(work, "test", units, pack_fits, context, stage="stage")


def assert_same_payloads(one: list[Payload], other: list[Payload]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.arrays.keys() == b.arrays.keys()
        for name, value in a.arrays.items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(b.arrays[name]))
        assert {k: v for k, v in a.meta.items() if k != "seconds"} == {
            k: v for k, v in b.meta.items() if k != "seconds"
        }
        assert a.meta["seconds"] > 0


@pytest.mark.usefixtures("chunks")
def test_units_are_the_same_and_in_order(work):
    told: list[Any] = []
    assert_same_payloads(unit_payloads(work, MemoryRun(), Inline(), told), unit_payloads(work, MemoryRun(), None))
    assert told[-1] == ("stage", 20, 20)


@pytest.mark.usefixtures("chunks")
def test_a_killed_caller_keeps_the_finished_units(work, tmp_path):
    whole = unit_payloads(work, MemoryRun(), None)
    with RunDirectory(tmp_path, fingerprint="f", settings={}) as run, pytest.raises(KeyboardInterrupt):
        # two chunks a unit; the fifth call is interrupted: two units are whole
        unit_payloads(work, run, Inline(*[None] * 4, KeyboardInterrupt()))
    assert len(list((tmp_path / "units").glob("*.json"))) == 2
    executor = Inline()
    with RunDirectory(tmp_path, fingerprint="f", settings={}) as run:
        resumed = unit_payloads(work, run, executor)
    assert_same_payloads(resumed, whole)
    assert executor.calls == 4


def test_a_balancing_travels(work):
    jobs = [Job((0, 1, 3), seed, balancing=Balancing("famo")) for seed in range(2)]
    assert_same(fit(work, jobs, context=Context(executor=Inline())), fit(work, jobs))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_workload_on_a_gpu_travels_through_the_cpu(work):
    moved = work.to("cuda")
    done = fit(moved, JOBS[:3], context=Context(executor=Inline()))
    assert_same(done, fit(moved, JOBS[:3]))
    assert all(value.is_cuda for value in done[0].state.values())


@pytest.mark.slow
def test_submitit_runs_jobs_as_processes(tmp_path: Path):
    submitit = pytest.importorskip("submitit")
    x = np.random.default_rng(0).normal(size=(60, 4))
    work = from_arrays(x, x[:, :2], recipe=Recipe(epochs=1))
    jobs = [Job((0, 1), 0), Job((0,), 1)]
    inner = submitit.AutoExecutor(folder=str(tmp_path), cluster="local")
    inner.update_parameters(timeout_min=2)
    with SubmititExecutor(inner, poll=0.1) as executor:
        assert_same(fit(work, jobs, context=Context(executor=executor)), fit(work, jobs))


def test_from_arrays_needs_no_cloudpickle(monkeypatch):
    monkeypatch.setattr("coterie.workload.travel.find_spec", lambda name: None)
    x = np.random.default_rng(0).normal(size=(60, 4))
    work = from_arrays(x, (x[:, :2] > 0).astype(float), recipe=Recipe(epochs=1))
    assert_same(fit(work, [Job((0, 1), 0)], context=Context(executor=Inline())), fit(work, [Job((0, 1), 0)]))


# what went wrong once


def test_a_file_that_has_changed_is_run_again(tmp_path):
    """A worker that lives on must not train the model that it imported earlier."""
    file = tmp_path / "changed.py"
    text = (
        "import numpy as np\nfrom torch import nn\nfrom coterie.workload import from_arrays\n"
        "x = np.random.default_rng(0).normal(size=(60, 5)).astype('float32')\n"
        "def build(seed):\n    return nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))\n"
        "workload = from_arrays(x, x[:, :2], build_model=build)\n"
    )
    for width in ("4", "7"):
        file.write_text(text.replace("WIDTH", width))
        opened = loads(parcel(load_workload(str(file))).data).open()
        assert opened.build_model(0)[0].out_features == int(width)


def test_other_code_of_a_pickled_model_is_found_out(work, monkeypatch):
    data = parcel(replace(work, reference=None)).data
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * nn.functional.linear(x, self.weight, self.bias))
    answer = loads(_worker.work("", b"", data, _worker.facts()))
    assert answer[0] == "unopened"
    assert "another one here" in answer[1]


def test_results_are_handed_over_and_let_go():
    seen: list[Any] = []
    for executor in (None, Inline()):
        kept = run_jobs(executor, jobs_of_tests.double, [1, 2], holding(5), done=lambda _, one: seen.append(one.result))
        assert [one.result for one in kept] == [None, None]
    assert seen == [5, 10, 5, 10]


def test_what_ended_beside_an_error_is_kept():
    seen: list[int] = []
    with pytest.raises(ValueError, match="no 1"):
        run_jobs(Inline(), jobs_of_tests.fail_at_one, [1, 2], holding(0), done=lambda number, _: seen.append(number))
    assert seen == [1]


def test_a_parcel_can_be_tried_again():
    sent = holding(3)
    sent.refused(sent.data, "not seen")
    with pytest.raises(WorkerError, match="not seen"):
        _ = sent.data
    assert loads(sent.data).open() == 3


def test_waiting_jobs_are_not_lost_with_a_process():
    executor = LocalExecutor(3)
    assert executor.window == 6
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(int)


def test_a_broken_slurm_job_does_not_stop_the_others():
    class Broken:
        def done(self) -> bool:
            return True

        def exception(self) -> None:
            return None

        def result(self) -> None:
            raise EOFError("half a pickle")

    class Cluster:
        def submit(self, *_: Any) -> Broken:
            return Broken()

    with SubmititExecutor(Cluster(), poll=0.01) as executor:
        for _ in range(2):
            with pytest.raises(_executor.LostWorkerError, match="half a pickle"):
                executor.submit(int).result(timeout=10)
