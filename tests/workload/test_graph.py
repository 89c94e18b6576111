"""Workloads on a graph against dense matrices, plain loops and relabelled nodes."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import coterie
from coterie.errors import FallbackWarning, ModelError, ResourceError, SettingError, WorkloadError
from coterie.features import FeatureOptions, RandomDirections, compute_features, validate_gradients
from coterie.features.plan import TensorSizes, plan_features
from coterie.training import fit
from coterie.training.job import Job
from coterie.training.stackable import is_stackable
from coterie.training.units import measure_cost
from coterie.workload import Recipe, Workload, validate
from coterie.workload.fingerprint import fingerprint
from coterie.workload.graph import from_graph
from coterie.workload.structure import find_structure
from reference.plain_features import plain_features
from reference.plain_training import train

pytestmark = [
    pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning"),
    pytest.mark.skipif(importlib.util.find_spec("torch_geometric") is None, reason="PyTorch Geometric is missing"),
]
NODES, WIDTH = 40, 5
NAMES = ["a", "b", "c"]
RECIPE = Recipe(learning_rate=0.02, epochs=4, batch_size=8, check_every=3, weight_decay=0.05)
KINDS = ["sage", "gcn", "pairs", "own", "own pairs"]


class Weighted(nn.Module):
    """A user's network: one output row a node, weights of the edges, a head a task."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GraphConv

        self.conv = GraphConv(WIDTH, 6)
        self.heads = nn.ModuleDict({name: nn.Linear(6, 1) for name in NAMES})

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> dict[str, Tensor]:
        hidden = torch.tanh(self.conv(x, edge_index, edge_weight))
        return {name: head(hidden) for name, head in self.heads.items()}


class Bilinear(nn.Module):
    """A user's network for pairs."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.conv = GCNConv(WIDTH, 6)
        self.score = nn.Bilinear(6, 6, len(NAMES))

    def forward(self, x: Tensor, edge_index: Tensor, rows: Tensor) -> Tensor:
        hidden = torch.tanh(self.conv(x, edge_index))
        return self.score(hidden[rows[:, 0]], hidden[rows[:, 1]])


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, edges without repetitions or loops, edge weights, labels that depend on the neighbours."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(NODES, WIDTH)).astype(np.float32)
    dense = (rng.random((NODES, NODES)) < 0.1) & ~np.eye(NODES, dtype=bool)
    edges = np.stack(np.nonzero(dense))
    around = x + dense.T @ x
    y = (around @ rng.normal(size=(WIDTH, 3)) > 0).astype(float)
    y[:, 2] = around[:, 0]
    y[rng.random(y.shape) < 0.15] = np.nan
    return x, edges, rng.random(edges.shape[1]).astype(np.float32), y


def make(kind: str, order: np.ndarray | None = None) -> Workload:
    """A small workload of a kind; `order`: old number -> new number of each node."""
    x, edges, weights, y = data()
    order = np.arange(NODES) if order is None else order
    back = np.argsort(order)
    rows = np.random.default_rng(1).permutation(NODES)
    x, edges = x[back], order[edges]
    options = {"tasks": dict(zip(NAMES, ("binary", "binary", "regression"), strict=True)), "recipe": RECIPE}
    if "pairs" in kind:
        ends = order[np.random.default_rng(2).integers(0, NODES, size=(NODES, 2))]
        split = {"train": rows[:24], "validation": rows[24:32], "test": rows[32:]}
        if kind == "own pairs":
            return from_graph(x, edges, y, pairs=ends, build_model=Bilinear, split=split, **options)
        return from_graph(x, edges, y, pairs=ends, hidden=(6, 6), split=split, **options)
    rows = order[rows]
    options["split"] = {"train": rows[:24], "validation": rows[24:32], "test": rows[32:]}
    if kind == "own":
        return from_graph(x, edges, y[back], model=Weighted(), edge_values={"edge_weight": weights}, **options)
    return from_graph(x, edges, y[back], layer=kind, hidden=(6, 6), **options)


def dense_outputs(workload: Workload, state: dict[str, Tensor], kind: str) -> Tensor:
    """Outputs of all rows from matrices: a second way to write the networks, without PyTorch Geometric."""
    x, edges, weights, _ = data()
    hidden, own = torch.from_numpy(x), {name.removeprefix("model."): value for name, value in state.items()}
    matrix = torch.zeros(NODES, NODES)
    matrix[edges[1], edges[0]] = torch.from_numpy(weights) if kind == "own" else 1.0
    if kind == "own":
        hidden = hidden @ own["conv.lin_root.weight"].T + matrix @ hidden @ own["conv.lin_rel.weight"].T
        hidden = torch.tanh(hidden + own["conv.lin_rel.bias"])
        return torch.cat([hidden @ own[f"heads.{n}.weight"].T + own[f"heads.{n}.bias"] for n in NAMES], 1)
    if kind in ("gcn", "own pairs"):
        matrix = matrix + torch.eye(NODES)
        scale = matrix.sum(1).rsqrt()
        matrix = scale[:, None] * matrix * scale
    else:
        matrix = matrix / matrix.sum(1, keepdim=True).clamp_min(1)
    if kind == "own pairs":
        hidden = torch.tanh(matrix @ hidden @ own["conv.lin.weight"].T + own["conv.bias"])
        source, target = hidden[workload.inputs].unbind(1)
        return torch.einsum("ri,oij,rj->ro", source, own["score.weight"], target) + own["score.bias"]
    for layer in ("convs.0", "convs.1"):
        if kind == "gcn":
            hidden = matrix @ hidden @ own[f"{layer}.lin.weight"].T + own[f"{layer}.bias"]
        else:
            around = matrix @ hidden @ own[f"{layer}.lin_l.weight"].T + own[f"{layer}.lin_l.bias"]
            hidden = around + hidden @ own[f"{layer}.lin_r.weight"].T
        hidden = hidden.relu()
    if kind == "pairs":
        source, target = hidden[workload.inputs].unbind(1)
        hidden = torch.cat([source, target, source * target], 1) @ own["pair.weight"].T + own["pair.bias"]
        hidden = hidden.relu()
    return hidden @ own["head.weight"].T + own["head.bias"]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * max(1e-3, float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_equal_dense_matrices(kind: str) -> None:
    workload = make(kind)
    validate(workload)
    model = workload.build_model(3)
    expected = dense_outputs(workload, model.state_dict(), kind)
    close(workload.outputs(model, workload.inputs), expected, 1e-5)
    some = torch.tensor([7, 3, 3, 31])
    close(workload.outputs(model, workload.batch(some)), expected[some], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_features_equal_the_plain_loop(kind: str, mode: str) -> None:
    workload = make(kind)
    model = workload.build_model(0)
    directions = RandomDirections.of(model, 5, seed=1)
    found = compute_features(workload, model, directions, FeatureOptions(heads="projected", mode=mode))
    assert not found.plan.batched
    assert mode in ("auto", found.plan.mode)
    for task, expected in enumerate(plain_features(workload, model, directions)):
        close(found.task(task).g, expected)
    outputs = dense_outputs(workload, model.state_dict(), kind)[found.rows]
    tasks = torch.repeat_interleave(torch.arange(3), found.starts.diff())
    close(found.offset, outputs[torch.arange(len(tasks)), tasks])


@pytest.mark.parametrize("kind", ["sage", "pairs", "own"])
def test_all_rows_share_a_pass(kind: str) -> None:
    workload = make(kind)
    model = workload.build_model(0)
    directions = RandomDirections.of(model, 60, seed=1)
    with warnings.catch_warnings(), TensorSizes() as sizes:
        warnings.simplefilter("error", FallbackWarning)  # one direction at a time is the plan, not a fallback
        found = compute_features(workload, model, directions, FeatureOptions(heads="projected"))
    assert (found.plan.mode, found.plan.rows_per_chunk) == ("forward", 24)
    assert "whole graph" in found.plan.reason
    assert sizes.peak <= 1.1 * (found.plan.bytes + found.plan.feature_bytes)


def test_a_graph_that_does_not_fit_is_refused() -> None:
    workload = make("sage")
    plan = plan_features(workload, None, 4)
    one_row = plan_features(workload, None, 4, memory=plan.bytes + plan.feature_bytes)
    assert one_row.rows_per_chunk == plan.rows_per_chunk
    with pytest.raises(ResourceError, match="working memory"):
        plan_features(workload, None, 4, memory=plan.feature_bytes + plan.bytes // 4)


def test_rows_of_a_batch_share_the_cost_of_a_pass() -> None:
    workload = make("sage")
    small, large = (
        measure_cost(replace(workload, recipe=replace(RECIPE, batch_size=size))).forward for size in (8, 16)
    )
    layers = 2 * 2 * NODES * 6 * (WIDTH + 6)  # two products a layer; multiplications and additions
    assert small == pytest.approx(layers / 8 + 2 * 6 * 3)
    assert large == pytest.approx(layers / 16 + 2 * 6 * 3)


@pytest.mark.parametrize("kind", ["sage", "pairs"])
def test_heads_of_the_built_in_network_are_exact(kind: str) -> None:
    workload = make(kind)
    model = workload.build_model(0)
    structure = find_structure(workload, model)
    assert all(head.linear for head in structure.heads)
    assert "model.convs.0.lin_l.weight" in structure.trunk
    assert validate_gradients(workload, model, examples=2).worst < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_training_equals_a_hand_written_loop(kind: str) -> None:
    workload = make(kind)
    job = Job((0, 2), seed=2)
    found = fit(workload, [job], backend="loop")[0]
    state, history, steps, best, _ = train(workload, job)
    assert (found.steps, found.best_step) == (steps, best)
    np.testing.assert_allclose([loss for _, loss in found.history], [loss for _, loss in history], rtol=1e-4)
    model = workload.build_model(0)
    model.load_state_dict(found.state)
    close(workload.outputs(model, workload.inputs)[:, [0, 2]], dense_outputs(workload, state, kind)[:, [0, 2]], 1e-3)


@pytest.mark.parametrize("kind", ["sage", "gcn", "pairs", "own"])
def test_numbers_of_nodes_do_not_matter(kind: str) -> None:
    plain, order = make(kind), np.random.default_rng(5).permutation(NODES)
    moved = make(kind, order)
    first, second = (fit(work, [Job((0, 1, 2), seed=0)], backend="loop")[0] for work in (plain, moved))
    np.testing.assert_allclose(first.test, second.test, rtol=1e-3)
    for name, value in first.state.items():
        if "digest" not in name:
            close(second.state[name], value, 1e-3)
    model, other = plain.build_model(0), moved.build_model(0)
    directions = RandomDirections.of(model, 3, seed=1)
    features, same = (
        compute_features(work, net, directions, FeatureOptions(heads="projected"))
        for work, net in ((plain, model), (moved, other))
    )
    # rows of a part keep the order of the split, and so do the pairs of a task
    close(same.g, features.g)
    close(same.targets, features.targets)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["sage", "gcn", "gat"]))
def test_outputs_follow_a_permutation(seed: int, layer: str) -> None:
    x, edges, _, y = data(seed % 7)
    order = np.random.default_rng(seed).permutation(NODES)
    parts = dict(
        zip(("train", "validation", "test"), np.split(np.arange(NODES), [NODES // 2, 3 * NODES // 4]), strict=True)
    )
    first = from_graph(x, edges, y, layer=layer, hidden=4, split=parts)
    shuffled = order[edges][:, np.random.default_rng(seed).permutation(edges.shape[1])]
    back = np.argsort(order)
    moved = {name: order[rows] for name, rows in parts.items()}
    second = from_graph(x[back], shuffled, y[back], layer=layer, hidden=4, split=moved)
    one, two = (work.outputs(work.build_model(1), work.inputs) for work in (first, second))
    close(two[torch.from_numpy(order)], one, 1e-5)


def test_models_are_not_stacked() -> None:
    workload = make("sage")
    stackable, reason = is_stackable(workload)
    assert not stackable
    assert "whole graph" in reason
    jobs = [Job((0,), seed=0), Job((1, 2), seed=1)]
    with pytest.warns(FallbackWarning, match="one after the other.*whole graph"):
        found = fit(workload, jobs)
    for one, expected in zip(found, fit(workload, jobs, backend="loop"), strict=True):
        np.testing.assert_array_equal(one.test, expected.test)
    with pytest.raises(ModelError, match="whole graph"):
        fit(workload, jobs, backend="population")


@pytest.mark.parametrize("inside", [False, True])
def test_vmap_is_refused_wherever_it_stands(inside: bool) -> None:
    workload = make("sage")
    model = workload.build_model(0)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def outputs(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, values, (workload.inputs,))

    def along(direction: dict[str, Tensor]) -> Tensor:
        return torch.func.jvp(outputs, (parameters,), (direction,))[1]

    along(parameters)
    stacked = {name: torch.stack([value, value]) for name, value in parameters.items()}
    with pytest.raises(RuntimeError, match="whole graph"):
        torch.func.vmap(along if inside else outputs)(stacked)


def test_the_graph_is_shared_and_not_saved() -> None:
    workload = make("own")
    first, second = workload.build_model(0), workload.build_model(1)
    assert first.x.data_ptr() == second.x.data_ptr()
    assert first.edge_edge_weight.data_ptr() == second.edge_edge_weight.data_ptr()
    assert [name for name in first.state_dict() if not name.startswith("model.")] == ["graph_digest"]


def test_another_graph_is_another_workload() -> None:
    x, edges, _, y = data()
    prints = [
        fingerprint(from_graph(features, links, y, hidden=4))
        for features, links in ((x, edges), (x, edges), (x, edges[:, 1:]), (x + 0.1, edges), (x, edges[::-1]))
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_a_run_is_served_on_its_graph_and_on_a_relabelled_one(tmp_path) -> None:
    order = np.random.default_rng(3).permutation(NODES)
    workload, moved = make("sage"), make("sage", order)
    result = coterie.run(workload, groups=2, seeds=2, bases=1, out=tmp_path / "run")
    asked = np.array([5, 0, 39])
    found = coterie.load(tmp_path / "run", workload=workload).predict(asked)
    assert list(found) == NAMES
    assert all(np.isfinite(value).all() and value.shape == (3,) for value in found.values())
    again = coterie.load(result, workload=moved).predict(order[asked])
    for name in NAMES:
        np.testing.assert_allclose(again[name], found[name], rtol=1e-4, atol=1e-5)
    everything = coterie.load(result, workload=workload).predict(np.arange(NODES))
    np.testing.assert_allclose(everything["a"][asked], found["a"], rtol=1e-5)


def test_lists_and_single_columns_are_picked() -> None:
    class Listed(Weighted):
        def forward(self, x: Tensor, edge_index: Tensor) -> list[Tensor]:
            return [value[:, 0] for value in super().forward(x, edge_index).values()]

    x, edges, _, y = data()
    workload = from_graph(x, edges, y, tasks=NAMES, model=Listed())
    assert workload.outputs(workload.build_model(0), torch.arange(4)).shape == (4, 3)


def test_dropout_is_trained_and_switched_off() -> None:
    class Dropped(Weighted):
        def forward(self, x: Tensor, edge_index: Tensor) -> dict[str, Tensor]:
            return super().forward(nn.functional.dropout(x, 0.5, training=self.training), edge_index)

    x, edges, _, y = data()
    workload = from_graph(x, edges, y, tasks=NAMES, model=Dropped(), recipe=RECIPE)
    validate(workload)
    stackable, reason = is_stackable(workload)
    assert not stackable
    assert "randomness" in reason


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"edge_index": np.zeros((7, 2), int)}, WorkloadError, "transposed"),
        ({"edge_index": np.zeros((2, 7))}, WorkloadError, "node numbers"),
        ({"edge_index": np.array([[0], [NODES]])}, WorkloadError, "from 0 to 39"),
        ({"pairs": np.array([[0, -1]])}, WorkloadError, "`pairs`"),
        ({"pairs": np.zeros((9, 2), int)}, WorkloadError, "row a pair"),
        ({"y": np.zeros((9, 3))}, WorkloadError, "row a node"),
        ({"x": {"kind": np.zeros((NODES, 2))}}, WorkloadError, "one array"),
        ({"x": np.zeros((NODES, 2), int)}, WorkloadError, "floating-point"),
        ({"x": np.full((NODES, 2), np.nan)}, WorkloadError, "missing"),
        ({"layer": "graph"}, SettingError, "`layer`"),
        ({"hidden": ()}, SettingError, "`hidden`"),
        ({"hidden": (4, 0)}, SettingError, "`hidden`"),
        ({"edge_values": {"edge_weight": np.ones(3)}}, WorkloadError, "one row an edge"),
        ({"edge_values": {"edge_weight": data()[2]}}, SettingError, "network of your own"),
        ({"model": Weighted, "build_model": Weighted}, SettingError, "exclude"),
        ({"build_model": Weighted, "pairs": np.zeros((NODES, 2), int)}, WorkloadError, "third argument"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], text: str) -> None:
    x, edges, _, y = data()
    with pytest.raises(error, match=text):
        from_graph(**{"x": x, "edge_index": edges, "y": y, **change})


def test_a_pooled_network_is_refused() -> None:
    class Pooled(Weighted):
        def forward(self, x: Tensor, edge_index: Tensor) -> dict[str, Tensor]:
            return {name: value.mean(0, keepdim=True) for name, value in super().forward(x, edge_index).items()}

    x, edges, _, y = data()
    workload = from_graph(x, edges, y, tasks=NAMES, model=Pooled())
    with pytest.raises(ModelError, match="one row of outputs a node"):
        validate(workload)


def test_without_pytorch_geometric_a_network_of_ones_own_works(monkeypatch) -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(WIDTH, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            hidden = self.first(x)
            return self.head(hidden.index_add(0, edge_index[1], hidden[edge_index[0]]).relu())

    monkeypatch.setitem(__import__("sys").modules, "torch_geometric.nn", None)
    x, edges, _, y = data()
    with pytest.raises(coterie.errors.MissingDependencyError, match=r"coterie\[graphs\]"):
        from_graph(x, edges, y)
    workload = from_graph(x, edges, y, tasks=NAMES, model=Dense())
    model = workload.build_model(0)
    directions = RandomDirections.of(model, 3)
    found = compute_features(workload, model, directions, FeatureOptions(heads="projected"))
    close(found.task(0).g, plain_features(workload, model, directions)[0])


@pytest.mark.gpu
def test_on_a_gpu_the_graph_moves_along() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    workload = make("pairs")
    moved = replace(workload).to("cuda")
    model, other = workload.build_model(0), moved.build_model(0)
    assert other.edge_index.device.type == "cuda"
    close(moved.outputs(other, moved.inputs).cpu(), workload.outputs(model, workload.inputs))
    directions = RandomDirections.of(model, 4, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(compute_features(moved, other, directions).g.cpu(), compute_features(workload, model, directions).g)


def test_a_network_that_writes_into_the_graph_changes_nothing() -> None:
    class Writing(Weighted):
        def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> dict[str, Tensor]:
            x += 1.0
            return super().forward(x, edge_index, edge_weight)

    rng = np.random.default_rng(0)
    x, edges = rng.normal(size=(NODES, WIDTH)), rng.integers(0, NODES, (2, 80))
    work = from_graph(x, edges, rng.integers(0, 2, (NODES, 3)).astype(float), tasks=NAMES, build_model=Writing)
    model = work.build_model(0)
    batch = work.batch(torch.arange(6))
    assert torch.equal(work.outputs(model, batch), work.outputs(model, batch))
