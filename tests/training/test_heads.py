"""What training does to parameters that its tasks may or may not use: nothing that was trained is undone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from coterie.training import fit
from coterie.training.evaluate import evaluate
from coterie.training.heads import find_parts
from coterie.training.job import Job
from coterie.workload import Recipe, from_arrays
from reference.plain_training import train


class Tokens(nn.Module):
    """A bag of tokens, and heads of two layers, half of whose units are dead for most rows."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(60, 8)
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 1)) for _ in range(3))

    def forward(self, x):
        hidden = self.table(x).sum(1)
        return torch.cat([head(hidden) for head in self.heads], 1)


class Levels(nn.Module):
    """Columns that are rarely above their threshold, and a head that starts dead on all rows."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 12)
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(12, 2), nn.ReLU(), nn.Linear(2, 1)) for _ in range(3))
        with torch.no_grad():
            self.heads[2][0].bias.fill_(-30.0)

    def forward(self, x):
        hidden = self.first((x - 1.8).relu()).relu()
        return torch.cat([head(hidden) for head in self.heads], 1)


class Switch(nn.Module):
    """Rows are sent to one of several shared experts, so that few rows see only some of them."""

    def __init__(self):
        super().__init__()
        self.route = nn.Linear(8, 5)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.Tanh()) for _ in range(5))
        self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(3))

    def forward(self, x):
        weight, best = self.route(x).softmax(1).max(1)
        chosen = torch.stack([expert(x) for expert in self.experts], 1)[torch.arange(len(x)), best]
        return torch.cat([head(chosen * weight[:, None]) for head in self.heads], 1)


def work_for(model, **recipe):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 60, (240, 4)) if model is Tokens else rng.normal(size=(240, 8)).astype("float32")
    y = (rng.normal(size=(240, 3)) + np.sin(x[:, :3]) > 0).astype(float)
    settings = {"epochs": 4, "batch_size": 32, "learning_rate": 0.02, "weight_decay": 0.3, "patience": None, **recipe}
    return from_arrays(
        x, y, tasks=["a", "b", "c"], build_model=lambda seed: model(), standardize=False, recipe=Recipe(**settings)
    )


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("model", [Tokens, Levels, Switch])
def test_the_trunk_is_that_of_a_plain_training_and_the_losses_are_those_of_the_kept_state(model, optimizer):
    work = work_for(model, optimizer=optimizer)
    jobs = [Job((0,), 1), Job((1, 2), 0), Job((2,), 0, early_stopping=False)]
    for backend in ("loop", "auto"):
        for fitted in fit(work, jobs, backend=backend):
            own = list(fitted.job.subset)
            for part, found in (("validation", fitted.validation), ("test", fitted.test)):
                np.testing.assert_allclose(evaluate(work, fitted.state, part, own)[own], found[own], rtol=1e-6)
    for job in jobs[::2]:
        expected = train(work, job)[0]
        found = fit(work, [job], backend="loop")[0].state
        for name, value in expected.items():
            if not name.startswith("heads") or int(name.split(".")[1]) in job.subset:
                torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", ["loop", "population"])
def test_a_shared_layer_that_no_row_shows_decays_as_in_any_training(backend):
    work = work_for(Levels)
    fitted = fit(work, [Job((2,), 0, early_stopping=False), Job((0, 2), 0)], backend=backend)[0]
    start = work.build_model(0).state_dict()
    assert not torch.isclose(fitted.state["first.weight"], start["first.weight"]).any()
    assert torch.equal(fitted.state["heads.0.0.weight"], start["heads.0.0.weight"])
    assert all(part.name.startswith("heads") and part.tasks.sum() == 1 for part in find_parts(work))


@pytest.mark.parametrize("backend", ["loop", "population"])
def test_what_a_wrong_guess_takes_for_another_task_is_kept_once_it_was_trained(backend, monkeypatch):
    work = work_for(Levels)
    part = next(part for part in find_parts(work) if part.tasks[2])
    wrong = [replace(part, name="first.weight", dimension=0, positions=torch.arange(12))]
    monkeypatch.setattr("coterie.training.heads.find_parts", lambda workload: wrong)
    jobs = [Job((1,), 1, early_stopping=False), Job((0,), 0)]
    fits = fit(work, jobs, backend=backend)
    start, first = work.build_model(1).state_dict()["first.weight"], fits[0].state["first.weight"]
    decay = (1 - work.recipe.learning_rate * work.recipe.weight_decay) ** fits[0].steps
    idle = torch.isclose(train(work, jobs[0])[0]["first.weight"], start * decay, rtol=1e-5, atol=0)
    assert ((first == start) != idle).float().mean() < 0.05  # what is held differs, so the rest may a little, too
    assert 0.2 < idle.float().mean() < 0.8
    for fitted in fits:
        own = list(fitted.job.subset)
        np.testing.assert_allclose(evaluate(work, fitted.state, "test", own)[own], fitted.test[own], rtol=1e-6)
