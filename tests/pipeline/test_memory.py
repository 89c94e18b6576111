"""What a run leaves behind in the memory of its process: nothing."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import coterie
from coterie.training import fit, measure_cost
from coterie.training.evaluate import measure_footprint
from coterie.training.job import Job
from coterie.training.stackable import is_stackable
from coterie.workload import Recipe, Workload, from_arrays, validate
from coterie.workload.structure import find_structure

MODELS: list[weakref.ref[nn.Module | nn.Parameter]] = []


def work_for(width: int = 8, batch_norm: bool = False) -> Workload:
    """A workload whose models, and their parameters, which graphs hold, are noted in MODELS."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    y = (x[:, [0, 0, 1]] + rng.normal(size=(90, 3)) > 0).astype(float)

    def build(seed: int) -> nn.Module:
        norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        model = nn.Sequential(nn.Linear(4, width), norm, nn.Tanh(), nn.Linear(width, 3))
        MODELS.extend(map(weakref.ref, [model, *model.parameters()]))
        return model

    return from_arrays(x, y, tasks=["a", "b", "c"], build_model=build, recipe=Recipe(epochs=2, check_every=3))


def alive() -> int:
    gc.collect()
    return sum(ref() is not None for ref in MODELS)


CALLS: dict[str, Callable[[Workload], Any]] = {
    "footprint": measure_footprint,
    "cost": measure_cost,
    "stackable": is_stackable,
    "structure": lambda work: find_structure(work, work.build_model(0)),
    "validate": validate,
    "fit": lambda work: fit(work, [Job((0,), 0), Job((1, 2), 1)]),
    "affinity": lambda work: coterie.estimate_affinity(work, method="task-vectors", bases=1, order="pairwise"),
    "probe": lambda work: coterie.estimate_affinity(work, method="tag", order="pairwise"),
    "plan": coterie.plan,
}


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    "name", [name if name != "plan" else pytest.param(name, marks=pytest.mark.slow) for name in CALLS]
)
def test_no_model_outlives_the_call_that_made_it(name: str, batch_norm: bool) -> None:
    MODELS.clear()
    work = work_for(batch_norm=batch_norm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CALLS[name](work)
    assert MODELS
    assert alive() == 0


def resident() -> float:
    """MiB of the process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_two_hundred_runs_in_one_process_take_no_more_memory_than_a_few() -> None:
    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            coterie.run(work_for(400), groups=2, seeds=1, bases=1, method="secants")

    for _ in range(5):
        run()
    before = resident()
    for _ in range(200):
        run()
    assert resident() - before < 20
