"""Served models are built by code that the caller brings: it has to be the code that was trained."""

import numpy as np
import pytest
import torch
from torch import nn

from coterie.errors import ModelError
from coterie.grouping import Grouping
from coterie.serving import load
from coterie.serving.models import make_probe
from coterie.serving.saved import save_served
from coterie.workload import from_arrays

X = np.random.default_rng(0).normal(3.0, 5.0, size=(60, 4))
Y = (X[:, :2] > 3).astype(float)
GROUPS = Grouping(("a", "b"), ((0,), (1,)), (0, 1))


def net(act=None, eps=1e-5, rate=0.1):
    return nn.Sequential(nn.Linear(4, 6), act or nn.ReLU(), nn.LayerNorm(6, eps=eps), nn.Dropout(rate), nn.Linear(6, 2))


def saved(path, x=X, **options):
    work = from_arrays(x, Y, tasks=["a", "b"], **(options or {"build_model": lambda: net()}))
    save_served(path, work, GROUPS, [{**work.build_model(seed).state_dict()} for seed in (3, 4)])
    return work


@pytest.mark.parametrize("other", [lambda: net(nn.GELU()), lambda: net(nn.LeakyReLU(0.5)), lambda: net(eps=1.0)])
def test_other_settings_of_the_same_parameters_are_refused(tmp_path, other):
    work = saved(tmp_path)
    expected = load(tmp_path, workload=work).predict(X)
    again = load(tmp_path, build_model=lambda: net(rate=0.5)).predict(X)  # plays no part after training
    np.testing.assert_array_equal(again["a"], expected["a"])
    with pytest.raises(ModelError, match=r"group 0 and gives other outputs than after its training.*activation"):
        load(tmp_path, build_model=other)


def test_another_forward_is_refused(tmp_path):
    saved(tmp_path, build_model=lambda: net(), forward=lambda model, batch: 2 * model(batch))
    load(tmp_path, build_model=lambda: net(), forward=lambda model, batch: model(batch) * 2)
    with pytest.raises(ModelError, match="another `forward`"):
        load(tmp_path, build_model=lambda: net(), forward=lambda model, batch: model(batch))
    with pytest.raises(ModelError, match="AttributeError"):
        load(tmp_path, build_model=lambda: net(), forward=lambda model, batch: model(batch.missing))


def test_the_forward_of_a_built_in_model_counts(tmp_path):
    work = saved(tmp_path, forward=lambda model, batch: model(batch) + 1)
    load(tmp_path, workload=work)
    with pytest.raises(ModelError, match="another `forward`"):
        load(tmp_path, build_model=work.build_model, forward=lambda model, batch: model(batch))


class Words(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.words, self.head, self.scale = nn.Embedding(30, 4), nn.Linear(5, 2), scale

    def forward(self, ids, more):
        return self.head(torch.cat([self.words(ids).mean(1), self.scale * more], 1))


def test_mappings_and_whole_numbers(tmp_path):
    x = {"ids": np.random.default_rng(0).integers(3, 30, (60, 5)), "more": X[:, :1]}
    work = saved(tmp_path, x, build_model=Words)
    made = make_probe(work, [work.build_model(0).state_dict()])
    assert 3 <= int(made["probe/inputs/ids"].min()) <= int(made["probe/inputs/ids"].max()) < 30
    load(tmp_path, workload=work)
    with pytest.raises(ModelError, match="other outputs"):
        load(tmp_path, build_model=lambda: Words(2.0))


def test_no_row_of_the_data_is_kept_and_refusals_are_no_harm(tmp_path):
    class Picky(nn.Linear):
        def forward(self, x):
            if len(x) == 4:
                raise ValueError("not these")
            return super().forward(x)

    work = saved(tmp_path, build_model=lambda: Picky(4, 2))
    assert make_probe(work, [work.build_model(0).state_dict()]) == {}
    load(tmp_path, workload=work)
    own = from_arrays(X, Y, tasks=["a", "b"], build_model=lambda: net())
    rows = make_probe(own, [own.build_model(0).state_dict()])["probe/inputs/"]
    assert not (rows[:, None] == own.inputs).all(-1).any()
    assert make_probe(from_arrays(X, Y, tasks=["a", "b"]), []) == {}
