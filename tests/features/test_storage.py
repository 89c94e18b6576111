"""Features in half the bytes: how far they are off, and what that does to estimates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from scipy.stats import spearmanr
from torch import Tensor

from coterie import Context
from coterie.affinity.blocks import compute_statistics
from coterie.affinity.linear import LinearBase
from coterie.affinity.linearize import task_blocks
from coterie.datasets import load
from coterie.errors import ModelError, SettingError
from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.features.part import PartFeatures
from coterie.features.plan import TensorSizes
from coterie.features.storage import ColumnScales, FeatureMatrix, FeatureWriter, labelled_pairs
from coterie.workload.structure import find_structure
from reference.models import make

pytestmark = pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
#: half of the distance between neighbours, relative to the number
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def sink_of(values: Tensor, stored: torch.dtype | None, blocks: list[int]) -> FeatureMatrix:
    """Store (9, d) values in blocks of rows of the given lengths, columns in two parts."""
    workload, _ = make("mlp", missing=0.0)
    pairs = labelled_pairs(workload, "train")
    writer = FeatureWriter(pairs, values.shape[1], values.dtype, None, stored)
    writer.features.zero_()
    start, half = 0, values.shape[1] // 2
    for length in blocks:
        index = torch.arange(len(values))[start : start + length]
        for first, last in ((0, half), (half, values.shape[1])):
            writer.put(index, values[index, first:last], first)
        start += length
    return writer.finish().rows(slice(0, len(values)))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["mlp", "deep heads"])
def test_half_the_bytes_and_the_stated_error(kind: str, dtype: str, mode: str) -> None:
    workload, model = make(kind)
    directions = RandomDirections.of(model, 9, names=find_structure(workload, model).trunk)
    full = compute_features(workload, model, directions, FeatureOptions(mode=mode))
    half = compute_features(workload, model, directions, FeatureOptions(mode=mode, dtype=dtype))
    assert half.nbytes == full.nbytes // 2
    assert full.plan.feature_bytes - half.plan.feature_bytes == full.nbytes - half.nbytes
    assert half.g.dtype == half.task(1).g.dtype == torch.float32
    assert torch.equal(half.task(1).g, half.g[half.pairs_of(1)])
    assert bool(((half.g - full.g).abs() <= 1.01 * ROUNDING[dtype] * full.g.abs() + 1e-7).all())
    assert not torch.equal(half.g, full.g)
    assert torch.equal(half.head(2), full.head(2))


def test_nothing_changes_without_it() -> None:
    workload, model = make("mlp")
    directions = RandomDirections.of(model, 9)
    features = compute_features(workload, model, directions, FeatureOptions(heads="projected", dtype="float32"))
    assert features.matrix.scale is None
    assert features.g.data_ptr() == features.matrix.stored.data_ptr()
    with pytest.raises(SettingError, match="dtype"):
        compute_features(workload, model, directions, FeatureOptions(heads="projected", dtype="int8"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-60, 60), min_size=18, max_size=18),
    st.lists(st.integers(1, 4), min_size=9, max_size=9),
    st.integers(0, 3),
)
def test_scales_for_any_sizes_in_any_order(exponents: list[float], blocks: list[int], zeros: int) -> None:
    """Numbers from 2**-60 to 2**60, which float16 has not; columns that begin with zeros."""
    signs = torch.tensor([1.0, -1.0] * 9)
    values = (signs * torch.tensor(exponents, dtype=torch.float64).exp2()).float().reshape(9, 2)
    values[:zeros] = 0.0
    matrix = sink_of(values, torch.float16, blocks)
    found = matrix.read()
    assert bool(torch.isfinite(matrix.stored).all())
    peak = values.abs().amax(0)
    # two roundings where a column was rescaled into the numbers below the smallest normal one
    assert bool(((found - values).abs() <= 2.0**-11 * values.abs() * 1.001 + 2.0**-34 * peak).all())
    exponent = torch.frexp(matrix.scale).mantissa  # type: ignore[arg-type]
    assert bool((exponent == 0.5).all())


def test_scaling_anew_takes_little_memory() -> None:
    """Later rows are a hundred times as large as the first: all that is stored changes, block by block."""
    stored = torch.zeros(60_000, 100, dtype=torch.float16)
    scales = ColumnScales(stored)
    stored[:10] = scales.fit(torch.ones(10, 100), 0).half()
    with TensorSizes() as sizes:
        scales.fit(torch.full((10, 100), 100.0), 0)
    assert sizes.peak < 1.6 * stored.numel() * stored.element_size()
    found = FeatureMatrix(stored, scales.scale).read()
    assert bool((found[:10] == 1.0).all())
    assert bool((found[10:] == 0.0).all())


@given(st.integers(-40, 40))
@settings(max_examples=20, deadline=None)
def test_scaling_by_a_power_of_two_scales_what_is_read(power: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(9, 4)
    one, other = (sink_of(values * factor, torch.float16, [9]).read() for factor in (1.0, 2.0**power))
    assert torch.equal(other, one * 2.0**power)


def test_double_features_are_read_as_such() -> None:
    values = torch.randn(9, 4, dtype=torch.float64)
    for kind in (torch.float16, torch.bfloat16):
        found = sink_of(values, kind, [4, 5]).read()
        assert found.dtype == torch.float64
        assert torch.allclose(found, values, rtol=2**-8, atol=0)
    with pytest.raises(ModelError, match="float16"):
        sink_of(values * 1e100, torch.float16, [9])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("mode", "missing", "count"), [("forward", 0.0, 121), ("reverse", 0.3, 401)])
def test_mapped_files(dtype: str, mode: str, missing: float, count: int, tmp_path) -> None:
    workload, model = make("mlp", missing=missing)
    directions = RandomDirections.of(model, count)
    inside = compute_features(workload, model, directions, FeatureOptions(heads="projected", mode=mode, dtype=dtype))
    file, memory = tmp_path / "features.safetensors", inside.nbytes + 500
    features = compute_features(
        workload,
        model,
        directions,
        FeatureOptions(heads="projected", mode=mode, spill=file, dtype=dtype),
        Context(memory=memory),
    )
    assert features.plan.spill
    assert torch.allclose(features.g, inside.g, rtol=2**-7, atol=1e-6)
    with safe_open(file, "pt") as stored:
        names = set(stored.keys())
        numbers = stored.get_tensor("g")
        scale = stored.get_tensor("scale") if "scale" in names else None
    assert names == ({"g", "scale"} if dtype == "float16" else {"g"})
    assert numbers.dtype == getattr(torch, dtype)
    assert torch.equal(FeatureMatrix(numbers, scale).read(), features.g)


def test_what_it_does_to_estimates() -> None:
    """Losses of all pairs and triples of six digits, by the regression on 60 random directions."""
    workload = load("digits")
    model = workload.build_model(0)
    structure = find_structure(workload, model)
    directions = RandomDirections.of(model, 60, 0, structure.trunk)
    sets = [s for size in (2, 3) for s in itertools.combinations(range(workload.n_tasks), size)]
    subsets = np.zeros((len(sets), workload.n_tasks), dtype=bool)
    for row, chosen in enumerate(sets):
        subsets[row, list(chosen)] = True
    values: dict[str, np.ndarray] = {}
    for dtype in ("float32", "float16", "bfloat16"):
        parts: list[PartFeatures] = [
            compute_features(workload, model, directions, FeatureOptions(dtype=dtype), structure=structure, part=part)
            for part in ("train", "validation")
        ]
        blocks = [task_blocks(workload, part) for part in parts]
        values[dtype] = LinearBase(compute_statistics(blocks[0]), blocks[0], blocks[1]).values(subsets, 1e-3)
    exact = values["float32"]
    seen = np.isfinite(exact)
    for dtype, largest, rank in (("float16", 1e-3, 0.9999), ("bfloat16", 1e-2, 0.999)):
        difference = np.abs(values[dtype] - exact)[seen] / exact[seen]
        print(dtype, difference.max(), np.median(difference), spearmanr(values[dtype][seen], exact[seen]).statistic)
        assert difference.max() < largest
        assert spearmanr(values[dtype][seen], exact[seen]).statistic > rank
    assert not np.array_equal(values["bfloat16"][seen], exact[seen])
