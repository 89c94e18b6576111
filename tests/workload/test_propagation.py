"""Features spread over a graph against powers of dense matrices, PyTorch Geometric, and full-graph passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coterie.errors import SettingError, WorkloadError
from coterie.training import fit
from coterie.training.job import Job
from coterie.workload import Recipe, from_arrays, from_graph, propagate

WAYS = [("symmetric", True), ("symmetric", False), ("mean", True), ("mean", False)]


def drawn(seed, nodes=12, count=40, width=3):
    """Features and edges with some twice, some loops, and node 0 without edges into it."""
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, nodes, size=(2, count))
    edges[1, edges[1] == 0] = 1
    return rng.normal(size=(nodes, width)), np.concatenate([edges, edges[:, :3], [[2], [2]]], 1)


def dense(x, edges, hops, weighting, loops):
    """The same by a dense matrix in float64."""
    matrix = np.zeros((len(x), len(x)))
    for source, target in edges.T:
        if source != target:
            matrix[target, source] += 1
    matrix += loops * np.eye(len(x))
    degree = matrix.sum(1)
    scale = np.diag([1 / one if one else 0 for one in degree])
    matrix = scale**0.5 @ matrix @ scale**0.5 if weighting == "symmetric" else scale @ matrix
    return np.concatenate([np.linalg.matrix_power(matrix, hop) @ x for hop in range(hops + 1)], 1)


@pytest.mark.parametrize(("weighting", "loops"), WAYS)
def test_equals_powers_of_a_dense_matrix(weighting, loops):
    x, edges = drawn(0)
    found = propagate(x, edges, hops=3, weighting=weighting, self_loops=loops)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, dense(x, edges, 3, weighting, loops), atol=1e-6)
    last = propagate(x, edges, hops=3, weighting=weighting, self_loops=loops, keep="last")
    np.testing.assert_array_equal(last, found[:, 9:])


def test_columns_in_blocks_are_the_same(monkeypatch):
    x, edges = drawn(1, width=7)
    whole = propagate(x, edges)
    monkeypatch.setattr("coterie.workload.propagation.BLOCK", 3 * 4 * 12 * 2)  # two columns
    np.testing.assert_array_equal(propagate(x, edges), whole)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), way=st.sampled_from(WAYS))
def test_follows_a_renumbering_of_nodes_and_any_order_of_edges(seed, way):
    x, edges = drawn(seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    place = np.argsort(order)  # old number -> new number
    moved = propagate(x[order], place[edges][:, rng.permutation(edges.shape[1])], weighting=way[0], self_loops=way[1])
    np.testing.assert_allclose(moved, propagate(x, edges, weighting=way[0], self_loops=way[1])[order], atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_equals_sgc_and_sign_of_pytorch_geometric():
    geometric = pytest.importorskip("torch_geometric")
    x, edges = drawn(2)
    edges = np.ascontiguousarray(edges[:, edges[0] != edges[1]])
    x, edge_index = torch.tensor(x, dtype=torch.float32), torch.tensor(edges)
    layer = geometric.nn.SGConv(3, 3, K=2, bias=False)
    layer.lin.weight.data = torch.eye(3)
    np.testing.assert_allclose(propagate(x, edges, keep="last"), layer(x, edge_index).detach().numpy(), atol=1e-6)
    data = geometric.data.Data(x=x, edge_index=edge_index)
    try:
        data = geometric.transforms.SIGN(2)(data)
    except ImportError:
        pytest.skip("the transform SIGN needs torch_sparse here")
    expected = torch.cat([data.x, data.x1, data.x2], 1).numpy()
    np.testing.assert_allclose(propagate(x, edges, self_loops=False), expected, atol=1e-6)


class Simple(nn.Module):
    """SGC as a network on the whole graph."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.linear(self.matrix @ (self.matrix @ x))


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_trainings_on_rows_equal_passes_over_the_graph():
    x, edges = drawn(3, nodes=60, count=200)
    y = np.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0], 1).astype(float)
    step = torch.tensor(dense(np.eye(60), edges, 1, "symmetric", True)[:, 60:], dtype=torch.float32)
    settings = {"tasks": ["a", "b"], "recipe": Recipe(epochs=3, batch_size=8, learning_rate=0.05)}
    on_graph = from_graph(x, edges, y, model=Simple(step), initial="given", **settings)
    linear = on_graph.build_model(0).model.linear
    on_rows = from_arrays(
        propagate(x, edges, keep="last"), y, model=linear, initial="given", standardize=False, **settings
    )
    jobs = [Job((0, 1), 0), Job((1,), 0)]
    for one, other in zip(fit(on_graph, jobs), fit(on_rows, jobs), strict=True):
        np.testing.assert_allclose(one.test, other.test, rtol=1e-5)
        np.testing.assert_allclose(one.validation, other.validation, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"edge_index": np.array([[0, 1], [1, 99]])}, WorkloadError, "from 0 to 11"),
        ({"edge_index": np.array([[0, -1], [1, 2]])}, WorkloadError, "from 0 to 11"),
        ({"edge_index": np.zeros((5, 2), dtype=int)}, WorkloadError, "transposed"),
        ({"edge_index": np.zeros((2, 5))}, WorkloadError, "whole numbers"),
        ({"x": np.zeros((12, 2, 2))}, WorkloadError, "one row"),
        ({"x": np.full((12, 2), np.nan)}, WorkloadError, "`x`"),
        ({"x": {"a": np.zeros((12, 2))}}, WorkloadError, "mapping"),
        ({"hops": 0}, SettingError, "`hops`"),
        ({"hops": 1.5}, SettingError, "`hops`"),
        ({"weighting": "max"}, SettingError, "`weighting`"),
        ({"keep": "first"}, SettingError, "`keep`"),
    ],
)
def test_bad_input_is_refused(change, error, word):
    x, edges = drawn(4)
    with pytest.raises(error, match=word):
        propagate(**{"x": x, "edge_index": edges, **change})


def test_a_graph_without_edges_is_its_features():
    x = np.arange(6.0).reshape(3, 2)
    found = propagate(x, np.zeros((2, 0), dtype=int), hops=1)
    np.testing.assert_array_equal(found, np.concatenate([x, x], 1))
