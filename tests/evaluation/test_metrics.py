"""Metrics by name against scikit-learn and SciPy, functions of one's own, intervals, and decisions made on them."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics as sk
from torch import nn

import coterie
from coterie import Comparison, Recipe, SettingError, Task, from_arrays
from coterie.evaluation import Metric, compare, recommend
from coterie.evaluation.intervals import resample
from coterie.evaluation.labels import log_losses
from coterie.evaluation.metrics import as_judges, measure

PEERS = {
    "auroc": sk.roc_auc_score,
    "average_precision": sk.average_precision_score,
    "accuracy": lambda y, p: sk.accuracy_score(y, p > 0.5),
    "f1": lambda y, p: sk.f1_score(y, p > 0.5, zero_division=0),
    "r2": sk.r2_score,
    "rmse": sk.root_mean_squared_error,
    "spearman": lambda y, p: spearmanr(y, p).statistic,
}
SEVERAL = {
    "auroc": functools.partial(sk.roc_auc_score, multi_class="ovr"),
    "average_precision": sk.average_precision_score,
    "accuracy": lambda y, p: sk.accuracy_score(y, p.argmax(1)),
    "f1": lambda y, p: sk.f1_score(y, p.argmax(1), average="macro"),
}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(PEERS)), st.integers(0, 10**6), st.booleans())
def test_named_metrics_are_those_of_scikit_learn_on_every_draw(name, seed, ties):
    rng = np.random.default_rng(seed)
    n = 40
    numbers = name in ("r2", "rmse", "spearman")
    labels = 1e3 + 5 * rng.normal(size=n) if numbers else (rng.random(n) < 0.4).astype(float)
    labels[:2] = labels[:2] if numbers else (0, 1)
    scores = labels + rng.normal(size=n) if numbers else np.clip(rng.random(n) * 0.7 + 0.3 * labels, 0, 1)
    if ties:
        labels, scores = labels if not numbers else labels.round(), scores.round(1 if not numbers else 0)
    weights = resample(n, 6, seed)
    weights[:, :2] += 1  # both classes are in every draw
    found = measure(name, labels, scores, weights)
    for value, row in zip(found, weights, strict=True):
        chosen = np.repeat(np.arange(n), row.astype(int))
        np.testing.assert_allclose(value, PEERS[name](labels[chosen], scores[chosen]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SEVERAL)
def test_metrics_of_several_classes_are_those_of_scikit_learn(name):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 60).astype(float)
    scores = rng.dirichlet(np.ones(3), 60) + 0.3 * np.eye(3)[labels.astype(int)]
    scores /= scores.sum(1, keepdims=True)
    found = measure(name, labels, scores, np.ones((1, 60)))
    np.testing.assert_allclose(found[0], SEVERAL[name](labels, scores))


def made(rows=400, **recipe):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 5))
    y = np.column_stack([
        x[:, 0] + rng.normal(size=rows) > 0.3, x[:, 0] + rng.normal(size=rows) > 0,
        np.digitize(x[:, 1] + rng.normal(size=rows), [-0.5, 0.5]), 100 + 20 * x[:, 2] + 10 * rng.normal(size=rows),
    ]).astype(float)  # fmt: skip
    tasks = [Task("a"), Task("b"), Task("c", "multiclass", classes=3), Task("d", "regression")]
    settings_ = {"epochs": 3, "batch_size": 32, "learning_rate": 0.01, **recipe}
    return from_arrays(x, y, tasks=tasks, recipe=Recipe(**settings_), hidden=(8,))


def test_metrics_of_a_comparison_are_those_of_the_predictions_of_its_models(tmp_path):
    import torchmetrics

    work = made(rows=200)
    brier = Metric(lambda y, p: float(np.mean((y - p) ** 2)) if p.ndim == 1 else 0.5, name="mine", higher=False)
    by_task = {"a": torchmetrics.AUROC("binary"), "b": sk.roc_auc_score, "c": "accuracy", "d": "r2"}
    trained = compare(
        work, {}, seeds=1, metrics=["auroc", "rmse", brier, by_task],
    )  # fmt: skip
    found = trained.comparison
    rows = work.split.test
    model = work.build_model(0)
    auroc, rmse, mine, mixed = found.metrics
    for c, grouping in enumerate(found.groupings):
        for s, seed in enumerate(found.seeds):
            for t, task in enumerate(work.tasks):
                subset = tuple(sorted(grouping.groups[grouping.serves[t]]))
                model.load_state_dict(trained.fits[subset, seed].state)
                with torch.no_grad():
                    outputs = work.outputs(model.eval(), work.batch(rows))[:, work.columns[t]]
                p = task.loss.decode(outputs, task.center, task.scale).numpy()
                y = work.targets[rows, t].double().numpy()
                y = y if task.kind != "regression" else y * task.scale + task.center
                if task.kind == "binary":
                    expected = sk.roc_auc_score(y, p)
                    assert auroc.values("test")[c, s, t] == pytest.approx(expected, abs=1e-5)
                    assert mixed.values("test")[c, s, t] == pytest.approx(expected, abs=1e-5)
                    assert mine.values("test")[c, s, t] == pytest.approx(np.mean((y - p) ** 2), abs=1e-5)
                if task.kind == "regression":
                    assert rmse.values("test")[c, s, t] == pytest.approx(sk.root_mean_squared_error(y, p), rel=1e-5)
                    assert mixed.values("test")[c, s, t] == pytest.approx(sk.r2_score(y, p), abs=1e-5)
    assert auroc.judged == [0, 1, 2]
    assert rmse.judged == [3]
    found.save(tmp_path / "c")
    again = Comparison.load(tmp_path / "c")
    assert again.metric("auroc").to_dict(found.candidates, found.tasks, 0) == auroc.to_dict(
        found.candidates, found.tasks, 0
    )
    assert "test_auroc" in found.to_frame().columns


def test_the_interval_of_an_auroc_covers_about_what_a_bootstrap_by_hand_does():
    work = made(rows=400)
    found = compare(work, {}, seeds=3, metrics="auroc")
    values = found.comparison.metrics[0]
    interval = values.interval(0, "test", [0])
    index = found.index["test"]
    y = index.labels(work, 0)
    rng = np.random.default_rng(5)
    states = [found.fits[(0, 1, 2, 3), seed].state for seed in found.comparison.seeds]
    scores = [index.scores(work, [0], index.predictions(work, state, [0]))[0] for state in states]
    drawn = []
    for _ in range(200):
        chosen = rng.integers(0, len(y), len(y))
        drawn.append(np.mean([sk.roc_auc_score(y[chosen], score[chosen]) for score in scores]))
    by_seed = np.var([sk.roc_auc_score(y, score) for score in scores], ddof=1) / 3
    expected = np.sqrt((1.96 * np.std(drawn)) ** 2 + 4.303**2 * by_seed)
    assert interval.high - interval.mean == pytest.approx(expected, rel=0.2)


class Counting(nn.Module):
    """Knows by parameters that training moves how many tasks it was trained for.

    For one task it ranks perfectly and is far too sure of itself; for several it ranks worse and is calibrated.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.seen = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        signal, noise = x[:, :3], x[:, 3:]
        joint = (self.seen.detach().abs() > 1e-7).sum() > 1
        mild = self.scale * (signal + noise) / 2
        return torch.where(joint, mild, 12 * signal + 0 * mild) + 1e-3 * self.seen


def disagreeing():
    """A workload in which log loss favours one model for all tasks, and AUROC one model per task."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 6))
    y = (rng.random((900, 3)) < 1 / (1 + np.exp(-1.5 * x[:, :3]))).astype(float)
    recipe = Recipe(epochs=2, batch_size=64, learning_rate=0.01)
    return from_arrays(x, y, tasks=list("abc"), build_model=Counting, recipe=recipe, standardize=False)


@pytest.mark.filterwarnings("ignore::coterie.CoterieWarning")
def test_the_decision_follows_what_was_asked_for_where_loss_and_auroc_disagree():
    work, found = disagreeing(), {}
    for by in (None, "auroc"):
        comparison = compare(work, {}, seeds=3, metrics=["auroc"], decide_by=by).comparison
        found[by] = recommend(comparison)
        joint, single = (comparison.index(name) for name in ("all-in-one", "single-task"))
        assert comparison.test[joint].mean() < 0.6 * comparison.test[single].mean()
        auroc = comparison.metric("auroc").values("test")
        assert auroc[single].mean() > auroc[joint].mean() + 0.03
    assert (found[None].candidate, found["auroc"].candidate) == ("all-in-one", "single-task")
    assert "auroc" in found["auroc"].reason
    assert "auroc" not in found[None].reason


@pytest.mark.filterwarnings("ignore::coterie.CoterieWarning")
def test_halving_follows_the_metric_as_well():
    pairs = {"1": [["a", "b"], ["c", "d"]], "2": [["a", "c"], ["b", "d"]], "3": [["a", "d"], ["b", "c"]]}
    by = {"a": "auroc", "b": "accuracy", "c": "f1", "d": "r2"}
    found = compare(made(rows=200, epochs=1), pairs, seeds=2, runs=20, decide_by=by)
    rung = found.comparison.halving.rungs[0]
    only = compare(made(rows=200, epochs=1), pairs, seeds=list(rung.seeds), metrics=by).comparison
    for standing in rung.standings:
        shortfalls = only.metrics[0].losses("validation")
        means = log_losses(shortfalls.means[only.index(standing.name)], shortfalls.floor)
        assert standing.loss == pytest.approx(np.exp(means.mean()), rel=3e-3)  # the floor is another


def test_a_run_shows_metrics_on_its_page_and_says_what_decided(tmp_path):
    work = made(rows=240, epochs=2)
    by_task = {"a": "auroc", "b": "f1", "c": "accuracy", "d": "r2"}
    settings_ = {"groups": 2, "seeds": 2, "method": "secants", "bases": 1, "out": tmp_path}
    result = coterie.run(work, metrics=["auroc", "spearman"], decide_by=by_task, **settings_)
    data = result.to_dict()
    assert data["comparison"]["decided_by"] == "auroc, f1, accuracy, r2"
    assert [metric["name"] for metric in data["comparison"]["metrics"]] == [
        "auroc",
        "spearman",
        "auroc, f1, accuracy, r2",
    ]
    joint = data["comparison"]["metrics"][0]["candidates"][0]
    assert [task["name"] for task in joint["tasks"]] == ["a", "b", "c"]
    assert joint["test"]["low"] < joint["test"]["mean"] < joint["test"]["high"]
    page = (tmp_path / "report.html").read_text()
    assert "Metrics" in page
    assert f"{joint['test']['mean']:.3f}" in page
    assert "How much less is lacking to the best auroc, f1, accuracy, r2" in page
    again = coterie.run(work, metrics=["auroc", "spearman"], decide_by=by_task, **settings_)
    assert again.to_dict()["comparison"] == data["comparison"]


def whole(y, p):
    return np.abs(p - y)


WRONG = [
    ("auc", "decide_by.*'auc'"),
    ("r2", "decide_by.*'r2'.*'a'"),
    (Metric(whole), r"should return one number.*shape \(40,\).*average"),
    (Metric(lambda y, p: 1 / 0, name="broken"), "'broken' failed with ZeroDivisionError"),
    (whole, "larger values of whole are better cannot be told"),
    (7, "metrics.*Found 7"),
    ({"a": "auroc"}, "mapping should name a metric for each task"),
    ({"a": "auroc", "b": "f1", "c": "r2", "d": "r2"}, "'r2' cannot judge the multiclass task 'c'"),
    (Metric(lambda y, p: 1.5, name="beyond"), "'beyond' has a value of 1.5, better than its best one"),
]


@pytest.mark.parametrize(("metric", "words"), WRONG, ids=[words for _, words in WRONG])
def test_a_metric_that_cannot_be_used_is_said_before_anything_is_trained(metric, words, monkeypatch):
    monkeypatch.setattr("coterie.evaluation.trainings.fit_units", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(SettingError, match=f"(?s){words}"):
        compare(made(), {}, seeds=1, decide_by=metric)


def test_a_metric_twice_or_of_a_trainer_is_refused():
    with pytest.raises(SettingError, match="'auroc' twice"):
        as_judges(["auroc", "auroc"], made())
    with pytest.raises(SettingError, match="judges none of the tasks"):
        as_judges("r2", disagreeing())
    trainer = coterie.FunctionTrainer(lambda tasks, seed: dict.fromkeys(tasks, 1.0), tasks=["a", "b"])
    with pytest.raises(SettingError, match="reports losses only"):
        compare(trainer, {}, metrics="auroc")
    for wrong in ({"function": 3}, {"function": whole, "higher": "yes"}, {"function": whole, "best": np.nan}):
        with pytest.raises(SettingError):
            Metric(**wrong)
