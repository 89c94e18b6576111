"""Benchmark data sets: built-in data split anew. Skipped where a data package is not installed."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from coterie import datasets
from coterie.datasets import benchmark_data as module
from coterie.datasets.benchmark_data import BENCHMARK_DATA, benchmark_data
from coterie.errors import SettingError, WorkloadError
from coterie.workload import Recipe, from_arrays, from_datasets, validate
from coterie.workload.fingerprint import fingerprint
from reference.made_once import PACKAGES, made_once

#: tasks, kind, training / validation / test rows, labels
SHAPES = {
    "yeast": (13, "binary", (600, 1617, 200), 2417 * 13),
    "water": (37, "regression", (423 * 37, 242 * 37, 40 * 37), 705 * 37),
    "chemicals": (45, "regression", (3000, 3000, 400), 72232),
    "mhc": (73, "regression", (5000, 5000, 400), 52800),
    "digits": (20, "binary", (300, 1297, 200), 1797 * 20),
    "mhc2": (50, "regression", (4000, 4000, 831), 58631),
}
PARTS = ("train", "validation", "test")
load = cache(datasets.load)


@pytest.fixture(scope="module")
def made():
    return made_once(lambda name: benchmark_data(name).make())


def raw(workload):
    """Labels in their own units."""
    scale = torch.tensor([task.scale for task in workload.tasks]).double()
    center = torch.tensor([task.center for task in workload.tasks]).double()
    return (workload.labels.double() * scale + center).numpy()


def test_unknown_names_are_refused():
    with pytest.raises(SettingError, match="Found 'iris'"):
        benchmark_data("iris")


def test_there_is_one_for_every_built_in_workload():
    assert set(BENCHMARK_DATA) == set(PACKAGES) - {"umls", "texts"}
    assert all(BENCHMARK_DATA[name].name == name for name in BENCHMARK_DATA)


@pytest.mark.parametrize("name", BENCHMARK_DATA)
def test_shapes(name, made):
    workload = made(name)
    tasks, kind, sizes, labels = SHAPES[name]
    assert workload.n_tasks == tasks
    assert {task.kind for task in workload.tasks} == {kind}
    assert tuple(len(workload.split.part(part)) for part in PARTS) == sizes
    assert int(workload.observed.sum()) == labels
    assert workload.name == name
    validate(workload)


@pytest.mark.parametrize("name", BENCHMARK_DATA)
def test_parts_are_disjoint_and_cover_all_rows(name, made):
    workload = made(name)
    rows = torch.cat([workload.split.part(part) for part in PARTS])
    assert torch.equal(rows.sort().values, torch.arange(len(workload.labels)))


@pytest.mark.parametrize("name", BENCHMARK_DATA)
def test_every_task_has_labels_to_measure_with(name, made):
    workload = made(name)
    for part in ("train", "validation"):
        assert int(workload.observed[workload.split.part(part)].sum(0).min()) >= 40


@pytest.mark.parametrize("name", BENCHMARK_DATA)
def test_subsets_have_several_tasks_and_never_all(name, made):
    assert all(2 <= size < made(name).n_tasks for size in benchmark_data(name).sizes)


@pytest.mark.parametrize("name", ["yeast", "water", "digits"])
def test_making_it_again_gives_the_same(name, made):
    first = made(name)
    assert fingerprint(benchmark_data(name).make()) == fingerprint(first)


def test_yeast_is_the_built_in_data_without_the_rare_class(made):
    workload = made("yeast")
    whole = load("yeast")
    assert list(workload.task_names) == [f"Class{number}" for number in range(1, 14)]
    np.testing.assert_array_equal(workload.labels.numpy(), whole.labels[:, :13].numpy())
    assert float(whole.labels[:, 13].mean()) < 0.02  # the rare one
    assert float(workload.labels.mean(0).min()) > 0.05


def test_yeast_has_the_inputs_of_the_built_in_data_standardised_on_other_rows(made):
    workload, whole = made("yeast"), load("yeast")
    ours = workload.inputs * workload.input_scale + workload.input_center
    np.testing.assert_allclose(ours, whole.inputs * whole.input_scale + whole.input_center, atol=1e-5)
    train = workload.inputs[workload.split.train]
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)


def test_water_trains_on_the_first_days_of_every_station(made):
    workload = made("water")
    for part in PARTS:
        days = [workload.rows_of([task], part) - 705 * task for task in range(37)]
        assert all(torch.equal(days[0], other) for other in days)
    assert torch.equal(days_of(workload, "train"), torch.arange(423))
    assert int(days_of(workload, "validation").min()) >= 423
    assert not torch.equal(days_of(workload, "test"), torch.arange(665, 705))  # drawn, not the last ones


def days_of(workload, part):
    return workload.rows_of([0], part)


ATTRIBUTES = {
    "even": lambda d: d % 2 == 0,
    "above 4": lambda d: d >= 5,
    "prime": lambda d: d > 1 and all(d % k for k in range(2, d)),
    "square": lambda d: round(d**0.5) ** 2 == d,
    "divisible by 3": lambda d: d % 3 == 0,
    "with a loop": lambda d: str(d) in "0689",
    "with a straight stroke": lambda d: str(d) in "1457",
    "round at the bottom": lambda d: str(d) in "03568",
    "1 to 3": lambda d: 1 <= d <= 3,
    "ends of the row": lambda d: min(d, 9 - d) <= 1,
}


def test_digits_ask_for_the_digit_and_ten_attributes_with_a_tenth_of_wrong_labels(made):
    workload, target = made("digits"), load_digits().target
    assert list(workload.task_names) == [f"is {digit}" for digit in range(10)] + list(ATTRIBUTES)
    right = np.array(
        [
            [digit == number for number in range(10)] + [bool(rule(digit)) for rule in ATTRIBUTES.values()]
            for digit in target.tolist()
        ]
    )
    wrong = workload.labels.numpy() != right
    # five standard deviations of the number of wrong labels, of all and of a task
    assert wrong.mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / wrong.size))
    np.testing.assert_allclose(wrong.mean(0), 0.1, atol=5 * np.sqrt(0.09 / len(wrong)))
    together = np.corrcoef(wrong.T)[~np.eye(20, dtype=bool)]
    assert np.abs(together).max() < 5 / np.sqrt(len(wrong))  # tasks err independently


def plain_informative(y, enough, scarce):
    """Rows that may be kept, and those that must come first, with plain loops."""
    labels = [[column for column, value in enumerate(row) if not np.isnan(value)] for row in y]
    many = [row for row, found in enumerate(labels) if len(found) >= enough]
    counts = [sum(column in labels[row] for row in many) for column in range(y.shape[1])]
    rare = {column for column, count in enumerate(counts) if count < scarce}
    first = [row for row, found in enumerate(labels) if rare & set(found)]
    return sorted(set(many) | set(first)), first, rare


def sparse_table():
    rng = np.random.default_rng(5)
    y = np.where(rng.random((900, 12)) < np.linspace(0.05, 0.7, 12), rng.normal(size=(900, 12)), np.nan)
    y[:40, 1:] = np.nan  # rows that only the first, scarce task knows
    y[:40, 0] = 1.0
    return y


@pytest.mark.parametrize("count", [200, 300, 400])
def test_informative_rows(count):
    y = sparse_table()
    allowed, first, rare = plain_informative(y, module.ENOUGH, module.SCARCE)
    assert 0 < len(rare) < 12
    kept = module._informative(y, count).tolist()
    assert len(kept) == count
    assert kept == sorted(set(kept))
    assert set(kept) <= set(allowed)
    # rows of scarce tasks go first: all of them, or nothing else
    assert set(first) <= set(kept) or set(kept) <= set(first)
    np.testing.assert_array_equal(module._informative(y, count), kept)


def test_all_informative_rows_where_there_are_no_more():
    y = sparse_table()
    allowed, _, _ = plain_informative(y, module.ENOUGH, module.SCARCE)
    assert len(allowed) < 900
    assert module._informative(y, 10_000).tolist() == allowed


def test_rows_that_are_left_out_at_random_depend_on_no_order_of_labels():
    """Which of the ordinary rows are used has nothing to do with their place: both halves have their share."""
    y = np.where(np.arange(12) < 6, 1.0, np.nan)[None].repeat(2000, 0)  # six tasks with all labels
    y[:300, 6:] = 0.0  # six more, not scarce
    kept = module._informative(y, 1000)
    assert 420 < int((kept < 1000).sum()) < 580


@pytest.mark.parametrize("name", ["chemicals", "mhc"])
def test_kept_rows_are_informative_and_have_their_inputs_and_labels(name, made):
    workload, whole = made(name), load(name)
    names = list(whole.task_names)
    labels = raw(whole)[:, [names.index(task) for task in workload.task_names]]
    rows = module._informative(labels, len(workload.labels))
    assert set(rows.tolist()) <= set(plain_informative(labels, module.ENOUGH, module.SCARCE)[0])
    inputs = [work.inputs * work.input_scale + work.input_center for work in (workload, whole)]
    np.testing.assert_allclose(inputs[0], inputs[1][rows], rtol=1e-4, atol=1e-4)
    spread = np.nanstd(labels, 0)
    np.testing.assert_allclose(raw(workload) / spread, labels[rows] / spread, rtol=1e-4, atol=1e-4)


def test_mhc_has_no_task_of_nearly_constant_labels(made):
    workload = made("mhc")
    left_out = set(load("mhc").task_names) - set(workload.task_names)
    assert len(left_out) == 1
    whole = load("mhc")
    spread = {name: float(np.nanstd(raw(whole)[:, task])) for task, name in enumerate(whole.task_names)}
    assert all((spread[name] <= module.NEARLY_CONSTANT) == (name in left_out) for name in spread)


def test_raw_gives_back_what_went_in():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 5, size=(50, 4)), rng.normal(-2, 7, size=(50, 2))
    y[3, 1] = np.nan
    workload = from_arrays(x, y, recipe=Recipe(epochs=1))
    again, labels, tasks = module._raw(workload)
    np.testing.assert_allclose(again, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(labels, y, rtol=1e-5, atol=1e-5)
    assert [task.name for task in tasks] == list(workload.task_names)
    assert all((task.center, task.scale) == (0.0, 1.0) for task in tasks)


def test_raw_needs_standardised_inputs():
    x = np.random.default_rng(0).normal(size=(50, 4))
    sets = {"a": (x, x[:, 0]), "b": (x, x[:, 1])}
    with pytest.raises(WorkloadError, match="no standardised inputs"):
        module._raw(from_datasets(sets, standardize=False))
