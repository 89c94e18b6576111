import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coterie.errors import DataWarning, SettingError
from coterie.workload import Recipe, Split, Task, from_arrays, from_datasets, validate
from coterie.workload.fingerprint import fingerprint
from coterie.workload.mlp import Mlp, build_from_spec
from coterie.workload.split import make_split

rng = np.random.default_rng(1)
X = rng.normal(loc=3.0, scale=5.0, size=(80, 6))
Y = np.stack([X[:, 0] > 3, 10 + 4 * X[:, 1], rng.integers(0, 3, 80)], axis=1).astype(float)


def build(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return from_arrays(X, Y, **options)


def test_kinds_units_and_columns():
    workload = build(seed=3)
    assert [task.kind for task in workload.tasks] == ["binary", "regression", "multiclass"]
    assert [c.stop for c in workload.columns] == [1, 2, 5]
    train = workload.split.train
    column = torch.tensor(Y[:, 1])[train]
    assert workload.tasks[1].center == pytest.approx(float(column.mean()))
    assert workload.tasks[1].scale == pytest.approx(float(column.std(correction=0)))
    raw = workload.labels[:, 1] * workload.tasks[1].scale + workload.tasks[1].center
    np.testing.assert_allclose(raw, Y[:, 1], rtol=1e-5)
    np.testing.assert_array_equal(workload.labels[:, [0, 2]], Y[:, [0, 2]])
    np.testing.assert_allclose(workload.inputs[train].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(workload.inputs[train].std(0, correction=0), 1, atol=1e-5)
    np.testing.assert_allclose(workload.inputs * workload.input_scale + workload.input_center, X, rtol=1e-4, atol=1e-4)
    validate(workload)


def test_without_standardising_the_numbers_stay():
    workload = build(standardize=False)
    np.testing.assert_allclose(workload.inputs, X.astype(np.float32))
    np.testing.assert_allclose(workload.labels, Y.astype(np.float32))
    assert workload.input_center is None
    assert workload.tasks[1].scale == 1


def test_own_units_of_a_task_are_kept():
    workload = build(tasks=["a", Task("b", "regression", center=1.0, scale=2.0), "c"])
    np.testing.assert_allclose(workload.labels[:, 1], (Y[:, 1] - 1) / 2, rtol=1e-5)


def test_frames_name_the_tasks_and_missing_labels_stay_missing():
    frame = pd.DataFrame({"tox": pd.array([1, 0, None] * 10, dtype="Int64"), "logP": np.linspace(0, 1, 30)})
    x = pd.DataFrame(rng.normal(size=(30, 2))).assign(flag=[True, False, True] * 10)
    workload = from_arrays(x, frame)
    assert workload.task_names == ("tox", "logP")
    assert [task.kind for task in workload.tasks] == ["binary", "regression"]
    assert int((~workload.observed).sum()) == 10
    assert workload.inputs.dtype == torch.float32
    validate(workload)


def test_mapping_of_columns_and_of_kinds():
    workload = from_arrays(X, {"u": Y[:, 0], "v": Y[:, 1]}, tasks={"v": "regression", "u": "binary"})
    assert [(task.name, task.kind) for task in workload.tasks] == [("u", "binary"), ("v", "regression")]


def test_constant_columns_are_kept_with_scale_1():
    x = X.copy()
    x[:, 2] = 1e6
    workload = from_arrays(x, Y[:, :2])
    assert float(workload.input_scale[2]) == 1
    assert float(workload.inputs[:, 2].abs().max()) == 0


def test_images_are_scaled_as_a_whole():
    images = torch.rand(40, 3, 4, 4)
    images[:, 0, 0, 0] = 0  # a constant pixel stays on the common scale
    workload = from_arrays(images, images.flatten(1)[:, 5:8])
    assert workload.input_center.shape == (1, 1, 1)
    np.testing.assert_allclose(
        workload.inputs * workload.input_scale + workload.input_center, images, rtol=1e-4, atol=1e-5
    )
    validate(workload)


def test_whole_numbers_reach_an_own_model_as_they_are():
    tokens = rng.integers(0, 9, (40, 5))
    labels = np.stack([tokens[:, 0] > 4, tokens[:, 1] > 4], 1)
    workload = from_arrays(tokens, labels, model=nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(15, 2)))
    assert workload.inputs.dtype == torch.int64
    assert workload.input_center is None
    validate(workload)
    assert from_arrays(tokens, labels).inputs.dtype == torch.float32


def test_mapping_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(2, 2), nn.Linear(4, 2)

        def forward(self, left, right):
            return self.left(left) + self.right(right)

    workload = from_arrays({"left": X[:, :2], "right": X[:, 2:]}, Y[:, :2], build_model=Two)
    validate(workload)
    assert set(workload.batch(torch.arange(3))) == {"left", "right"}


def test_forward_picks_the_output():
    class Wrapped(Mlp):
        def forward(self, x):
            return {"logits": super().forward(x), "aux": x}

    workload = from_arrays(
        X, Y[:, :2], build_model=lambda: Wrapped(6, [4], 2), forward=lambda model, batch: model(batch)["logits"]
    )
    validate(workload)


def test_built_in_model_can_be_rebuilt_from_its_description():
    workload = build(hidden=(5,))
    again = build_from_spec(workload.model_spec)
    for name, value in workload.build_model(4).state_dict().items():
        assert torch.equal(value, again(4).state_dict()[name])
    assert pickle.loads(pickle.dumps(workload.build_model))(4).head.out_features == 5  # noqa: S301
    with pytest.raises(SettingError, match="kind 'mlp'"):
        build_from_spec({"kind": "resnet"})
    with pytest.raises(SettingError, match="hidden"):
        build_from_spec({"kind": "mlp", "n_inputs": 3, "n_outputs": 1})


def test_from_datasets_puts_blocks_one_below_the_other():
    sets = {name: (X[:20] + shift, Y[:20, 1] + shift) for shift, name in enumerate("abc")}
    workload = from_datasets(sets, standardize=False, split=(0.5, 0.25, 0.25))
    expected = torch.zeros(60, 3, dtype=torch.bool)
    for task in range(3):
        expected[20 * task : 20 * (task + 1), task] = True
    assert torch.equal(workload.observed, expected)
    np.testing.assert_allclose(workload.inputs[40:], X[:20] + 2, rtol=1e-6)
    np.testing.assert_allclose(workload.labels[40:, 2], Y[:20, 1] + 2, rtol=1e-6)
    for part, size in (("train", 10), ("validation", 5), ("test", 5)):
        assert [len(workload.rows_of([task], part)) for task in range(3)] == [size] * 3
    validate(workload)


def test_from_datasets_with_the_same_rows_of_each():
    sets = [(X[:20], Y[:20, 1]), (X[20:40], Y[20:40, 1])]
    rows = {"train": range(10), "validation": range(10, 15), "test": range(15, 20)}
    workload = from_datasets(sets, split=rows, tasks=["north", "south"])
    assert workload.split.validation.tolist() == [10, 11, 12, 13, 14, 30, 31, 32, 33, 34]
    given = Split(workload.split.train, workload.split.validation, workload.split.test)
    assert fingerprint(from_datasets(sets, split=given, tasks=["north", "south"])) == fingerprint(workload)


@settings(max_examples=30, deadline=None)
@given(st.integers(10, 200), st.integers(0, 5), st.sampled_from([(0.6, 0.2, 0.2), (0.1, 0.1, 0.8), (0.9, 0.05, 0.05)]))
def test_fractions_partition_the_rows(rows, seed, fractions):
    split = make_split(fractions, rows, seed)
    together = torch.cat([split.train, split.validation, split.test])
    assert sorted(together.tolist()) == list(range(rows))
    assert len(split.validation) == max(1, round(fractions[1] * rows))
    assert torch.equal(split.train, make_split(fractions, rows, seed).train)


def test_masks_and_another_seed():
    masks = {"train": np.arange(80) < 50, "validation": torch.arange(80) // 10 == 5, "test": np.arange(80) >= 60}
    workload = build(split=masks)
    assert workload.split.validation.tolist() == list(range(50, 60))
    assert not torch.equal(build(seed=0).split.train, build(seed=1).split.train)


def test_fingerprint_sees_what_matters_and_nothing_else():
    base = build()
    assert fingerprint(base) == fingerprint(build(name="another"))
    x = X.copy()
    x[0, 0] += 1e-3
    changed = [
        build(seed=1),
        build(recipe=Recipe(epochs=7)),
        build(hidden=(65, 32)),
        build(tasks=["a", "b", "c"]),
        from_arrays(x, Y[:, :2]),
        from_arrays(X, np.where(np.arange(160).reshape(80, 2) == 7, np.nan, Y[:, :2])),
        from_arrays(X, Y[:, :2]),
    ]
    prints = {fingerprint(workload) for workload in [base, *changed]}
    assert len(prints) == len(changed) + 1


def test_to_moves_everything_and_keeps_the_fingerprint():
    workload = build()
    moved = workload.to("cpu").to(torch.device("cpu"))
    assert fingerprint(moved) == fingerprint(workload)
    assert moved.device.type == "cpu"
    meta = workload.to("meta")
    model = meta.build_model(0)
    tensors = [meta.inputs, meta.labels, meta.split.train, meta.input_scale, model.head.weight]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert workload.inputs.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_to_a_gpu():
    workload = build()
    moved = workload.to("cuda")
    validate(moved)
    assert fingerprint(moved) == fingerprint(workload)
