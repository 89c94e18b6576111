"""Registered losses are asked what they are: levels, units, labels and predictions follow from the loss itself."""

import numpy as np
import pytest
import torch

import coterie
from coterie import Task, from_arrays
from coterie.affinity.surrogates.prior import guess
from coterie.errors import WorkloadError
from coterie.report.data import parse
from coterie.report.text import loss_sentence
from coterie.workload import MarginLoss, Recipe, losses
from coterie.workload.losses import BinaryLoss, MulticlassLoss, RegressionLoss, SequenceLoss, get_loss

rng = np.random.default_rng(0)
ROWS = 600
X = rng.normal(size=(ROWS, 4))
NUMBERS = 1000 + 200 * X[:, 0] + 100 * rng.normal(size=ROWS)


class Quantile(MarginLoss):
    def __init__(self, share):
        self.share = share

    def value(self, margin, labels):
        error = labels - margin
        return torch.maximum(self.share * error, (self.share - 1) * error)

    def first(self, margin, labels):
        return torch.where(labels > margin, -self.share, 1 - self.share).to(margin.dtype)

    def second(self, margin, labels):
        return torch.zeros_like(margin)

    def predict(self, outputs):
        return outputs[..., 0]


class Huber(RegressionLoss):
    unit = "the mean Huber loss"

    def value(self, margin, labels):
        error = (margin - labels).abs()
        return torch.where(error < 1, error**2 / 2, error - 0.5)

    def first(self, margin, labels):
        return (margin - labels).clamp(-1, 1)

    def second(self, margin, labels):
        return ((margin - labels).abs() < 1).to(margin.dtype)


class Poisson(MarginLoss):
    unit = "the mean deviance of counts"

    def value(self, margin, labels):
        return margin.exp() - labels * margin

    def first(self, margin, labels):
        return margin.exp() - labels

    def second(self, margin, labels):
        return margin.exp()

    def predict(self, outputs):
        return outputs[..., 0].exp()


class Hinge(Quantile):
    """Labels are -1 and 1."""

    def value(self, margin, labels):
        return (1 - labels * margin).clamp_min(0)

    def first(self, margin, labels):
        return torch.where(labels * margin < 1, -labels, torch.zeros_like(labels))


class Focal(BinaryLoss):
    pass


class Tempered(MulticlassLoss):
    pass


class Doubled(RegressionLoss):
    """A margin of its own."""

    def margin(self, outputs, labels):
        return 2 * outputs[..., 0]

    def predict(self, outputs):
        return 2 * outputs[..., 0]


OWN = {
    "q90": Quantile(0.9),
    "huber": Huber(),
    "counts": Poisson(),
    "hinge": Hinge(0.5),
    "focal": Focal(),
    "tempered": Tempered(),
    "doubled": Doubled(),
}
LABELS = {
    "q90": NUMBERS,
    "huber": NUMBERS,
    "counts": rng.poisson(np.exp(X[:, 1])).astype(float),
    "hinge": np.sign(X[:, 2]),
    "focal": (X[:, 3] > 0).astype(float),
    "tempered": np.digitize(X[:, 1], [-0.5, 0.5]).astype(float),
    "doubled": NUMBERS,
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for name, loss in OWN.items():
        monkeypatch.setitem(losses._LOSSES, name, loss)


def work(*kinds, **options):
    tasks = [Task(kind, kind, classes=3 if kind == "tempered" else None) for kind in kinds]
    return from_arrays(X, np.stack([LABELS[kind] for kind in kinds], 1), tasks=tasks, **options)


def test_targets_are_standardised_where_predictions_are_in_their_units():
    workload = work(*OWN)
    moved = {task.name for task in workload.tasks if (task.center, task.scale) != (0.0, 1.0)}
    assert moved == {"q90", "huber", "doubled"}
    train = workload.labels[workload.split.train]
    assert train[:, 0].mean().abs() < 1e-5
    assert sorted(train[:, 3].unique().tolist()) == [-1, 1]
    assert [task.width for task in workload.tasks] == [1, 1, 1, 1, 1, 3, 1]


def test_labels_are_checked_as_the_loss_reads_them():
    y = np.stack([LABELS["focal"] + 1, LABELS["huber"]], 1)
    with pytest.raises(WorkloadError, match="binary task 'a' should be 0, 1"):
        from_arrays(X, y, tasks={"a": "focal", "b": "huber"})
    with pytest.raises(WorkloadError, match=r"from 0 to 1\. Found also \[2.0\]"):
        from_arrays(X, np.stack([LABELS["tempered"]] * 2, 1), tasks=[Task("a", "tempered", classes=2), "b"])
    with pytest.raises(WorkloadError, match="is tempered and needs `classes`"):
        Task("a", "tempered")
    with pytest.raises(WorkloadError, match="`classes` is for"):
        Task("a", "q90", classes=3)


LEVELS = {
    "q90": lambda y: np.mean(np.maximum(0.9 * (y - np.quantile(y, 0.9)), -0.1 * (y - np.quantile(y, 0.9)))),
    "counts": lambda y: y.mean() - y.mean() * np.log(y.mean()),
    "hinge": lambda y: 2 * min((y > 0).mean(), (y < 0).mean()),
    "focal": lambda y: -(y.mean() * np.log(y.mean()) + (1 - y.mean()) * np.log(1 - y.mean())),
    "tempered": lambda y: -sum(p * np.log(p) for p in np.bincount(y.astype(int)) / len(y)),
    "doubled": lambda y: y.var(),
}


@pytest.mark.parametrize("kind", LEVELS)
def test_levels_are_those_of_the_best_constant(kind):
    workload = work(kind, "huber")
    rows = workload.split.train
    y = workload.labels[rows, 0].double().numpy()
    assert OWN[kind].constant(workload.labels[rows, 0]) == pytest.approx(LEVELS[kind](y), rel=1e-3)
    # a run at its level says that any subset is at its level
    levels = np.array([[OWN[name].constant(workload.labels[rows, i]) for i, name in enumerate((kind, "huber"))]])
    found = guess(workload, levels)(np.array([[True, False], [False, True]]))
    np.testing.assert_allclose(found[[0, 1], [0, 1]], levels[0], rtol=1e-6)


def test_levels_of_built_in_losses_agree_with_the_search():
    for loss, y in ((BinaryLoss(), LABELS["focal"]), (RegressionLoss(), NUMBERS / 200)):
        y = torch.from_numpy(y)
        assert loss.constant(y) == pytest.approx(MarginLoss.constant(loss, y), rel=1e-6)


def test_a_kink_has_curvature_for_quadratic_models():
    labels, points = torch.zeros(5), torch.tensor([-2.0, -0.3, 0.0, 0.3, 2.0])
    assert OWN["q90"].curvature(points, labels).tolist() == [0, 1, 1, 1, 0]
    for loss in (BinaryLoss(), RegressionLoss(), MulticlassLoss(), SequenceLoss()):
        torch.testing.assert_close(loss.curvature(points, labels), loss.second(points, labels), rtol=0, atol=0)


def test_own_margins_are_used():
    workload = work("doubled", "huber")
    outputs = torch.ones(3, 2)
    assert workload.margins(outputs, torch.zeros(3, 2)).tolist() == [[2.0, 1.0]] * 3
    assert work("huber", "q90").margins(outputs, outputs) is outputs


def test_predictions_come_back_in_the_units_of_the_labels():
    outputs = torch.tensor([[0.5]])
    assert float(OWN["q90"].decode(outputs, 1000.0, 200.0)) == 1100
    assert float(OWN["counts"].decode(outputs, 0.0, 1.0)) == pytest.approx(np.exp(0.5))
    assert float(OWN["focal"].decode(outputs, 3.0, 2.0)) == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert OWN["tempered"].decode(torch.zeros(2, 3), 0.0, 1.0).shape == (2, 3)


def test_reports_say_what_the_loss_is():
    def said(**task):
        return loss_sentence(parse({"workload": {"tasks": [{"name": "a", **task}, {"name": "b", "kind": "binary"}]}}))

    assert said(kind="huber", unit=get_loss("huber").unit).startswith(
        "Test loss: for huber tasks the mean Huber loss; "
    )
    assert "for gone and binary" not in said(kind="gone")  # registered elsewhere, by a version that did not say it
    assert "for multi-class and binary tasks the mean log loss" in said(kind="multiclass")


def test_a_run_with_registered_losses_is_right_from_end_to_end(tmp_path):
    workload = work("q90", "huber", "counts", recipe=Recipe(epochs=20))
    result = coterie.run(workload, seeds=2, method="label-correlation", out=tmp_path, groups=1)
    test = workload.split.test.numpy()
    found = coterie.load(result).predict(X[test])
    assert 0.8 <= np.mean(NUMBERS[test] <= found["q90"]) <= 0.97
    assert abs(np.mean(NUMBERS[test] - found["huber"])) < 40
    assert 0.7 < found["counts"].mean() / LABELS["counts"][test].mean() < 1.4
    page = result.report.read_text()
    assert "the mean Huber loss" in page
    assert "the mean deviance of counts" in page
