"""Models that keep part of what they are outside of their state_dict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coterie.errors import ModelError, NonDeterministicModelError
from coterie.training import fit
from coterie.training.evaluate import evaluate
from coterie.training.job import Job
from coterie.training.stackable import is_stackable
from coterie.workload import Recipe, Workload, from_arrays, validate
from coterie.workload.builders import seeded


class Scale(nn.Module):
    """Divides by the largest input seen in training; `how` it is remembered is what is tested."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.passes = 0
        if how.endswith("buffer"):
            self.register_buffer("largest", torch.ones(4), persistent=how == "buffer")
        elif how == "random":
            self.directions = torch.randn(4, 4)
        elif how == "list":
            self.seen: list[Tensor] = []
        else:
            self.known: Any = {"extra": 1.0, "array": np.ones(4, "float32")}.get(how)

    def get_extra_state(self) -> Any:
        return self.known if self.how == "extra" else torch.zeros(1)

    def set_extra_state(self, state: Any) -> None:
        if self.how == "extra":
            self.known = state

    def forward(self, x: Tensor) -> Tensor:
        top = x.detach().abs().amax(0)
        if self.training:
            self.passes += self.how == "late"
            if self.how.endswith("buffer"):
                self.get_buffer("largest").copy_(torch.maximum(self.get_buffer("largest"), top))
            elif self.how == "list":
                self.seen.append(top)
            elif self.how == "array":
                self.known = np.maximum(self.known, top.numpy())
            elif self.how == "extra":
                self.known = max(self.known, float(top.max()))
        if self.training:
            return x / 2
        if self.how == "late":
            return x / (2 if self.passes > 5 else 1)
        if self.how == "random":
            return x @ self.directions
        if self.how == "list":
            return x / max([float(top.max()) for top in self.seen], default=1.0)
        return x / torch.as_tensor(self.get_buffer("largest") if self.how.endswith("buffer") else self.known)


def work_for(how: str, norm: bool = False) -> Workload:
    rng = np.random.default_rng(0)
    x = rng.normal(scale=3.0, size=(90, 4)).astype("float32")
    y = (x[:, :2] + rng.normal(size=(90, 2)) > 0).astype(float)
    last = nn.BatchNorm1d if norm else nn.Identity

    def build() -> nn.Module:
        return nn.Sequential(Scale(how), nn.Linear(4, 5), last(5), nn.Tanh(), nn.Linear(5, 2))

    recipe = Recipe(epochs=3, batch_size=16, check_every=4, learning_rate=0.02)
    return from_arrays(x, y, tasks=["a", "b"], build_model=build, standardize=False, recipe=recipe)


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("hidden buffer", "the buffer `0.largest`"),
        ("list", ""),
        ("array", "the attribute `0.known`"),
        ("extra", "the extra state `0._extra_state`"),
        ("random", "the attribute `0.directions`"),
    ],
)
def test_what_would_be_lost_is_refused_before_and_after_training(how: str, named: str) -> None:
    work = work_for(how)
    with pytest.raises(ModelError, match=r"outside of its state_dict.*register_buffer") as before:
        validate(work)
    with pytest.raises(ModelError, match=r"after training.*register_buffer") as after:
        fit(work, [Job((0, 1), 1)])
    assert named in str(before.value)
    assert named in str(after.value)


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_a_counter_that_matters_late_is_found_after_training() -> None:
    work = work_for("late")
    validate(work)
    assert is_stackable(work) == (False, "the attribute '0.passes' changes in training")
    with pytest.raises(ModelError, match=r"the attribute `0\.passes`"):
        fit(work, [Job((0,), 0), Job((0, 1), 0)])
    short = fit(work, [Job((0,), 0, max_steps=3)])[0]  # nothing has come of it yet
    assert short.test[0] == pytest.approx(evaluate(work, short.state, "test")[0])


class Stage:
    """A number that no list of attributes shows."""

    def __init__(self) -> None:
        self.passes = 0.0


class Stages(nn.Module):
    """Leaves the first stage after a few passes in training mode; `how` the passes are counted is what is tested."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.count: Any = {"tensor": torch.zeros(1), "dict": {"passes": 0.0}, "object": Stage()}[how]

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.count, Tensor):
            self.count += self.training
            return x * (1 + (self.count > 5).float())
        facts = self.count if isinstance(self.count, dict) else vars(self.count)
        facts["passes"] += self.training
        return x * 2 if facts["passes"] > 5 else x


@pytest.mark.parametrize("how", ["tensor", "dict", "object"])
@pytest.mark.parametrize("backend", ["loop", "population"])
def test_what_models_share_while_they_are_trained_together_is_found(how: str, backend: str) -> None:
    build = seeded(lambda: nn.Sequential(Stages(how), nn.Linear(4, 2)))
    work = replace(work_for("buffer"), build_model=build)
    jobs = [Job((0,), 0), Job((0, 1), 0)]
    with pytest.raises(ModelError, match=r"after training.*the attribute `0\.count`"):
        fit(work, jobs, backend=backend)
    short = fit(work, [replace(job, max_steps=3) for job in jobs], backend=backend)[0]  # before it matters
    assert short.test[0] == pytest.approx(evaluate(work, short.state, "test")[0])


class Noisy(nn.Module):
    """Random in evaluation mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.2)


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_a_random_model_keeps_nothing_outside() -> None:
    """It is no model for a run, for another reason; trained by itself it is what its state says."""
    work = replace(work_for("buffer"), build_model=seeded(lambda: nn.Sequential(Noisy(), nn.Linear(4, 2))))
    assert "two training passes over the same rows differ" in is_stackable(work)[1]
    assert np.isfinite(fit(work, [Job((0, 1), 0)])[0].test).all()
    with pytest.raises(NonDeterministicModelError, match="without training=self"):
        validate(work)


class Projected(nn.Module):
    """A buffer drawn at random that is not kept, behind a head that starts at 0, which hides it at first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(4, 6), persistent=False)
        self.first, self.head = nn.Linear(6, 4), nn.Linear(4, 2)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x @ self.get_buffer("directions")).tanh())


@pytest.mark.parametrize("backend", ["loop", "population"])
def test_a_buffer_of_the_seed_is_refused_by_both_backends(backend: str) -> None:
    work = replace(work_for("buffer"), build_model=seeded(Projected))
    fit(work, [Job((0,), 0), Job((0, 1), 0)], backend=backend)  # seed 0 is that of the models that are served
    with pytest.raises(ModelError, match="the buffer `directions`"):
        fit(work, [Job((0,), 1), Job((0, 1), 1)], backend=backend)


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_what_is_in_the_state_dict_is_fine() -> None:
    for norm in (False, True):
        work = work_for("buffer", norm)
        validate(work)
        for fitted in fit(work, [Job((0, 1), 1), Job((1,), 2)]):
            own = list(fitted.job.subset)
            np.testing.assert_allclose(evaluate(work, fitted.state, "test")[own], fitted.test[own], rtol=1e-5)


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_what_only_evaluation_reads_is_not_stacked() -> None:
    assert "no part of the state_dict" in is_stackable(work_for("array"))[1]
