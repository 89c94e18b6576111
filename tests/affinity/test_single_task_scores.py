"""Scores from single-task models against plain loops, and what must hold for any of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from coterie import Context
from coterie.affinity import get_estimator
from coterie.affinity.costs import prepare
from coterie.affinity.scores.attribution import Attribution, attribution_maps, summed_cosines
from coterie.affinity.scores.label_correlation import LabelCorrelation, correlations, label_overlap
from coterie.affinity.scores.label_injection import (
    LabelInjection,
    choose_pairs,
    common_pairs,
    label_codes,
    shuffled,
)
from coterie.affinity.scores.rsa import Rsa, dissimilarities, rank_correlations
from coterie.affinity.scores.single_tasks import sample_rows, single_task_fits
from coterie.affinity.scores.taxonomy import Taxonomy, cut_tree, merge_tree, path_lengths, transfer_similarity
from coterie.affinity.scores.transfer import transfer_losses
from coterie.errors import DataWarning, ModelError, ResourceError, SettingError, WorkloadError
from coterie.store.arrays import MemoryRun
from coterie.training.job import derive
from coterie.workload import Recipe, Split, Task, Workload
from reference import single_task_scores as plain
from reference.training_workloads import Fused, make, seeded

METHODS = {
    "rsa": {"rows": 20},
    "attribution": {"rows": 20},
    "taxonomy": {},
    "label-correlation": {},
    "label-injection": {"epochs": 0.5},
}
SYMMETRIC = ("rsa", "attribution", "taxonomy", "label-correlation")
CASES = {
    "mixed": {"kind": "mixed", "rows": 150, "missing": 0.2},
    "binary": {"kind": "binary", "rows": 120, "separate": True},
    "classes": {"kind": "multiclass", "rows": 120, "missing": 0.2},
}


@pytest.fixture(scope="module", params=CASES)
def trained(request):
    context = prepare(make(**CASES[request.param]), Context(store=MemoryRun()))
    return context, single_task_fits(context)


def values_of(method, workload, **options):
    return get_estimator(method, **{**METHODS[method], **options}).estimate(workload).model.affinity.values


def off_diagonal(values):
    return values[~np.eye(len(values), dtype=bool)]


def plain_features(context, fits, rows):
    """Representations by calling the trunk of each model by hand."""
    features = []
    for fit in fits:
        model = context.workload.build_model(0).eval()
        model.load_state_dict(fit.state)
        with torch.no_grad():
            features.append(model.trunk(context.workload.inputs[rows]).double().numpy())
    return features


def test_rsa_equals_plain_loops(trained):
    context, fits = trained
    estimate = Rsa(rows=15).estimate(context.workload, context=Context(store=context.context.store))
    rows = sample_rows(context.workload, 15, 0)
    assert len(rows) == 15
    want = plain.rsa(plain_features(context, fits, rows))
    assert off_diagonal(estimate.model.affinity.values) == pytest.approx(off_diagonal(want), abs=1e-5)
    assert off_diagonal(want).std() > 1e-3 or len(want) == 2


def test_attribution_equals_plain_loops(trained):
    context, fits = trained
    got = (
        Attribution(rows=15)
        .estimate(context.workload, context=Context(store=context.context.store))
        .model.affinity.values
    )
    rows = sample_rows(context.workload, 15, 0)
    want = plain.attribution(context.workload, [fit.state for fit in fits], rows)
    assert off_diagonal(got) == pytest.approx(off_diagonal(want), abs=1e-6)
    little = replace(context, context=Context(memory=1))  # one row at a time
    in_parts = Attribution(rows=15)._compare(little, fits, rows).arrays["values"]
    assert off_diagonal(in_parts) == pytest.approx(off_diagonal(got), abs=1e-6)


def test_transfer_equals_a_general_optimiser(trained):
    context, fits = trained
    split = context.workload.split
    train, validation = (plain_features(context, fits, rows) for rows in (split.train, split.validation))
    got = transfer_losses(context, fits, 0.05, lambda *_: None)
    n = context.workload.n_tasks
    want = [[plain.head_loss(context.workload, t, train[s], validation[s], 0.05) for s in range(n)] for t in range(n)]
    assert got == pytest.approx(np.array(want), rel=1e-4)
    little = replace(context, context=Context(memory=1))  # one trunk at a time
    assert transfer_losses(little, fits, 0.05, lambda *_: None) == pytest.approx(got, rel=1e-6)


def test_taxonomy_is_the_tree_of_the_transfers(trained):
    context, fits = trained
    estimate = Taxonomy(ridge=0.05).estimate(context.workload, context=Context(store=context.context.store))
    losses = transfer_losses(context, fits, 0.05, lambda *_: None)
    similarity = plain.similarity_of(losses)
    assert transfer_similarity(losses) == pytest.approx(similarity, abs=1e-9)
    assert np.array_equal(estimate.model.affinity.values, -plain.tree_distances(similarity))
    assert estimate.cluster is not None
    assert len(set(estimate.cluster(2).tolist())) == 2


@pytest.mark.parametrize("kind", ["mixed", "multiclass", "regression"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_label_correlation_equals_plain_loops(kind, missing):
    workload = make(kind, rows=120, missing=missing)
    assert values_of("label-correlation", workload) == pytest.approx(plain.label_correlation(workload, 10), abs=1e-9)
    if kind == "regression":
        signed = values_of("label-correlation", workload, signed=True)
        assert signed == pytest.approx(plain.label_correlation(workload, 10, signed=True), abs=1e-9)
        assert signed.min() < 0


def test_label_correlation_fills_in_pairs_with_few_common_labels():
    workload = make("regression", rows=200)
    labels = workload.labels.clone()
    labels[workload.split.train[:60], 0] = torch.nan  # tasks 0 and 1 share no training row
    labels[workload.split.train[60:], 1] = torch.nan
    workload = replace(workload, labels=labels)
    estimate = LabelCorrelation().estimate(workload)
    values = estimate.model.affinity.values
    known = [values[a, b] for a in range(4) for b in range(4) if a != b and {a, b} != {0, 1}]
    assert values[0, 1] == values[1, 0] == pytest.approx(np.mean(known))
    assert values == pytest.approx(plain.label_correlation(workload, 10), abs=1e-9)
    assert "1 pairs" in estimate.notes[0]
    assert estimate.costs.flops == 0


@pytest.mark.parametrize("control", ["target", "pair"])
@pytest.mark.parametrize("kind", ["mixed", "multiclass"])
def test_label_injection_equals_plain_trainings(kind, control):
    workload = make(kind, rows=90, missing=0.3, epochs=6)
    got = LabelInjection(epochs=0.5, control=control).estimate(workload, context=Context(seed=3)).model.affinity.values
    recipe = replace(workload.recipe, epochs=3)
    codes = label_codes(workload)
    noise = [shuffled(code, workload.observed[:, t], derive(3, 63, t)) for t, code in enumerate(codes)]
    n = workload.n_tasks
    for a in range(n):
        for b in set(range(n)) - {a}:
            with_label = plain.told_loss(workload, a, codes[b], 3, recipe)
            without = plain.told_loss(workload, a, noise[a if control == "target" else b], 3, recipe)
            assert got[a, b] == pytest.approx((without - with_label) / without, abs=1e-4)


def test_label_injection_is_directed_and_rows_are_targets():
    """|b| is known from b, but b is not known from |b|; the inputs say nothing."""
    rng = np.random.default_rng(0)
    b = rng.normal(size=600).astype(np.float32)
    labels = np.stack([(np.abs(b) > 0.7).astype(np.float32), b], 1)
    n = torch.arange(600)
    workload = Workload(
        "told",
        (Task("size", "binary"), Task("number", "regression")),
        torch.from_numpy(rng.normal(size=(600, 3)).astype(np.float32)),
        torch.from_numpy(labels),
        Split(n[:400], n[400:500], n[500:]),
        seeded(lambda: Fused(3, 2)),
        Recipe(learning_rate=0.02, epochs=40, batch_size=50, patience=None),
    )
    values = values_of("label-injection", workload, epochs=1.0)
    assert values[0, 1] > 0.3
    assert abs(values[1, 0]) < 0.1


def test_label_injection_without_common_rows_trains_nothing():
    workload = make("regression", rows=160, blocks=True)
    assert common_pairs(workload) == []
    estimate = LabelInjection().estimate(workload)
    assert not estimate.model.affinity.values.any()
    assert estimate.costs.flops == 0
    assert any("no common training rows" in note for note in estimate.notes)


def test_label_injection_with_few_pairs_fills_in_the_mean_of_the_target():
    workload = make("mixed", rows=90)
    full = values_of("label-injection", workload)
    few = values_of("label-injection", workload, pairs=8)
    kept = [(a, b) for a in range(4) for b in range(4) if a != b and few[a, b] == pytest.approx(full[a, b], abs=1e-5)]
    assert len(kept) == 8
    for a in range(4):
        own = [few[pair] for pair in kept if pair[0] == a]
        assert len(own) == 2
        (other,) = [few[a, b] for b in range(4) if a != b and (a, b) not in kept]
        assert other == pytest.approx(np.mean(own))


def test_label_codes_are_standardised_on_the_training_part_and_0_where_missing():
    workload = make("mixed", rows=200, missing=0.3)
    for task, code in enumerate(label_codes(workload)):
        assert code.shape == (200, workload.tasks[task].width)
        seen = workload.observed[:, task]
        assert not code[~seen].any()
        rows = workload.split.train[seen[workload.split.train]]
        assert code[rows].mean(0) == pytest.approx(np.zeros(code.shape[1]), abs=1e-5)
        assert code[rows].std(0, unbiased=False) == pytest.approx(np.ones(code.shape[1]), abs=1e-4)
        mixed = shuffled(code, seen, 5)
        assert torch.equal(mixed[seen].sort(0).values, code[seen].sort(0).values)
        assert not torch.equal(mixed, code)
        assert not mixed[~seen].any()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 8), count=st.integers(1, 70), seed=st.integers(0, 99))
def test_pairs_are_spread_over_targets(n, count, seed):
    everything = [(a, b) for a in range(n) for b in range(n) if a != b]
    chosen = choose_pairs(everything, count, seed)
    assert len(set(chosen)) == len(chosen) == min(count, len(everything))
    assert set(chosen) <= set(everything)
    per_target = [sum(pair[0] == a for pair in chosen) for a in range(n)]
    assert max(per_target) - min(per_target) <= 1


@pytest.mark.parametrize("method", SYMMETRIC)
def test_symmetric_scores_are_symmetric_with_a_diagonal_of_0(method):
    values = values_of(method, make("mixed", rows=120, missing=0.2))
    assert np.array_equal(values, values.T)
    assert not np.diag(values).any()
    assert len(set(np.round(off_diagonal(values), 6))) > 1


@pytest.mark.parametrize("method", METHODS)
def test_tasks_with_rows_of_their_own_and_missing_labels(method):
    workload = make("regression", rows=160, blocks=True)
    if method == "label-correlation":
        with pytest.warns(DataWarning, match="same training rows"):
            values = values_of(method, workload)
        assert not values.any()
    else:
        values = values_of(method, workload)
    assert np.isfinite(values).all()


def test_the_same_trainings_serve_all_scores():
    names = []

    class Counting(MemoryRun):
        def unit(self, name, key, compute):
            def counted():
                names.append(name)
                return compute()

            return super().unit(name, key, counted)

    store, workload = Counting(), make("mixed", rows=90)
    costs = [
        get_estimator(method).estimate(workload, context=Context(store=store)).costs
        for method in ("rsa", "attribution", "taxonomy")
    ]
    assert names == ["single-tasks", "rsa", "attribution", "transfer"]
    booked = {cost.entries["single-task models"][0] for cost in costs}
    assert len(booked) == 1
    assert booked.pop() > 0  # each is quoted as if it stood alone
    again = get_estimator("taxonomy").estimate(workload, context=Context(store=store))
    assert again.costs.flops == costs[2].flops
    assert len(names) == 4


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.embedding(x.long()).mean(1))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(6, 3), nn.Linear(5, 3), nn.Linear(3, 4)

    def forward(self, code, numbers):
        return self.head(torch.tanh(self.body(numbers) + self.embedding(code)))


def test_inputs_without_floating_point_numbers_are_refused():
    workload = make("binary", build=Tokens)
    tokens = replace(workload, inputs=torch.randint(0, 6, (60, 5)))
    for method in ("attribution", "label-injection"):
        with pytest.raises(WorkloadError, match=r"floating-point.*int64"):
            values_of(method, tokens)
    assert np.isfinite(values_of("rsa", tokens)).all()
    with pytest.raises(ModelError, match="differentiated"):  # token numbers given as floating-point numbers
        values_of("attribution", replace(workload, inputs=tokens.inputs.float()))


def test_mappings_of_inputs_are_told_and_attributed_to_their_floating_point_part():
    workload = make("binary", rows=120, build=TwoInputs)
    both = {"code": torch.arange(120) % 6, "numbers": workload.inputs}
    workload = replace(workload, inputs=both)
    maps = attribution_maps(workload, workload.build_model(0), 1, torch.arange(4))
    assert maps.shape == (4, 5)
    for method in METHODS:
        assert np.isfinite(values_of(method, workload)).all()


def test_images_are_averaged_over_channels():
    class Image(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 2, 2), nn.Linear(2, 4)

        def forward(self, x):
            return self.head(torch.tanh(self.body(x)).mean((2, 3)))

    workload = replace(make("binary", build=Image), inputs=torch.randn(60, 3, 4, 4))
    maps = attribution_maps(workload, workload.build_model(0), 2, torch.arange(5))
    x = workload.inputs[:5].clone().requires_grad_()
    workload.build_model(0)(x)[:, 2].sum().backward()
    assert maps == pytest.approx((x * x.grad).abs().mean(1).flatten(1).detach().double(), abs=1e-6)
    for method in ("attribution", "label-injection", "rsa"):
        assert np.isfinite(values_of(method, workload)).all()


def test_heads_that_are_no_module_are_named():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Linear(5, 4)
            self.weights = nn.ParameterList(torch.randn(4) for _ in range(4))

        def forward(self, x):
            h = torch.tanh(self.trunk(x))
            return [h @ weight for weight in self.weights]

    with pytest.raises(ModelError, match="'a'"):
        values_of("rsa", make("binary", build=Loose))


def test_too_little_memory_is_said_beforehand():
    with pytest.raises(ResourceError, match="rows"):
        Rsa(rows=20).estimate(make("binary", rows=120), context=Context(memory=1000))


@pytest.mark.parametrize(
    ("method", "options", "name"),
    [
        ("rsa", {"rows": 2}, "rows"),
        ("attribution", {"rows": 0}, "rows"),
        ("taxonomy", {"ridge": 0.0}, "ridge"),
        ("label-correlation", {"minimum": 1}, "minimum"),
        ("label-correlation", {"signed": "yes"}, "signed"),
        ("label-injection", {"epochs": 0.0}, "epochs"),
        ("label-injection", {"control": "none"}, "control"),
        ("label-injection", {"pairs": 0}, "pairs"),
    ],
)
def test_settings_out_of_range_are_named(method, options, name):
    with pytest.raises(SettingError, match=f"`{name}`"):
        get_estimator(method, **options)
    if name == "signed":
        with pytest.raises(SettingError, match="several classes"):
            LabelCorrelation(signed=True).estimate(make("multiclass"))


# --- pure functions ---


def numbers(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 6), seed=st.integers(0, 500), data=st.data())
def test_scores_follow_the_order_of_the_tasks(n, seed, data):
    order = data.draw(st.permutations(range(n)))
    swap = np.ix_(order, order)
    features = [numbers(7, 4, seed=seed + t) for t in range(n)]
    for function in (
        lambda items: rank_correlations(dissimilarities(item) for item in items),
        lambda items: summed_cosines(torch.stack(list(items))).numpy(),
        lambda items: correlations(torch.stack([item[:, 0] for item in items], 1), 2),
    ):
        assert function([features[i] for i in order]) == pytest.approx(function(features)[swap], abs=1e-6)
    losses = np.random.default_rng(seed).random((n, n))
    similarity = transfer_similarity(losses)
    assert similarity == pytest.approx(plain.similarity_of(losses), abs=1e-9)
    assert transfer_similarity(losses[swap]) == pytest.approx(similarity[swap], abs=1e-9)
    ties = len(set(np.round(similarity[np.triu_indices(n, 1)], 9))) < n * (n - 1) // 2
    if not ties:
        lengths = path_lengths(merge_tree(similarity))
        assert np.array_equal(path_lengths(merge_tree(similarity[swap])), lengths[swap])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 500), scale=st.floats(0.1, 50), shift=st.floats(-5, 5))
def test_rsa_does_not_depend_on_scale_and_shift_and_order_of_features(seed, scale, shift):
    features, other = numbers(8, 5, seed=seed), numbers(8, 5, seed=seed + 1)
    value = rank_correlations([dissimilarities(features), dissimilarities(other)])[0, 1]
    moved = scale * features[:, torch.randperm(5, generator=torch.Generator().manual_seed(seed))] + shift
    assert rank_correlations([dissimilarities(moved), dissimilarities(other)])[0, 1] == pytest.approx(value, abs=1e-6)
    assert rank_correlations([dissimilarities(moved), dissimilarities(features)])[0, 1] == pytest.approx(1, abs=1e-6)


def test_rsa_of_a_dead_representation_is_0():
    values = rank_correlations([dissimilarities(torch.zeros(6, 3)), dissimilarities(numbers(6, 3, seed=0))])
    assert values[0].tolist() == [0, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 500), n=st.integers(2, 5), rows=st.integers(1, 6))
def test_cosines_are_between_0_and_1_for_maps_and_blind_to_scale(seed, n, rows):
    maps = numbers(n, rows, 4, seed=seed).abs()
    values = summed_cosines(maps) / rows
    assert float(values.min()) >= 0
    assert float(values.max()) <= 1 + 1e-9
    assert torch.diagonal(values).numpy() == pytest.approx(np.ones(n))
    scaled = maps * (1 + numbers(n, rows, 1, seed=seed + 1).abs())
    assert summed_cosines(scaled).numpy() / rows == pytest.approx(values.numpy())
    maps[0] = 0
    assert not summed_cosines(maps)[0].any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 500), share=st.floats(0, 0.7), offset=st.floats(-1e4, 1e4))
def test_correlations_equal_numpy_on_common_rows(seed, share, offset):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(40, 4)) + offset
    columns[rng.random(columns.shape) < share] = np.nan
    got = correlations(torch.from_numpy(columns), 5)
    for a in range(4):
        for b in range(4):
            both = ~np.isnan(columns[:, a]) & ~np.isnan(columns[:, b])
            if both.sum() < 5:
                assert np.isnan(got[a, b])
            else:
                assert got[a, b] == pytest.approx(np.corrcoef(columns[both, a], columns[both, b])[0, 1], abs=1e-6)


def test_constant_labels_have_no_correlation():
    columns = torch.tensor([[1.0, 2.0], [1.0, 3.0], [1.0, 5.0]], dtype=torch.float64)
    assert np.isnan(correlations(columns, 2)[0, 1])


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 9), seed=st.integers(0, 500))
def test_path_lengths_equal_those_of_a_tree_grown_by_hand(n, seed):
    similarity = np.random.default_rng(seed).normal(size=(n, n))
    similarity = (similarity + similarity.T) / 2
    np.fill_diagonal(similarity, 0)
    merges = merge_tree(similarity)
    assume(np.diff(merges[:, 2]).min(initial=1) > 1e-9)
    assert np.array_equal(path_lengths(merges), plain.tree_distances(similarity))
    before = np.zeros(n, int)
    for groups in range(1, n + 1):
        labels = cut_tree(merges, groups)
        assert sorted(set(labels.tolist())) == list(range(groups))
        # every cut divides one group of the cut before
        assert all(len(set(before[labels == label])) == 1 for label in range(groups))
        before = labels
    with pytest.raises(SettingError, match="groups"):
        cut_tree(merges, n + 1)


def test_rounding_breaks_no_tie_of_the_tree():
    """With two sources a task, every similarity is -1, 0 or 1 but for rounding."""
    losses = np.array([[0.57, 0.53, 0.56], [0.56, 0.59, 0.55], [0.65, 0.69, 0.7]])
    similar = [transfer_similarity(losses + 1e-8 * numbers(3, 3, seed=seed).numpy()) for seed in range(20)]
    assert len({matrix.tobytes() for matrix in similar}) > 1
    trees = [path_lengths(merge_tree(matrix)) for matrix in similar]
    assert all(np.array_equal(tree, trees[0]) for tree in trees)


def test_two_pairs_of_tasks_are_two_edges_apart_within_and_four_across():
    near = np.array([[0, 5, 1, 1], [5, 0, 1, 1], [1, 1, 0, 4], [1, 1, 4, 0]], float)
    lengths = path_lengths(merge_tree(near))
    assert lengths.tolist() == [[0, 2, 4, 4], [2, 0, 4, 4], [4, 4, 0, 2], [4, 4, 2, 0]]
    assert cut_tree(merge_tree(near), 2).tolist() == [0, 0, 1, 1]


@settings(max_examples=15, deadline=None)
@given(missing=st.floats(0, 0.9), seed=st.integers(0, 50))
def test_overlap_counts_rows(missing, seed):
    workload = make("mixed", rows=60, missing=missing, seed=seed)
    seen = ~np.isnan(workload.labels[workload.split.train].numpy())
    got = label_overlap(workload)
    for a in range(4):
        for b in range(4):
            smaller = min(seen[:, a].sum(), seen[:, b].sum())
            assert got[a, b] == pytest.approx((seen[:, a] & seen[:, b]).sum() / smaller if smaller else 0)


def test_overlap_of_tasks_with_rows_of_their_own_is_0():
    workload = make("regression", rows=160, blocks=True)
    assert np.array_equal(label_overlap(workload), np.eye(4))
