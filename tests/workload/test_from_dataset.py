# ruff: noqa: NPY002, S301 - random numbers of data sets are drawn as their authors do, workloads travel pickled
"""Data sets, streams and loaders as workloads, held against the same data as arrays."""

import pickle
import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

import coterie
from coterie.errors import DataWarning, SettingError, WorkloadError
from coterie.training import fit
from coterie.training.job import Job
from coterie.workload import fingerprint, from_dataset, from_loaders
from coterie.workload.lazy.inputs import training_step
from coterie.workload.travel import parcel

ROWS = 80
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(ROWS, 4, generator=GENERATOR)
Y = torch.stack([(X[:, 0] > 0).float(), (X[:, 1] + X[:, 2] > 0).float(), 3 * X[:, 3] + 1], 1)
Y[::7, 1] = torch.nan
NAMES = ("a", "b", "c")
RECIPE = coterie.Recipe(epochs=3, batch_size=16)


class Items(Dataset):
    """Items made by a function of their number."""

    def __init__(self, item, rows=ROWS):
        self.item, self.rows = item, rows

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        return self.item(row)


class Stream(IterableDataset):
    def __init__(self, item, rows=ROWS):
        self.item, self.rows = item, rows

    def __iter__(self):
        return (self.item(row) for row in range(self.rows))


def pair(row):
    return X[row], Y[row]


def named(row):
    """A mapping as Hugging Face data sets give it, without the labels that are missing."""
    labels = {name: float(Y[row, task]) for task, name in enumerate(NAMES) if not torch.isnan(Y[row, task])}
    return {"features": X[row].tolist(), "labels": labels}


def columns(row):
    """A column a task, None where a label is missing."""
    labels = {name: None if torch.isnan(Y[row, task]) else float(Y[row, task]) for task, name in enumerate(NAMES)}
    return {"x": X[row].numpy(), **labels}


def noisy(row):
    """Augmented with the random numbers of torch, NumPy and Python."""
    return X[row] + torch.randn(4) + np.random.normal() + random.gauss(), Y[row]


def double_crop(items):
    """A collate of a user's own."""
    return torch.stack([x for x, _ in items])[:, :3], torch.stack([y for _, y in items])


def reference(**options):
    return coterie.from_arrays(X, Y, tasks=list(NAMES), recipe=RECIPE, standardize=False, **options)


def same(work, expected, backend="auto"):
    jobs = [Job((0, 1, 2), seed=1), Job((1,), seed=2)]
    for found, other in zip(fit(work, jobs, backend=backend), fit(expected, jobs, backend=backend), strict=True):
        assert np.array_equal(found.validation, other.validation, equal_nan=True)
        assert np.array_equal(found.test, other.test, equal_nan=True)
        assert all(torch.equal(value, other.state[name]) for name, value in found.state.items())


@pytest.mark.parametrize(
    "dataset",
    [TensorDataset(X, Y), Items(pair), Items(named), Items(columns), Stream(pair), Stream(named)],
    ids=["tensors", "pairs", "named", "columns", "stream", "named stream"],
)
@pytest.mark.parametrize("backend", ["loop", "population"])
def test_trainings_are_those_of_the_arrays(dataset, backend):
    work = from_dataset(dataset, tasks=list(NAMES), recipe=RECIPE, standardize=False)
    expected = reference()
    assert torch.equal(work.observed, expected.observed)
    assert torch.equal(work.batch(torch.tensor([[5, 3], [3, 0]])), X[torch.tensor([[5, 3], [3, 0]])])
    same(work, expected, backend)


def test_names_and_kinds_come_from_the_labels():
    work = from_dataset(Items(named))  # the first row has no label of b
    assert [(task.name, task.kind) for task in work.tasks] == [("a", "binary"), ("c", "regression"), ("b", "binary")]
    assert work.tasks[1].scale == pytest.approx(float(Y[work.split.train, 2].std(correction=0)), rel=1e-5)
    picked = from_dataset(Items(columns), inputs="x", labels=["c", "a"])
    assert picked.task_names == ("c", "a")
    listed = from_dataset(Items(pair))
    assert listed.task_names == ("task 0", "task 1", "task 2")


def test_a_data_set_a_task():
    parts = {
        "low": Items(lambda row: (X[row], Y[row, 0]), 40),
        "high": Stream(lambda row: (X[row + 40], Y[row + 40, 2]), 40),
    }
    expected = coterie.from_datasets(
        {"low": (X[:40], Y[:40, 0]), "high": (X[40:], Y[40:, 2])}, recipe=RECIPE, standardize=False
    )
    work = from_dataset(parts, recipe=RECIPE, standardize=False)
    assert work.task_names == ("low", "high")
    assert torch.equal(work.split.test, expected.split.test)
    jobs = [Job((0, 1), seed=1)]
    assert np.array_equal(fit(work, jobs)[0].validation, fit(expected, jobs)[0].validation)


def test_parts_of_their_own_and_labels_apart():
    split = {"train": range(50), "validation": range(50, 65), "test": range(65, 80)}
    sets = {part: Subset(TensorDataset(X, Y), list(rows)) for part, rows in split.items()}
    expected = reference(split={part: list(rows) for part, rows in split.items()})
    same(from_dataset(sets, tasks=list(NAMES), recipe=RECIPE, standardize=False), expected)
    apart = from_dataset(
        Items(lambda row: X[row], 50), validation=Items(lambda row: X[row + 50], 15),
        test=Items(lambda row: X[row + 65], 15), labels=Y, tasks=list(NAMES), recipe=RECIPE, standardize=False,
    )  # fmt: skip
    same(apart, expected)


def test_loaders_keep_their_collate_workers_and_batch_size():
    loader = DataLoader(TensorDataset(X, Y), batch_size=20, shuffle=True, collate_fn=double_crop, num_workers=2)
    work = from_loaders(loader, tasks=list(NAMES), recipe={"epochs": 3}, standardize=False)
    assert work.recipe.batch_size == 20
    assert torch.equal(work.batch(torch.tensor([9, 2, 9])), X[[9, 2, 9], :3])
    crop = coterie.from_arrays(
        X[:, :3], Y, tasks=list(NAMES), recipe={"epochs": 3, "batch_size": 20}, standardize=False
    )
    same(work, crop)
    streamed = from_loaders(DataLoader(Stream(pair), batch_size=7), tasks=list(NAMES), recipe=RECIPE, standardize=False)
    same(streamed, reference())
    batches = [
        {"x": X[rows], "a": Y[rows, 0], "b": Y[rows, 1], "c": Y[rows, 2]} for rows in torch.arange(ROWS).split(9)
    ]
    same(from_loaders(batches, tasks=list(NAMES), recipe=RECIPE, standardize=False), reference())


@pytest.mark.filterwarnings("ignore::coterie.errors.DataWarning")
def test_augmentation_is_drawn_anew_at_each_step_and_the_same_for_the_same_training():
    work = from_dataset(Items(noisy), tasks=list(NAMES), recipe=RECIPE)
    rows = torch.tensor([4, 1])
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    still = work.batch(rows)
    with training_step(1, 5):
        first, again = work.batch(rows), work.batch(rows.flip(0)).flip(0)
    with training_step(1, 6):
        other = work.batch(rows)
    assert torch.equal(still, work.batch(rows))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    assert not torch.isclose(first, still).any()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])
    parallel = from_dataset(Items(noisy), tasks=list(NAMES), recipe=RECIPE, workers=2)
    assert fingerprint(parallel) == fingerprint(work)
    with training_step(1, 5):
        assert torch.equal(parallel.batch(rows), first)
    with pytest.warns(coterie.errors.FallbackWarning, match="augmented anew"):
        same(parallel, work)


def test_augmented_rows_that_judge_are_named():
    with pytest.warns(DataWarning, match="validation=..., test=..."):
        from_dataset(Items(noisy), tasks=list(NAMES))
    plain = {"validation": Items(pair), "test": Items(pair)}
    work = from_dataset(Items(noisy), tasks=list(NAMES), **plain)
    assert work.inputs.random
    assert torch.equal(work.batch(torch.tensor([ROWS])), X[:1])


@pytest.mark.filterwarnings("ignore:Parameter `dataset`. its rows are augmented")
@pytest.mark.parametrize("kind", [Items, Stream])
def test_what_cannot_be_seeded_is_named(kind):
    own = np.random.default_rng()
    with pytest.warns(DataWarning, match="cannot be seeded"):
        from_dataset(kind(lambda row: (X[row] + own.normal(), Y[row])), tasks=list(NAMES))


def test_fingerprint_and_travel():
    work, again = (from_dataset(TensorDataset(X, Y), tasks=list(NAMES), recipe=RECIPE) for _ in range(2))
    moved = X.clone()
    moved[7, 2] += 1e-3
    assert fingerprint(work) == fingerprint(again)
    assert fingerprint(work) != fingerprint(from_dataset(TensorDataset(moved, Y), tasks=list(NAMES), recipe=RECIPE))
    apart = from_dataset(TensorDataset(X, Y), tasks=list(NAMES), recipe=RECIPE, labels=Y)
    assert fingerprint(apart) == fingerprint(work)
    opened = pickle.loads(parcel(work).data).open()
    same(opened, work)
    stream = from_dataset(Stream(pair), tasks=list(NAMES), recipe=RECIPE)
    assert torch.equal(pickle.loads(pickle.dumps(stream.inputs)).take(torch.tensor([3, 1])), X[[3, 1]])
    assert "a row, read when needed" in repr(stream)


def test_files_of_a_stream_go_with_it():
    work = from_dataset(Stream(pair), tasks=list(NAMES))
    folder = work.inputs.files[""].parent
    assert folder.is_dir()
    del work
    assert not folder.exists()


def test_estimates_are_those_of_the_arrays():
    work = from_dataset(TensorDataset(X, Y), tasks=list(NAMES), recipe=RECIPE, standardize=False)
    found, expected = (coterie.estimate_affinity(one, method="tag")[0] for one in (work, reference()))
    assert np.array_equal(found.values, expected.values)


class Endless(Dataset):
    def __getitem__(self, row):
        return pair(row % ROWS)


def used_up():
    items = (pair(row) for row in range(ROWS))
    list(items)
    return items


def mixed_up(items):
    x, y = double_crop(items)
    share = torch.rand(1)
    return share * x + (1 - share) * x.flip(0), share * y + (1 - share) * y.flip(0)


BAD = {
    "a data set without length": (lambda: from_dataset(Endless()), "has no length.*`__len__`"),
    "a loader without length": (lambda: from_loaders(DataLoader(Endless(), sampler=range(9))), "has no length"),
    "no iterable": (lambda: from_dataset(3), "`__getitem__` and `__len__`"),
    "no loader": (lambda: from_loaders(3), "should be a DataLoader"),
    "a loader as data set": (lambda: from_dataset(DataLoader(Items(pair))), "from_loaders"),
    "an empty data set": (lambda: from_dataset(Items(pair, 0)), "is empty"),
    "an empty stream": (lambda: from_dataset(Stream(pair, 0)), "gives no rows"),
    "a stream that was read": (lambda: from_dataset(used_up()), "read already"),
    "items without labels": (lambda: from_dataset(Items(lambda row: X[row])), "drops the labels"),
    "triples": (lambda: from_dataset(Items(lambda row: (X[row], Y[row], row))), "tuple of 3 parts"),
    "a collate without labels": (
        lambda: from_loaders(DataLoader(Items(pair), collate_fn=lambda items: torch.stack([x for x, _ in items]))),
        "drops the labels",
    ),
    "a collate without labels among names": (
        lambda: from_dataset(Items(pair), collate=lambda items: {"x": torch.stack([x for x, _ in items])}),
        "no labels in an item",
    ),
    "a collate that loses rows": (
        lambda: from_dataset(Items(pair), collate=lambda items: double_crop(items[:-1])), "one row an item",
    ),
    "labels that are mixed": (lambda: from_dataset(Items(pair), collate=mixed_up), "mixup"),
    "labels of another task": (lambda: from_dataset(Items(named), tasks=["a", "b"]), "'c', which is not among `tasks`"),
    "too many labels": (lambda: from_dataset(Items(pair), tasks=["a", "b"]), "should be 2 numbers"),
    "labels that change": (lambda: from_dataset(Items(lambda row: (X[row], Y[row, : 1 + row % 2]))), "have one shape"),
    "one-hot labels of a task": (lambda: from_dataset({"a": Items(pair), "b": Items(pair)}), "'a' alone"),
    "one-hot by name": (lambda: from_dataset(Items(lambda row: (X[row], {"a": Y[row]}))), "should be one number"),
    "two forms": (lambda: from_dataset(Items(lambda row: (X[row], {"a": 1.0} if row else 1.0))), "in one form"),
    "texts as labels": (lambda: from_dataset(Items(lambda row: (X[row], "cat"))), "numbered from 0"),
    "texts as inputs": (lambda: from_dataset(Items(lambda row: ("cat", Y[row]))), "tokenise"),
    "no labels at all": (lambda: from_dataset(Items(lambda row: (X[row], None)), tasks=["a"]), "has no labels"),
    "inputs of changing size": (lambda: from_dataset(Items(lambda row: (X[row, : 2 + row % 2], Y[row]))), "one size"),
    "stream of changing size": (
        lambda: from_loaders([(X[:9], Y[:9]), (X[9:, :2], Y[9:])]), "from row 9 on",
    ),
    "data sets of different size": (
        lambda: from_dataset({"a": Items(lambda r: (X[r], Y[r, 0])), "b": Items(lambda r: (X[r, :2], Y[r, 2]))}),
        "same names and sizes",
    ),
    "infinite": (lambda: from_dataset(Items(lambda row: (X[row] / abs(row - 3), Y[row]))), "row 3 are NaN or inf"),
    "no such inputs": (lambda: from_dataset(Items(columns), inputs="image", labels=["a"]), r"inputs \['image'\]"),
    "labels that are not there": (lambda: from_dataset(Items(columns), labels="target"), "no labels in an item"),
    "a short table": (lambda: from_dataset(Items(pair), labels=Y[:9]), "one row for each of the 80 rows"),
    "a length that is too long": (lambda: from_dataset(Items(pair, 99)), "item 80 cannot be read"),
    "no data sets": (lambda: from_dataset({}), "empty mapping"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore::coterie.errors.DataWarning")
def test_bad_data(case):
    make, message = BAD[case]
    with pytest.raises(WorkloadError, match=re.compile(message)) as caught:
        make()
    assert len(str(caught.value)) < 700


def test_bad_settings():
    with pytest.raises(SettingError, match="go together"):
        from_dataset(Items(pair), validation=Items(pair))
    with pytest.raises(SettingError, match="`collate`"):
        from_dataset(Items(pair), collate=3)
    with pytest.raises(SettingError, match="`inputs`"):
        from_dataset(Items(pair), inputs=3)
    with pytest.warns(DataWarning, match="WeightedRandomSampler"):
        from_loaders(
            DataLoader(TensorDataset(X, Y), sampler=WeightedRandomSampler([1.0] * ROWS, ROWS)), tasks=list(NAMES)
        )


def test_methods_that_need_all_inputs_say_so():
    work = from_dataset(TensorDataset(X, Y), tasks=list(NAMES), recipe=RECIPE)
    for method in ("label-injection", "attribution"):
        with pytest.raises(WorkloadError, match="all inputs in memory"):
            coterie.estimate_affinity(work, method=method)


class Pictures(nn.Module):
    """Reads one of two named inputs."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, image, number):
        return self.head(torch.relu(self.body(image.float() + 0 * number[:, None])))


def test_several_inputs_by_name():
    work = from_dataset(
        Items(lambda row: {"image": X[row].numpy(), "number": row, "label": Y[row], "other": "x"}),
        inputs=["image", "number"], tasks=list(NAMES), build_model=Pictures, recipe=RECIPE, standardize=False,
    )  # fmt: skip
    expected = coterie.from_arrays(
        {"image": X, "number": torch.arange(ROWS)}, Y, tasks=list(NAMES), build_model=Pictures, recipe=RECIPE,
        standardize=False,
    )  # fmt: skip
    same(work, expected)
