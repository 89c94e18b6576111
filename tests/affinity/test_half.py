"""Grad-TAE on features that are stored in half the bytes."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from coterie.affinity import GradTAE
from coterie.affinity.blocks import TaskBlock, compressed, compute_statistics, pack_blocks, unpack_blocks
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.newton import solve, values
from coterie.affinity.refine import iterate
from coterie.errors import SettingError
from coterie.workload import get_loss
from reference.training_workloads import make


def blocks(tasks: int = 3, rows: int = 90) -> tuple[TaskBlock, ...]:
    torch.manual_seed(0)
    head, loss = torch.ones(rows, 1), get_loss("binary")
    return tuple(
        TaskBlock(torch.randn(rows, 8) * 1e4, head, torch.randn(rows), (torch.rand(rows) > 0.5).float(), loss)
        for _ in range(tasks)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_the_regression_reads_half_features(dtype: str, tolerance: float) -> None:
    full = blocks()
    half = compressed(full, dtype)
    assert all(block.g.element_size() == 2 for block in half)
    mask = np.array([[1, 1, 0], [1, 1, 1]], dtype=bool)
    for fit in (solve, lambda sums, mask, ridge: iterate(sums, full, mask, ridge)):
        exact = values(fit(compute_statistics(full), mask, 1e6), full)
        found = values(fit(compute_statistics(half), mask, 1e6), half)
        assert np.nanmax(np.abs(found - exact) / exact) < tolerance
    again = unpack_blocks([block.loss for block in half], pack_blocks(half))
    for block, other in zip(half, again, strict=True):
        assert torch.equal(block.g, other.g)
        assert (block.scale is None) == (other.scale is None) == (dtype == "bfloat16")
    assert all(block.g is other.g for block, other in zip(full, compressed(full, "float32"), strict=True))


@pytest.mark.parametrize("directions", ["secants", "random"])
def test_estimates_hardly_change(directions: str, tmp_path: Path) -> None:
    workload = make(rows=120)
    sets = list(combinations(range(workload.n_tasks), 2))
    found = {}
    for dtype in ("float32", "float16", "bfloat16"):
        model = GradTAE(directions=directions, count=20, bases=1, dtype=dtype).estimate(workload).model
        assert isinstance(model, GradTAEModel)
        found[dtype] = model.predict_values(sets)
        if dtype == "float16":
            kept = GradTAEModel.load(model.save(tmp_path / "model"))
            assert np.array_equal(kept.predict_values(sets), found[dtype], equal_nan=True)
    for dtype, tolerance in (("float16", 2e-3), ("bfloat16", 2e-2)):
        difference = np.nanmax(np.abs(found[dtype] - found["float32"]) / found["float32"])
        assert 0 < difference < tolerance


def test_unknown_type() -> None:
    with pytest.raises(SettingError, match="dtype"):
        GradTAE(dtype="int8")
