from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from coterie import Context
from coterie.errors import ModelModeWarning, ResourceError, SettingError
from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.features.directions import StackedDirections
from coterie.features.part import PartFeatures
from coterie.workload import Task
from coterie.workload.structure import find_structure
from reference.models import KINDS, make, workload_for
from reference.plain_features import plain_features, plain_gradient

pytestmark = pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")


def same(features: PartFeatures, expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for task, want in enumerate(expected):
        got = features.task(task).g
        assert got.shape == want.shape
        assert torch.allclose(got, want, rtol=0, atol=tolerance * float(want.abs().max()) + 1e-7)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_plain_loop(kind: str, mode: str) -> None:
    workload, model = make(kind)
    directions = RandomDirections.of(model, 7, seed=3)
    features = compute_features(workload, model, directions, FeatureOptions(heads="projected", mode=mode))
    assert features.plan.mode == mode
    assert features.plan.batched
    same(features, plain_features(workload, model, directions))
    assert features.task(0).head.shape[1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_rows_offsets_and_targets(kind: str) -> None:
    workload, model = make(kind)
    structure = find_structure(workload, model)
    directions = RandomDirections.of(model, 3, names=structure.trunk)
    features = compute_features(workload, model, directions, part="validation")
    model.eval()
    margins = workload.margins(workload.outputs(model, workload.batch(torch.arange(14))), workload.targets)
    for task in range(workload.n_tasks):
        own = features.pairs_of(task)
        rows = features.rows[own]
        assert sorted(rows.tolist()) == [
            r for r in sorted(workload.split.validation.tolist()) if workload.observed[r, task]
        ]
        assert torch.allclose(features.offset[own], margins[rows, task], atol=1e-5)
        assert torch.equal(features.targets[own], workload.labels[rows, task])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_exact_heads(kind: str, mode: str) -> None:
    """Trunk features and head features both equal the plain gradients."""
    workload, model = make(kind)
    structure = find_structure(workload, model)
    directions = RandomDirections.of(model, 4, seed=1, names=structure.trunk)
    features = compute_features(
        workload, model, directions, FeatureOptions(mode=mode, head_directions=5), structure=structure
    )
    same(features, plain_features(workload, model, directions))
    model.eval()
    parameters = dict(model.named_parameters())
    for task, head in enumerate(structure.heads):
        own = features.pairs_of(task)
        block = features.head(task)
        names = tuple(name for name, _ in head.parameters)
        grads = torch.stack([plain_gradient(workload, model, r, task, names) for r in features.rows[own].tolist()])
        width = features.head_width(task)
        for column in range(width):
            # a unit coefficient moves the parameters along the column's own direction
            flat = []
            for name, (rows, value) in features.head_apply(task, torch.eye(width)[column]).items():
                whole = torch.zeros_like(parameters[name])
                whole[list(rows) if rows is not None else slice(None)] = value
                flat.append(whole.reshape(-1))
            assert torch.allclose(block[:, column], grads @ torch.cat(flat).detach(), atol=2e-5)


def test_exact_head_is_the_representation() -> None:
    workload, model = make("multiclass", missing=0.0)
    structure = find_structure(workload, model)
    features = compute_features(
        workload, model, RandomDirections.of(model, 2, names=structure.trunk), structure=structure
    )
    representation = model[:4](workload.batch(features.rows[features.pairs_of(0)]))
    assert torch.allclose(features.head(0)[:, :6], representation, atol=1e-6)
    assert torch.equal(features.head(0)[:, 6], torch.ones(len(representation)))
    assert features.head(1).shape[1] == 3 * 7
    assert len(features.head_features.representations) == 1


def test_no_heads() -> None:
    workload, model = make("linear heads")
    structure = find_structure(workload, model)
    directions = RandomDirections.of(model, 4, names=structure.trunk)
    features = compute_features(workload, model, directions, FeatureOptions(heads="none"))
    same(features, plain_features(workload, model, directions))
    assert features.head(1).shape[1] == 0
    assert features.head_apply(1, torch.zeros(0)) == {}


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 12), st.integers(0, 3), st.floats(0.02, 1.0), st.sampled_from(["forward", "reverse"]))
def test_memory_chunks_change_nothing(count: int, seed: int, share: float, mode: str) -> None:
    workload, model = make("multiclass", seed=seed)
    directions = RandomDirections.of(model, count, seed=seed)
    large = compute_features(workload, model, directions, FeatureOptions(heads="projected", mode=mode))
    floor = 40_000
    memory = int(floor + share * (large.plan.bytes + large.plan.feature_bytes))
    small = compute_features(
        workload, model, directions, FeatureOptions(heads="projected", mode=mode), Context(memory=memory)
    )
    assert small.plan.bytes + small.plan.feature_bytes <= memory
    assert torch.allclose(small.g, large.g, rtol=0, atol=1e-5 * float(large.g.abs().max()))


def test_chunks_are_really_used() -> None:
    workload, model = make("mlp")
    directions = RandomDirections.of(model, 20)
    plan = compute_features(
        workload, model, directions, FeatureOptions(heads="projected", mode="forward"), Context(memory=12_000)
    ).plan
    assert plan.rows_per_chunk < 9 or plan.directions_per_chunk < 20


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)), st.sampled_from(["forward", "reverse"]))
def test_permuting_tasks_permutes_features(order: list[int], mode: str) -> None:
    workload, model = make("multiclass")
    columns = [c for task in order for c in range(workload.columns[task].start, workload.columns[task].stop)]
    permuted = replace(
        workload,
        tasks=tuple(workload.tasks[task] for task in order),
        labels=workload.labels[:, order],
        forward=lambda net, batch: net(batch)[:, columns],
    )
    structure = find_structure(workload, model)
    directions = RandomDirections.of(model, 5, names=structure.trunk)
    first = compute_features(workload, model, directions, FeatureOptions(mode=mode))
    second = compute_features(permuted, model, directions, FeatureOptions(mode=mode))
    for new, old in enumerate(order):
        assert torch.allclose(second.task(new).g, first.task(old).g, atol=1e-5)
        assert torch.allclose(second.head(new), first.head(old), atol=1e-5)
        assert torch.allclose(second.task(new).offset, first.task(old).offset, atol=1e-5)


def test_displacement_is_what_features_predict() -> None:
    """A small move along P u and the heads changes the margins as the features say."""
    workload, model = make("deep heads", missing=0.0)
    model.double()
    workload = replace(workload, inputs=workload.inputs.double(), labels=workload.labels.double())  # type: ignore[union-attr]
    structure = find_structure(workload, model)
    features = compute_features(
        workload, model, RandomDirections.of(model, 6, names=structure.trunk), structure=structure
    )
    assert features.g.dtype == torch.float64
    u = 1e-4 * torch.randn(6, dtype=torch.float64)
    w = 1e-4 * torch.randn(features.head_width(1), dtype=torch.float64)
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, move in RandomDirections.of(model, 6, names=structure.trunk).displacement(u).items():
            state[name] += move
        for name, (rows, move) in features.head_apply(1, w).items():
            state[name][list(rows) if rows is not None else slice(None)] += move
    rows = features.rows[features.pairs_of(1)]
    moved = workload.outputs(model, workload.batch(rows))[:, 1]
    predicted = features.linear_margins(1, u, w)
    assert (moved - predicted).abs().max() < 1e-2 * (moved - features.task(1).offset).abs().max()


def test_spill_to_a_mapped_file(tmp_path) -> None:
    workload, model = make("mlp")
    directions = RandomDirections.of(model, 400)
    expected = compute_features(workload, model, directions, FeatureOptions(heads="projected", mode="forward"))
    with pytest.raises(ResourceError, match="spill"):
        compute_features(
            workload, model, directions, FeatureOptions(heads="projected", mode="forward"), Context(memory=20_000)
        )
    file = tmp_path / "features.safetensors"
    features = compute_features(
        workload,
        model,
        directions,
        FeatureOptions(heads="projected", mode="forward", spill=file),
        Context(memory=20_000),
    )
    assert features.plan.spill
    assert torch.allclose(features.g, expected.g, atol=1e-5)
    with safe_open(file, "pt") as stored:
        assert torch.equal(stored.get_tensor("g"), features.g)
    inside = compute_features(
        workload, model, directions, FeatureOptions(heads="projected", spill=file), Context(memory=2**28)
    )
    assert not inside.plan.spill


def test_model_is_left_as_it_was() -> None:
    workload, model = make("conv")
    model.train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.warns(ModelModeWarning, match="BatchNorm"):
        compute_features(workload, model, RandomDirections.of(model, 2), FeatureOptions(heads="projected"))
    assert model.training
    assert model[1].training
    assert not model[2].training
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_no_warning_in_evaluation_mode() -> None:
    workload, model = make("attention")
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelModeWarning)
        compute_features(workload, model, RandomDirections.of(model, 2), FeatureOptions(heads="projected"))


def test_shared_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(5, 5)
            self.two = nn.Linear(5, 5)
            self.two.weight = self.one.weight
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))

    torch.manual_seed(0)
    model = Tied()
    workload = workload_for((Task("a"), Task("b")), torch.randn(9, 5), model)
    structure = find_structure(workload, model)
    assert structure.trunk == ("one.weight", "one.bias", "two.bias")
    directions = RandomDirections.of(model, 6, names=structure.trunk)
    expected = plain_features(workload, model, directions)
    for mode in ("forward", "reverse"):
        same(compute_features(workload, model, directions, FeatureOptions(mode=mode)), expected)


def test_user_forward() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    workload = workload_for((Task("a"), Task("b")), {"x": torch.randn(9, 5), "scale": torch.rand(9, 1)}, model)
    workload = replace(workload, forward=lambda net, batch: {"b": net(batch["x"])[:, 0], "a": net(batch["x"])[:, 2]})
    directions = RandomDirections.of(model, 6)
    expected = plain_features(workload, model, directions)
    for mode in ("forward", "reverse"):
        same(compute_features(workload, model, directions, FeatureOptions(heads="projected", mode=mode)), expected)


def test_stacked_directions_give_entries_of_the_gradient() -> None:
    workload, model = make("mlp")
    unit = StackedDirections({"0.bias": torch.eye(8)})
    features = compute_features(workload, model, unit, FeatureOptions(heads="none", mode="forward"))
    row = int(features.rows[features.pairs_of(1)][0])
    expected = plain_gradient(workload, model, row, 1, ("0.bias",))
    assert torch.allclose(features.task(1).g[0], expected, atol=1e-6)


def test_auto_chooses_by_cost() -> None:
    workload, model = make("mlp", missing=0.0)
    few = compute_features(workload, model, RandomDirections.of(model, 2), FeatureOptions(heads="projected")).plan
    assert few.mode == "forward"
    assert "forward passes" in few.reason
    conv_workload, conv_model = make("conv", missing=0.9)
    many = compute_features(
        conv_workload, conv_model, RandomDirections.of(conv_model, 300), FeatureOptions(heads="projected")
    ).plan
    assert many.mode == "reverse"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"heads": "some"}, "heads"),
        ({"mode": "sideways"}, "mode"),
        ({"part": "all"}, "part"),
        ({"memory": 0}, "memory"),
        ({"head_directions": 0}, "head_directions"),
        ({"heads": "exact"}, "trunk"),
        ({"directions": StackedDirections({"0.bias": torch.ones(1, 3)})}, "shape"),
        ({"directions": StackedDirections({"nothing": torch.ones(1, 3)})}, "nothing"),
    ],
)
def test_bad_settings(options: dict, word: str) -> None:
    workload, model = make("mlp")
    call: dict[str, Any] = {"directions": RandomDirections.of(model, 2), "heads": "projected", **options}
    along, part = call.pop("directions"), call.pop("part", "train")
    memory = call.pop("memory", 2**30)
    with pytest.raises(SettingError, match=word):
        compute_features(workload, model, along, FeatureOptions(**call), Context(memory=memory), part=part)


def test_old_keywords_still_work() -> None:
    workload, model = make("mlp")
    directions = RandomDirections.of(model, 2)
    with pytest.warns(DeprecationWarning, match=r"give options=FeatureOptions\(heads=..., mode=...\)"):
        old = compute_features(workload, model, directions, heads="projected", mode="reverse")
    new = compute_features(workload, model, directions, FeatureOptions(heads="projected", mode="reverse"))
    assert torch.equal(old.g, new.g)
    assert old.plan == new.plan


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_progress_ends_at_the_total(mode: str) -> None:
    workload, model = make("mlp")
    seen: list[tuple[str, int, int]] = []
    directions = RandomDirections.of(model, 3)
    compute_features(
        workload,
        model,
        directions,
        FeatureOptions(heads="projected", mode=mode),
        Context(progress=lambda *a: seen.append(a)),
    )
    assert seen
    assert seen[-1][1] == seen[-1][2]
