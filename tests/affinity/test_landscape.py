"""Landscape distances against naive loops, their symmetries, and the embedding and clustering that follow."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from torch.utils.flop_counter import FlopCounterMode

from coterie import Context
from coterie.affinity import get_estimator
from coterie.affinity.scores.graph_embedding import HEADS, attend, contrast, embed, embedding_flops, neighbours
from coterie.affinity.scores.landscape import SPECTRAL, Landscape
from coterie.affinity.scores.landscape_distances import l1_distances, landscape_distances, similarity
from coterie.affinity.scores.landscape_gradients import BLOCK, SampleGradients, choose_rows
from coterie.affinity.scores.landscape_heads import RIDGE, fit_heads, fit_linear
from coterie.affinity.scores.mixture import fill, graph_labels, mixture_labels
from coterie.errors import ResourceError, SettingError, WorkloadError
from coterie.features.plan import differentiable
from coterie.workload import Workload
from coterie.workload.losses import get_loss
from coterie.workload.structure import find_structure
from reference import landscape as reference
from reference import models
from reference.counting_store import CountingStore
from reference.training_workloads import make

BIG = 2**30
OPTIONS = [(True, False), (False, False), (True, True), (False, True)]


class Given:
    """Gradients that are given: (M, T, p) and a mask, in blocks of a size."""

    def __init__(self, g, seen, layers, size=3):
        self.g, self.seen, self.layers, self.size = torch.as_tensor(g), torch.as_tensor(seen), layers, size
        self.narrow_layers = layers

    def blocks(self):
        for g, seen in zip(self.g.split(self.size), self.seen.split(self.size), strict=True):
            yield g, seen, g


def in_double(kind: str) -> tuple[Workload, torch.nn.Module]:
    """A small workload and model in double precision."""
    work, model = models.make(kind)
    model = model.double()
    if isinstance(work.inputs, torch.Tensor) and work.inputs.is_floating_point() and kind not in ("gru", "attention"):
        work = replace(work, inputs=work.inputs.double())
    return replace(work, build_model=lambda seed: copy.deepcopy(model)), model


def measured(work, model, core, *, memory=BIG, coordinates=None, **options):
    trunk = find_structure(work, model).trunk
    with differentiable(model, warn=False):
        source = SampleGradients(work, model, trunk, core, coordinates, memory, lambda *_: None)
        return source, *landscape_distances(source, paired=core.paired, **options)


@pytest.mark.parametrize(("normalise", "per_layer"), OPTIONS)
@pytest.mark.parametrize("kind", ["mlp", "multiclass", "linear heads", "conv", "gru"])
def test_distances_row_by_row_are_those_of_real_one_step_optima(kind, normalise, per_layer) -> None:
    work, model = in_double(kind)
    core = choose_rows(work, 7, 1, 0)
    assert core.paired
    trunk = find_structure(work, model).trunk
    found, spread = measured(work, model, core, normalise=normalise, per_layer=per_layer)[1:]
    points = reference.optima(work, model, core.rows, core.seen, trunk)
    points = reference.in_units(points, work.n_tasks, reference.tensor_sizes(model, trunk), normalise, per_layer)
    np.testing.assert_allclose(found, reference.paired(points, work.n_tasks), rtol=1e-6)
    np.testing.assert_allclose(spread, reference.density(points, work.n_tasks), rtol=1e-6)


@pytest.mark.parametrize(("normalise", "per_layer"), OPTIONS)
@pytest.mark.parametrize("kind", ["mlp", "multiclass"])
def test_distances_over_random_pairs_are_energy_distances_of_real_one_step_optima(kind, normalise, per_layer) -> None:
    work, model = in_double(kind)
    core = choose_rows(work, 9, 1000, 0)
    assert not core.paired
    trunk = find_structure(work, model).trunk
    found, spread = measured(work, model, core, normalise=normalise, per_layer=per_layer)[1:]
    points = reference.optima(work, model, core.rows, core.seen, trunk)
    points = reference.in_units(points, work.n_tasks, reference.tensor_sizes(model, trunk), normalise, per_layer)
    expected = reference.unpaired(points, work.n_tasks, len(core.rows), BLOCK)
    assert (expected[np.triu_indices(work.n_tasks, 1)] > 0).any()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(spread, reference.density(points, work.n_tasks), rtol=1e-6)


@pytest.mark.parametrize(("kind", "rows"), [("mixed", "common"), ("mixed", "own")])
def test_memory_changes_the_passes_and_not_the_distances(kind, rows) -> None:
    work = make(kind, missing=0.2)
    model = work.build_model(0)
    core = choose_rows(work, 32, 1 if rows == "common" else 10**6, 0)
    plenty, first, first_spread = measured(work, model, core)
    step = 1 if core.paired else BLOCK
    row = 4 * work.n_tasks * sum(plenty.layers)
    scarce, second, second_spread = measured(work, model, core, memory=2 * (3 * step + 4) * row + 64)
    np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second_spread, first_spread, rtol=1e-5)
    assert plenty.passes == int(core.seen.sum())
    assert scarce.passes == 2 * plenty.passes
    with pytest.raises(ResourceError, match="coordinates"):
        measured(work, model, core, memory=2 * (3 * step + 4) * row - 64)


def test_coordinates_are_a_part_of_the_gradient() -> None:
    work, model = in_double("mlp")
    core, chosen = choose_rows(work, 7, 1, 0), torch.tensor([0, 3, 41, 50, 99])
    trunk = find_structure(work, model).trunk
    found = measured(work, model, core, coordinates=chosen, normalise=False)[1]
    points = reference.optima(work, model, core.rows, core.seen, trunk)
    points = {key: value[chosen.numpy()] for key, value in points.items()}
    np.testing.assert_allclose(found, reference.paired(points, work.n_tasks), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "linear"),
    [("mlp", True), ("multiclass", True), ("linear heads", True), ("conv", False), ("gru", False), ("dict", True)],
)
def test_linear_layers_are_found_and_give_the_same_gradients(kind, linear) -> None:
    work, model = models.make(kind)
    core = choose_rows(work, 8, 1, 0)
    source = measured(work, model, core)[0]
    assert (source.narrow_layers is not source.layers) == linear
    g, seen, narrow = next(source.blocks())
    where, task = seen.nonzero(as_tuple=True)
    with differentiable(model, warn=False):
        expected = source._one_by_one(core.rows[where, task], task)
    np.testing.assert_allclose(g[where, task], expected, rtol=1e-4, atol=1e-6)
    assert bool((g[~seen] == 0).all())
    for one, short in zip(g, narrow, strict=True):
        np.testing.assert_allclose(l1_distances(short), l1_distances(one), rtol=1e-4, atol=1e-6)


class SharedTwice(torch.nn.Module):
    """A linear layer that is called twice, or whose weight is used behind its back."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.layer, self.head, self.twice = torch.nn.Linear(5, 5), torch.nn.Linear(5, 3), twice

    def forward(self, x):
        z = torch.tanh(self.layer(x))
        return self.head(self.layer(z) if self.twice else z @ self.layer.weight)


@pytest.mark.parametrize("twice", [True, False])
def test_layers_that_are_used_in_another_way_are_left_to_plain_gradients(twice) -> None:
    torch.manual_seed(0)
    model = SharedTwice(twice)
    work = replace(models.make("mlp")[0], build_model=lambda seed: model)
    core, trunk = choose_rows(work, 7, 1, 0), ("layer.weight", "layer.bias")
    source, found, _ = measured(work, model, core, normalise=False)
    assert source.narrow_layers is source.layers
    points = reference.optima(work, model, core.rows, core.seen, trunk)
    np.testing.assert_allclose(found, reference.paired(points, work.n_tasks), rtol=1e-4)


def test_rows_of_the_coreset_have_labels_and_are_training_rows() -> None:
    work = make("mixed", missing=0.4, rows=80)
    train = set(work.split.train.tolist())
    for least in (1, 10**6):
        core = choose_rows(work, 20, least, 3)
        assert core.paired == (least == 1)
        assert set(core.rows.flatten().tolist()) <= train
        labelled = work.observed[core.rows, torch.arange(work.n_tasks)]
        assert torch.equal(labelled, core.seen)
        assert core.paired or bool(labelled.all())
    disjoint = choose_rows(make("mixed", blocks=True), 256, 1, 0)
    assert not disjoint.paired


@st.composite
def gradients(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tasks, rows = draw(st.integers(2, 5)), 8
    g = rng.normal(size=(rows, tasks, 6)) * rng.uniform(0.1, 5, size=(1, tasks, 1))
    seen = rng.random((rows, tasks)) < draw(st.sampled_from([0.6, 1.0]))
    seen[:2] = True
    return g * seen[..., None], seen, rng


@settings(max_examples=25)
@given(gradients(), st.booleans(), st.booleans(), st.booleans())
def test_reordering_the_tasks_reorders_everything(data, paired, normalise, per_layer) -> None:
    g, seen, rng = data
    options = {"paired": paired, "block": 4, "normalise": normalise, "per_layer": per_layer}
    order = rng.permutation(g.shape[1])
    values, spread = landscape_distances(Given(g, seen, [2, 4], 4), **options)
    other, other_spread = landscape_distances(Given(g[:, order], seen[:, order], [2, 4], 8), **options)
    np.testing.assert_allclose(other, values[np.ix_(order, order)], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other_spread, spread[order], rtol=1e-9)
    np.testing.assert_allclose(similarity(other), similarity(values)[np.ix_(order, order)], rtol=1e-9)
    np.testing.assert_allclose(values, values.T, rtol=1e-12)
    assert (np.diag(values) == 0).all()
    assert (values >= 0).all()


@settings(max_examples=25)
@given(gradients(), st.booleans(), st.booleans())
def test_scale_of_a_loss_matters_only_without_normalisation(data, paired, per_layer) -> None:
    g, seen, rng = data
    factors = rng.uniform(0.01, 100, size=(1, g.shape[1], 1))
    options = {"paired": paired, "block": 4, "per_layer": per_layer}
    before = landscape_distances(Given(g, seen, [2, 4], 4), normalise=True, **options)
    after = landscape_distances(Given(g * factors, seen, [2, 4], 4), normalise=True, **options)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-9)
    plain = landscape_distances(Given(g, seen, [2, 4], 4), normalise=False, paired=paired, block=4)
    scaled = landscape_distances(Given(7 * g, seen, [2, 4], 4), normalise=False, paired=paired, block=4)
    np.testing.assert_allclose(scaled[0], 7 * plain[0], rtol=1e-9, atol=1e-12)
    uneven = landscape_distances(Given(g * factors, seen, [2, 4], 4), normalise=False, paired=True)
    assert not np.allclose(uneven[0], landscape_distances(Given(g, seen, [2, 4], 4), normalise=False, paired=True)[0])


@pytest.mark.parametrize("width", [1, 5, 4096, 5000])
def test_l1_distances_of_wide_points(width) -> None:
    points = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    expected = (points.double()[:, None] - points.double()).abs().sum(-1)
    torch.testing.assert_close(l1_distances(points), expected, rtol=1e-5, atol=1e-6)


def test_per_layer_lets_a_small_tensor_count_as_much_as_a_large_one() -> None:
    """Two tasks that differ in the small tensor only, two others that differ in the large one only."""
    base = np.ones((8, 1, 101))
    g = np.repeat(base, 3, 1)
    g[:, 1, 0] = -1
    g[:, 2, 1:] = -1
    seen = np.ones((8, 3), bool)
    plain = landscape_distances(Given(g, seen, [1, 100]), paired=True, per_layer=False)[0]
    fair = landscape_distances(Given(g, seen, [1, 100]), paired=True, per_layer=True)[0]
    assert plain[0, 2] == pytest.approx(100 * plain[0, 1])
    assert fair[0, 2] == pytest.approx(fair[0, 1])


@pytest.mark.parametrize("kind", ["binary", "regression", "multiclass"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_heads_are_the_optimum_that_scikit_learn_finds(kind, bias) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    scale = x.std(0) if bias else np.sqrt((x**2).mean(0))
    score = x @ rng.normal(size=4) + rng.normal(size=200)
    y = {"binary": score > 0.5, "regression": score, "multiclass": np.digitize(score, [-1, 1])}[kind].astype(float)
    width = 3 if kind == "multiclass" else 1
    weight, shift, _ = fit_linear(torch.tensor(x), torch.tensor(y), get_loss(kind), width, bias=bias)
    if kind == "regression":
        solver = Ridge(alpha=RIDGE * 200 / 2, fit_intercept=bias, tol=1e-12).fit(x / scale, y)
    else:
        solver = LogisticRegression(C=1 / (RIDGE * 200), fit_intercept=bias, tol=1e-10, max_iter=1000).fit(x / scale, y)
    expected = x / scale @ np.atleast_2d(solver.coef_).T + solver.intercept_
    found = (torch.tensor(x) @ weight.T + shift).numpy()
    if kind == "multiclass":  # an output may be added to all
        found, expected = found - found.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("separate", [False, True])
def test_fitting_heads_lowers_every_loss_and_leaves_the_trunk(separate) -> None:
    work = make("mixed", missing=0.3, separate=separate)
    model = work.build_model(0)
    structure = find_structure(work, model)
    before = copy.deepcopy(model.state_dict())
    rows = work.split.train

    def losses():
        with torch.no_grad():
            margins = work.margins(work.outputs(model, work.batch(rows)), work.targets[rows])
            found = work.losses(margins, work.targets[rows])
        return torch.where(work.observed[rows], found, 0.0).sum(0) / work.observed[rows].sum(0)

    start = losses()
    with differentiable(model, warn=False):
        fit_heads(work, model, structure, 0)
    assert bool((losses() < start).all())
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in structure.trunk)
    assert not any(torch.equal(model.state_dict()[name], before[name]) for name in structure.head_names)


def test_attention_is_that_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, HEADS, 6, 3))
    left, right = rng.normal(size=(2, HEADS, 3)), rng.normal(size=(2, HEADS, 3))
    w = rng.uniform(0.1, 1, size=(5, 5))
    edges = np.where(neighbours((w + w.T) / 2, 2), w, 0.0)
    assert (edges == 0).any()
    found = attend(*(torch.from_numpy(value) for value in (x, weight, left, right, edges))).numpy()
    for network in range(2):
        expected = reference.attention(x[network], weight[network], left[network], right[network], edges)
        np.testing.assert_allclose(found[network], expected, rtol=1e-9)


def planted(sizes, seed, noise=0.02):
    """Weights near 1 / e, as real ones are, a little larger within blocks; and the block of each task."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    w = 0.33 + 0.1 * (truth[:, None] == truth) + noise * rng.normal(size=(len(truth), len(truth)))
    w = (w + w.T) / 2
    np.fill_diagonal(w, 1.0)
    return w, truth


def same_groups(left, right):
    return ((left[:, None] == left) == (right[:, None] == right)).all()


@pytest.mark.parametrize("seed", range(3))
def test_planted_blocks_are_found(seed) -> None:
    w, truth = planted([4, 3, 5], seed)
    assert same_groups(graph_labels(w, 3), truth)
    found = embed(w, np.ones(len(w)), seed=seed)
    assert same_groups(mixture_labels(found.points, 3), truth)
    together = truth[:, None] == truth
    assert found.weights[together].min() > found.weights[~together].max()
    assert np.allclose(found.weights, found.weights.T)
    assert found.weights.shape == (12, 12)
    assert found.losses.shape == (10,)


def test_the_contrast_keeps_the_embedding_from_collapsing() -> None:
    w, _ = planted([4, 4], 0)
    scores = contrast(w)
    pairs = scores[np.triu_indices(8, 1)]
    assert pairs.mean() == pytest.approx(0, abs=1e-12)
    assert pairs.std() == pytest.approx(1)
    np.testing.assert_allclose(contrast(3 * w + 1), scores, atol=1e-9)
    assert embed(w, np.ones(8), seeds=2).weights.std() > 0.1
    alike = embed(np.full((4, 4), 0.5), np.zeros(4), seeds=1, steps=5)
    assert np.isfinite(alike.weights).all()


def test_every_label_is_used_for_every_number_of_groups() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([np.zeros((4, 3)), rng.normal(size=(3, 3))])  # four tasks coincide
    w = planted([3, 4], 0)[0]
    for k in range(1, 8):
        for labels in (mixture_labels(points, k), graph_labels(w, k), graph_labels(np.ones((7, 7)), k)):
            assert sorted(set(labels.tolist())) == list(range(k))
            assert labels[0] == 0
    assert sorted(set(fill(np.zeros(4, np.int64), 3, np.arange(4.0)[:, None]).tolist())) == [0, 1, 2]
    for k in (0, 8, 1.5):
        with pytest.raises(SettingError, match="`k`"):
            mixture_labels(points, k)
        with pytest.raises(SettingError, match="`k`"):
            graph_labels(w, k)


def twins(missing: float, *, blocks: bool = False) -> Workload:
    """Four tasks, of which the last is a copy of the first."""
    work = make("binary", rows=600 if blocks else 160, missing=missing)
    labels = work.labels.clone()
    if blocks:  # no row has labels of two tasks that are not copies
        owner = torch.arange(len(labels)) % 3
        labels[:, :3][torch.arange(3) != owner[:, None]] = torch.nan
    labels[:, 3] = labels[:, 0]
    return replace(work, labels=labels)


@pytest.mark.parametrize(("missing", "blocks"), [(0.0, False), (0.3, False), (0.0, True)])
@pytest.mark.parametrize("embedding", ["gat", "spectral"])
def test_two_copies_of_a_task_are_put_together(missing, blocks, embedding) -> None:
    work = twins(missing, blocks=blocks)
    estimate = Landscape(samples=128, embedding=embedding, links=2, seeds=3).estimate(work)
    assert ("row by row" in estimate.notes[0]) != blocks
    distances = -replace(SPECTRAL, samples=128).estimate(work).model.pairwise().values
    assert distances[0, 3] < 1e-5
    assert min(distances[0, 1], distances[0, 2]) > 1e-3
    for k in (2, 3):
        labels = estimate.cluster(k)
        assert labels[0] == labels[3]
        assert sorted(set(labels.tolist())) == list(range(k))
    values = estimate.model.affinity.values
    assert values[0, 3] > max(values[0, 1], values[0, 2])
    np.testing.assert_array_equal(values, values.T)


def test_heads_of_copies_agree_only_after_the_warm_up() -> None:
    work = twins(0.0)
    cold = -replace(SPECTRAL, samples=64, warm_up=False).estimate(work).model.affinity.values
    assert cold[0, 3] > 0.1


def test_the_same_seed_gives_the_same_numbers_and_both_variants_share_the_distances() -> None:
    work, store = make("mixed", missing=0.2), CountingStore()
    settings_ = Landscape(samples=24, seeds=2, steps=20, min_common=4)
    first = settings_.estimate(work, context=Context(store=store))
    spectral = replace(settings_, embedding="spectral").estimate(work, context=Context(store=store))
    assert store.computed == ["landscape-distances", "landscape-embedding"]
    again, other = settings_.estimate(work), settings_.estimate(work, context=Context(seed=1))
    np.testing.assert_array_equal(first.model.affinity.values, again.model.affinity.values)
    assert not np.allclose(first.model.affinity.values, other.model.affinity.values)
    assert first.cluster(2).tolist() == again.cluster(2).tolist()
    stages = {row["stage"]: row["flops"] for row in spectral.costs.rows()}
    core = choose_rows(work, 24, 4, 0)
    labels, unit = int(core.seen.sum()), spectral.costs.unit
    trunk = find_structure(work, work.build_model(0)).trunk
    size = sum(work.build_model(0).get_parameter(name).shape[0] for name in trunk)  # outputs of the linear layers
    pairs = len(core.rows) * work.n_tasks * (work.n_tasks - 1) / 2
    assert stages["gradients of examples"] == labels * unit.training + 3 * pairs * size
    assert stages["heads"] > len(work.split.train) * unit.forward
    assert first.costs.flops - spectral.costs.flops == embedding_flops(4, dimensions=8, steps=20, seeds=2)


def test_flops_of_the_embedding_are_those_of_its_matrix_products() -> None:
    with FlopCounterMode(display=False) as counter:
        embed(planted([5, 5], 0)[0], np.ones(10), steps=20, seeds=2)
    # the pass that reads the result off is not counted, nor are gradients that nobody needs
    counted, booked = counter.get_total_flops(), embedding_flops(10, dimensions=8, steps=20, seeds=2)
    assert counted == pytest.approx(booked, rel=0.25)


def test_names_and_settings() -> None:
    assert get_estimator("landscape").name == "landscape"
    assert get_estimator("landscape-spectral").name == "landscape-spectral"
    assert get_estimator("landscape", samples=64, coordinates=500).to_dict()["coordinates"] == 500
    for wrong in (
        {"embedding": "umap"}, {"samples": 0}, {"normalise": 1}, {"coordinates": 0}, {"links": 1.5}, {"warm_up": "no"}
    ):  # fmt: skip
        with pytest.raises(SettingError, match=next(iter(wrong))):
            Landscape(**wrong)


def test_a_part_of_the_coordinates_gives_nearly_the_same_distances() -> None:
    work = make("regression", rows=120)
    whole = -replace(SPECTRAL, samples=64).estimate(work).model.affinity.values
    part = -replace(SPECTRAL, samples=64, coordinates=60).estimate(work).model.affinity.values
    pairs = np.triu_indices(4, 1)
    assert np.corrcoef(whole[pairs], part[pairs])[0, 1] > 0.8
    assert not np.allclose(whole, part)


def test_tasks_with_a_single_label_are_no_obstacle() -> None:
    work = make("binary", rows=60)
    labels = work.labels.clone()
    labels[work.split.train[1:], 0] = torch.nan
    estimate = Landscape(samples=16, seeds=2, steps=10).estimate(replace(work, labels=labels))
    assert np.isfinite(estimate.model.affinity.values).all()
    assert len(estimate.cluster(3)) == 4


def test_a_task_without_training_labels_is_named() -> None:
    work = make("binary", rows=60)
    labels = work.labels.clone()
    labels[work.split.train, 2] = torch.nan
    with pytest.raises(WorkloadError, match="'c'"):
        SPECTRAL.estimate(replace(work, labels=labels))


@pytest.mark.parametrize("min_common", [4, 10**6])
def test_the_order_of_the_tasks_of_a_workload_does_not_matter(min_common) -> None:
    work, order = make("binary", rows=120, missing=0.2), [2, 0, 3, 1]
    tasks = tuple(work.tasks[task] for task in order)
    other = replace(work, tasks=tasks, labels=work.labels[:, order])
    settings_ = replace(SPECTRAL, samples=32, min_common=min_common)
    first, second = settings_.estimate(work), settings_.estimate(other)
    values = first.model.affinity.values[np.ix_(order, order)]
    np.testing.assert_allclose(second.model.affinity.values, values, rtol=1e-4, atol=1e-5)
    assert same_groups(first.cluster(2)[order], second.cluster(2))


def test_two_tasks() -> None:
    work = make("multiclass", rows=60)
    for settings_ in (Landscape(samples=16, seeds=2, steps=10), replace(SPECTRAL, samples=16)):
        estimate = settings_.estimate(work)
        assert np.isfinite(estimate.model.affinity.values).all()
        assert estimate.cluster(1).tolist() == [0, 0]
        assert estimate.cluster(2).tolist() == [0, 1]
