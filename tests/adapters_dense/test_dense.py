"""Losses and metrics of dense tasks against slow references and scikit-learn."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.adapters.dense import delta_m, dense_task
from coterie.adapters.dense_metrics import average_precision, depth_error, mean_angle, mean_iou
from coterie.errors import SettingError
from reference import dense as reference

KINDS = ("segmentation", "depth", "edges", "normals")


def problem(kind, seed=0):
    """Predictions and labels, a part of them missing."""
    g = torch.Generator().manual_seed(seed)
    missing = torch.rand(2, 1, 5, 6, generator=g) < 0.2
    if kind == "segmentation":
        labels = torch.randint(4, (2, 5, 6), generator=g)
        return torch.randn(2, 4, 5, 6, generator=g), torch.where(missing[:, 0], -1, labels)
    channels = 3 if kind == "normals" else 1
    labels = torch.randn(2, channels, 5, 6, generator=g)
    if kind == "edges":
        labels = (labels > 0).float()
    if kind == "normals":
        labels = labels / labels.norm(dim=1, keepdim=True)
    return torch.randn(2, channels, 5, 6, generator=g), torch.where(missing, torch.nan, labels)


def task(kind):
    return dense_task(kind, classes=4 if kind == "segmentation" else None)


def known(kind, predicted, labels):
    """Pixels with a label, as rows."""
    if kind == "segmentation":
        seen = labels >= 0
        return predicted.movedim(1, -1)[seen], labels[seen]
    seen = labels.isfinite().all(1)
    return predicted.movedim(1, -1)[seen], labels.movedim(1, -1)[seen]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_against_references(seed):
    logits, classes = problem("segmentation", seed)
    rows, labels = known("segmentation", logits, classes)
    assert mean_iou(logits, classes) == pytest.approx(reference.mean_iou(rows.argmax(1).tolist(), labels.tolist()))

    predicted, depth = problem("depth", seed)
    rows, labels = known("depth", predicted, depth)
    squares = [(p - t) ** 2 for p, t in zip(rows[:, 0].tolist(), labels[:, 0].tolist(), strict=True)]
    assert depth_error(predicted, depth) == pytest.approx(math.sqrt(sum(squares) / len(squares)))

    scores, edges = problem("edges", seed)
    scores = (scores * 2).round()  # ties
    rows, labels = known("edges", scores, edges)
    wanted = reference.average_precision(rows[:, 0].tolist(), labels[:, 0].tolist())
    assert average_precision(scores, edges) == pytest.approx(wanted)

    predicted, normals = problem("normals", seed)
    rows, labels = known("normals", predicted, normals)
    assert mean_angle(predicted, normals) == pytest.approx(reference.mean_angle(rows.tolist(), labels.tolist()), 1e-5)


def test_metrics_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    scores, edges = problem("edges")
    rows, labels = known("edges", (scores * 2).round(), edges)
    wanted = metrics.average_precision_score(labels[:, 0].numpy(), rows[:, 0].numpy())
    assert average_precision((scores * 2).round(), edges) == pytest.approx(wanted)
    logits, classes = problem("segmentation")
    rows, labels = known("segmentation", logits, classes)
    wanted = metrics.jaccard_score(labels.numpy(), rows.argmax(1).numpy(), average="macro")
    assert mean_iou(logits, classes) == pytest.approx(wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_against_the_plain_mean(kind):
    predicted, labels = problem(kind)
    rows, wanted = known(kind, predicted, labels)
    losses = {
        "segmentation": lambda: torch.nn.functional.cross_entropy(rows, wanted),
        "depth": lambda: (rows - wanted).abs().mean(),
        "edges": lambda: -(wanted * rows.sigmoid().log() + (1 - wanted) * (1 - rows.sigmoid()).log()).mean(),
        "normals": lambda: (1 - (rows * wanted).sum(1) / rows.norm(dim=1)).mean(),
    }
    torch.testing.assert_close(task(kind).loss(predicted, labels), losses[kind]())


@pytest.mark.parametrize("kind", KINDS)
def test_missing_labels_have_no_gradient(kind):
    predicted, labels = problem(kind)
    predicted.requires_grad_()
    task(kind).loss(predicted, labels).backward()
    missing = labels < 0 if kind == "segmentation" else labels.isnan().all(1)
    moved = predicted.grad.movedim(1, -1)
    assert predicted.grad.isfinite().all()
    assert not moved[missing].any()
    assert moved[~missing].any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_labels_teaches_nothing(kind):
    predicted, labels = problem(kind)
    predicted.requires_grad_()
    loss = task(kind).loss(predicted, torch.full_like(labels, -1 if kind == "segmentation" else torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert not predicted.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_is_best_and_the_direction_is_right(kind):
    predicted, labels = problem(kind)
    chosen = task(kind)
    if kind == "segmentation":
        truth = torch.nn.functional.one_hot(labels.clamp(min=0), 4).movedim(-1, 1).float()
    else:
        truth = labels.nan_to_num()
    best, other = chosen.metric(truth, labels), chosen.metric(predicted, labels)
    assert best == pytest.approx(1.0 if chosen.higher_is_better else 0.0)
    assert (best > other) == chosen.higher_is_better


def test_a_prediction_without_a_direction_is_not_right():
    _, normals = problem("normals")
    assert mean_angle(torch.zeros_like(normals), normals) == pytest.approx(90)
    half = torch.where(torch.arange(normals.shape[-1]) < 3, normals.nan_to_num(), 0.0)
    share = float(normals[..., 3:].isfinite().all(1).sum() / normals.isfinite().all(1).sum())
    assert mean_angle(half, normals) == pytest.approx(90 * share, abs=1e-5)


@given(scale=st.floats(0.1, 100), shift=st.floats(-5, 5))
def test_invariances(scale, shift):
    predicted, normals = problem("normals")
    assert mean_angle(scale * predicted, normals) == pytest.approx(mean_angle(predicted, normals), abs=1e-4)
    scores, edges = problem("edges")
    scores = (scores * 4).round()
    assert average_precision(scale * scores.double() + shift, edges) == pytest.approx(average_precision(scores, edges))


def test_delta_m_by_hand_and_its_zero():
    tasks = {kind: task(kind) for kind in KINDS}
    base = {"segmentation": 0.5, "depth": 0.2, "edges": 0.8, "normals": 10.0}
    assert delta_m(base, base, tasks) == 0
    better = {"segmentation": 0.6, "depth": 0.1, "edges": 0.8, "normals": 11.0}
    assert delta_m(better, base, tasks) == pytest.approx((20 + 50 + 0 - 10) / 4)


def test_bad_kinds():
    with pytest.raises(SettingError, match="depht"):
        dense_task("depht")
    with pytest.raises(SettingError, match="classes"):
        dense_task("segmentation")
