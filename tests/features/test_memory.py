"""Working memory stays within the plan, and no (parameters x d) matrix ever exists."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
import torch
from torch import nn

from coterie import Context
from coterie.errors import ResourceError
from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.features.plan import Demand, PassCost, TensorSizes, make_plan, plan_features, working_bytes
from coterie.workload import Task, Workload
from reference.models import make, workload_for

D = 200


def wide(rows: int = 40) -> tuple[Workload, nn.Module, int]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 150), nn.ReLU(), nn.Linear(150, 60), nn.ReLU(), nn.Linear(60, 4))
    tasks = tuple(Task(f"t{i}") for i in range(4))
    return workload_for(tasks, torch.randn(rows, 200), model), model, sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("memory", [2**30, 8 * 2**20])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_no_matrix_of_parameters_by_directions(mode: str, memory: int) -> None:
    workload, model, parameters = wide()
    matrix = 4 * parameters * D
    directions = RandomDirections.of(model, D)
    compute_features(
        workload, model, directions, FeatureOptions(heads="projected", mode=mode), Context(memory=memory)
    )  # imports and caches
    tracemalloc.start()
    try:
        with TensorSizes() as sizes:
            plan = compute_features(
                workload, model, directions, FeatureOptions(heads="projected", mode=mode), Context(memory=memory)
            ).plan
        numpy_peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes.largest <= matrix / 3
    assert sizes.peak + numpy_peak < matrix
    assert sizes.peak + numpy_peak <= memory
    assert plan.bytes + plan.feature_bytes <= memory
    assert sizes.peak + numpy_peak <= plan.bytes + plan.feature_bytes + 2**20


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
@pytest.mark.parametrize("kind", ["multiclass", "conv", "gru", "attention", "deep heads"])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_the_plan_bounds_what_is_used(kind: str, mode: str) -> None:
    workload, model = make(kind)
    directions = RandomDirections.of(model, 64)
    with TensorSizes() as sizes:
        plan = compute_features(workload, model, directions, FeatureOptions(heads="projected", mode=mode)).plan
    assert sizes.peak <= 1.2 * (plan.bytes + plan.feature_bytes) + 2**15


def test_tensor_sizes_follow_what_is_alive() -> None:
    with TensorSizes() as sizes:
        first = torch.zeros(1000)
        second = first + 1
        del first, second
        torch.zeros(100).view(10, 10)
    assert sizes.largest == 4000
    assert sizes.peak == 8000
    assert sizes.total == 8400


def test_plan_refuses_what_cannot_fit() -> None:
    workload, model, _ = wide()
    with pytest.raises(ResourceError, match=r"Parameter `memory` allows .*KiB.*Ways out"):
        plan_features(workload, None, D, memory=2**18, model=model)
    assert plan_features(workload, None, D, model=model).bytes < 2**30
    assert "heads" not in plan_features(workload, None, D, model=model, mode="reverse").to_dict()


NEED = Demand(1000, 40_000, 40, 90_000, 200, 4, PassCost(180_000.0, 2560, 6000))


def test_choice_follows_the_cost() -> None:
    many = make_plan(NEED, mode="auto", memory=2**30, spill=False)
    assert many.mode == "forward"
    assert many.forward_cost == 400
    one = make_plan(replace(NEED, pairs=1000), mode="auto", memory=2**30, spill=False)
    assert one.mode == "reverse"
    assert "1.0 labels" in one.reason
    assert make_plan(NEED, mode="reverse", memory=2**30, spill=False).mode == "reverse"


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("memory", [2**24, 2**26, 2**28, 2**32])
def test_chunks_fit_and_spill_when_features_do_not(mode: str, memory: int) -> None:
    plan = make_plan(NEED, mode=mode, memory=memory, spill=True)
    assert plan.spill == (memory == 2**24)
    assert plan.bytes + (0 if plan.spill else plan.feature_bytes) <= memory
    assert plan.bytes == working_bytes(NEED, mode, plan.rows_per_chunk, plan.directions_per_chunk)
    assert plan.rows_per_chunk >= 1
    assert plan.directions_per_chunk >= 1
