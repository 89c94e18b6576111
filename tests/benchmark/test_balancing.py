"""What methods of balancing are worth: the measures against their definitions."""

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score, roc_auc_score

from coterie.benchmark.balancing import auc, choose_methods, compare_balancing, deltas, measured
from coterie.errors import SettingError
from coterie.evaluation.compare import halve_validation
from coterie.training.job import Job
from coterie.training.loop import fit_one
from reference.training_workloads import make


def test_measures_are_those_of_their_definitions():
    workload = make("regression", rows=120, missing=0.2)
    found = compare_balancing(workload, ["famo"], seeds=[0, 3])
    work = measured(workload)
    alone = np.array([[fit_one(work, Job((task,), seed)).test[task] for task in range(4)] for seed in (0, 3)])
    for row, name in zip(found["methods"], ("equal", "famo"), strict=True):
        fits = [fit_one(work, Job((0, 1, 2, 3), seed, balancing=name)) for seed in (0, 3)]
        losses = np.array([fitted.test for fitted in fits])
        expected = [np.mean([(losses[s, t] - alone[s, t]) / alone[:, t].mean() for t in range(4)]) for s in (0, 1)]
        np.testing.assert_allclose(row["by_seed"], expected, rtol=2e-3, atol=1e-5)
        assert row["delta"]["mean"] == pytest.approx(np.mean(expected), rel=2e-3, abs=1e-5)
        model = work.build_model(0)
        model.load_state_dict(fits[0].state)
        rows = work.split.test
        with torch.no_grad():
            outputs = work.outputs(model.eval(), work.batch(rows))
        known = work.observed[rows]
        scores = [r2_score(work.targets[rows, t][known[:, t]], outputs[known[:, t], t]) for t in range(4)]
        first = row["score"]["mean"] * 2 - np.mean(1 - losses[1] / (losses[0] / (1 - np.array(scores))))
        assert first == pytest.approx(np.mean(scores), abs=2e-3)
    against = found["methods"][1]["against_equal"]["mean"]
    assert against == pytest.approx(found["methods"][1]["delta"]["mean"] - found["methods"][0]["delta"]["mean"])


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 8, 200).astype(float), rng.random(200) < 0.3
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert np.isnan(auc(scores, np.zeros(200, bool)))


def test_nothing_that_stops_a_training_measures_it():
    workload = make("binary", rows=200)
    work = measured(workload)
    halved, other = halve_validation(workload)
    assert torch.equal(work.split.validation, halved.split.validation)
    assert set(work.split.test.tolist()) == {*other.tolist(), *workload.split.test.tolist()}
    assert not set(work.split.test.tolist()) & set(work.split.validation.tolist())


def test_delta_is_relative_to_the_task_alone():
    alone = np.array([[1.0, 4.0], [1.0, 4.0]])
    np.testing.assert_allclose(deltas(alone * [[1.1, 1.0], [1.0, 0.8]], alone), [0.05, -0.1])


def test_methods_by_name():
    assert choose_methods(["pooled", "equal"]) == {**choose_methods(["equal"]), "pooled": None}
    assert len(choose_methods(None)) == 9
    with pytest.raises(SettingError, match="famo"):
        choose_methods(["fam"])
    with pytest.raises(SettingError, match="seeds"):
        compare_balancing(make("binary"), seeds=[0])
