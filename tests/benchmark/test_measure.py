"""One method on a made-up bank with known signal, and what its groups are worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from coterie import Context
from coterie.affinity import Affinity, Estimate, GainModel, PairwiseGainModel
from coterie.affinity.costs import Costs
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.benchmark.bank import Bank
from coterie.benchmark.groups import default_counts, find_grouping, judge
from coterie.benchmark.measure import measure
from coterie.benchmark.references import References, references
from coterie.errors import CoterieError
from coterie.evaluation.bank import Runs
from coterie.evaluation.bank_plan import BankPlan
from coterie.grouping import group
from coterie.pipeline.candidates import subset_count, typical_size
from coterie.training.units import UnitCost
from reference import skill as plain

TASKS = 8
NAMES = tuple("abcdefgh")
PLAN = BankPlan((2, 3, 4), subsets=60, replicates=6, pool=0, pairs=28)
EFFECT = np.random.default_rng(0).normal(scale=0.1, size=(TASKS, TASKS))
LEVEL = np.linspace(1, 3, TASKS)


def true_value(subsets: np.ndarray) -> np.ndarray:
    """Losses whose logarithm is a level a task plus the mean effect of the partners."""
    partners = np.maximum(subsets.sum(1, keepdims=True) - 1, 1)
    effect = subsets @ EFFECT.T - np.diag(EFFECT)
    return np.where(subsets, LEVEL * np.exp(-effect / partners * (subsets.sum(1, keepdims=True) > 1)), np.nan)


def made_up_bank(noise: float = 0.03, seed: int = 0) -> Bank:
    rng = np.random.default_rng(seed)

    def runs(subsets: np.ndarray, replicates: int, common: bool = False) -> Runs:
        values = true_value(subsets)[None] * np.exp(noise * rng.normal(size=(replicates, *subsets.shape)))
        return Runs(subsets, values, np.full(values.shape[:2], 1000.0), 1.0, common)

    drawn = PLAN.draw(TASKS)
    work = SimpleNamespace(n_tasks=TASKS, task_names=NAMES)
    return Bank(
        work,  # type: ignore[arg-type]
        PLAN,
        test=runs(drawn["test"], 6),
        common=runs(drawn["test"], 2, common=True),
        pool=runs(drawn["pool"], 1),
        alone=runs(drawn["alone"], 6),
        everything=runs(drawn["everything"], 6),
        pairs=runs(drawn["pairs"], 4),
    )


@dataclass
class Oracle(GainModel):
    """The true value with an error of known size."""

    error: float = 0.0
    claimed: float | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        return NAMES

    def predict_values(self, subsets: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(5)
        return true_value(subsets) + self.error * rng.normal(size=subsets.shape)

    def _predict(self, subsets: np.ndarray) -> np.ndarray:
        return (LEVEL - self.predict_values(subsets)) / LEVEL

    def value_error(self, subsets: np.ndarray) -> np.ndarray | None:
        return None if self.claimed is None else np.where(subsets, self.claimed, np.nan)


class Nothing(Oracle):
    def predict_values(self, subsets: np.ndarray) -> np.ndarray:
        return np.full(subsets.shape, np.nan)


def estimate(model: GainModel, **more: object) -> Estimate:
    costs = Costs(UnitCost(1.0, 3.0, 2.0))
    costs.add("first", 20_000.0, 1.5)
    costs.add("second", 5_000.0, 0.5)
    return Estimate(model, costs, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bank() -> Bank:
    return made_up_bank()


@pytest.fixture(scope="module")
def found(bank: Bank) -> References:
    return references(bank, resamples=100)


def test_references(bank: Bank, found: References) -> None:
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values["one_run"] == pytest.approx(plain.one_run(bank.test.values))
    assert values["constant"] == pytest.approx(plain.constant_distance(bank.test.truth))
    assert values["one_run"] < values["ceiling"] < 1
    assert values["one_run"] == pytest.approx(values["one_common_run"], abs=0.05)  # these share nothing here
    alone = np.array([bank.alone.values[:, t, t].mean() for t in range(TASKS)])
    gains = (alone - bank.test.truth) / alone
    assert values["gain"] == pytest.approx(np.nanmean(gains))
    assert values["positive"] == pytest.approx(np.nanmean(np.where(np.isnan(gains), np.nan, gains > 0)))
    assert values["size"] == pytest.approx(np.nanmean(np.abs(gains)))
    for row in found.to_dict().values():
        assert row["low"] <= row["mean"] + 1e-9
        assert row["mean"] <= row["high"] + 1e-9


def test_an_oracle_reaches_the_ceiling_and_nothing_beyond(bank: Bank, found: References) -> None:
    row = measure(bank, found, estimate(Oracle(claimed=1e-9)))
    assert row["pooled"]["mean"] == pytest.approx(found.figures["ceiling"].value, abs=0.02)
    assert row["pooled_of_ceiling"]["mean"] == pytest.approx(1, abs=0.02)
    assert row["pooled_of_one_run"]["mean"] > 1
    assert row["distance"]["mean"] < found.figures["constant"].value / 2
    assert row["calibration"]["mean"] == pytest.approx(0.9, abs=0.06)  # all error is that of the truth
    assert row["covered"] == 1
    assert row["pairs"]["correlation"]["mean"] > 0.9
    assert row["pairs"]["hits"]["mean"] > 0.7
    assert row["pairs"]["regret"]["mean"] < row["pairs"]["chance_regret"]["mean"] / 3
    blurred = measure(bank, found, estimate(Oracle(error=0.3, claimed=0.3)))
    assert blurred["pooled"]["high"] < row["pooled"]["low"]
    assert blurred["calibration"]["mean"] == pytest.approx(0.9, abs=0.06)
    modest = measure(bank, found, estimate(Oracle(error=0.3, claimed=0.1)))
    assert modest["calibration"]["mean"] < 0.6
    assert "calibration" not in measure(bank, found, estimate(Oracle()))


def test_costs_are_shares_of_500_trainings_of_the_bank(bank: Bank, found: References) -> None:
    cost = measure(bank, found, estimate(Oracle()))["cost"]
    assert (cost["flops"], cost["trainings"], cost["share"], cost["seconds"]) == (25_000, 25, 0.05, 2)


def test_models_without_values_are_measured_by_their_gains(bank: Bank, found: References) -> None:
    affinity = Affinity(EFFECT * (1 - np.eye(TASKS)), NAMES, kind="raw")
    row = measure(bank, found, estimate(PairwiseGainModel(affinity)))
    assert row["per_task"]["mean"] > 0.8
    assert "distance" not in row
    opposite = measure(bank, found, estimate(PairwiseGainModel(Affinity(-affinity.values, NAMES, kind="raw"))))
    assert opposite["pooled"]["mean"] == pytest.approx(-row["pooled"]["mean"])
    with pytest.raises(CoterieError, match="predicts none"):
        measure(bank, found, estimate(Nothing()))


def test_groupings_are_trained_and_ranked(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []

    def train(_: object, groups: set, replicates: int, **__: object) -> dict:
        asked.extend(groups)
        rows = {}
        for one in groups:
            row = np.zeros((1, TASKS), dtype=bool)
            row[0, list(one)] = True
            rows[one] = np.repeat(true_value(row), replicates, 0)
        return rows

    monkeypatch.setattr("coterie.benchmark.groups.train_groups", train)
    good = find_grouping(estimate(Oracle()), 3, seed=0)
    own = estimate(Oracle(), cluster=lambda k: np.arange(TASKS) % k)
    given = find_grouping(own, 3, seed=0)
    assert given.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert "own clustering" in given.method
    found = judge(bank, 3, {"oracle": good, "odd": given}, replicates=2, draws=12, draw_replicates=2, context=Context())
    assert not any(len(one) in (1, TASKS) for one in asked)  # the bank has these
    rows = {row["name"]: row for row in found["candidates"]}
    assert rows["single-task"]["gain"]["mean"] == 0
    assert rows["all-in-one"]["against_joint"]["mean"] == 0
    exact = true_value(good.subsets)
    losses = [exact[good.serves[t], t] for t in range(TASKS)]
    single = np.log(bank.singles).mean(0)
    assert rows["oracle"]["gain"]["mean"] == pytest.approx(1 - math.exp(np.mean(np.log(losses) - single)))
    assert rows["oracle"]["regret"] < found["random"]["regret"]
    assert rows["oracle"]["beaten"] > 0.8
    best = max([*(row["gain"]["mean"] for row in rows.values()), found["random"]["best"]])
    for row in rows.values():
        assert row["regret"] == pytest.approx(best - row["gain"]["mean"])
    assert rows["oracle"]["regret_of_k"] <= rows["oracle"]["regret"]


def test_groups_of_a_score_do_not_depend_on_its_zero() -> None:
    values = np.random.default_rng(2).normal(size=(TASKS, TASKS))
    found = [
        find_grouping(estimate(PairwiseGainModel(Affinity(values + shift, NAMES, kind="raw"))), 3, seed=0).groups
        for shift in (0.0, -20.0, 20.0)
    ]
    assert found[0] == found[1] == found[2]
    assert max(map(len, found[0])) < TASKS - 2  # not two tasks alone and all others together


class Slow(GradTAEModel):
    """A model whose every prediction evaluates a network."""

    def __init__(self) -> None:
        self.network = object()
        self.asked = 0
        self._method = "slow"

    @property
    def tasks(self) -> tuple[str, ...]:
        return NAMES

    def predict(self, subsets: np.ndarray) -> np.ndarray:
        self.asked += len(subsets)
        return Oracle().predict(subsets)


def test_networks_are_not_searched() -> None:
    model = Slow()
    found = find_grouping(estimate(model), 3, seed=0)
    size = typical_size(TASKS)
    assert model.asked == subset_count(TASKS, size)
    assert found.groups == group(Oracle().higher_order(model.asked, size), 3).groups


def test_usual_numbers_of_groups() -> None:
    assert [default_counts(n) for n in (3, 4, 14, 25, 100)] == [(2,), (3,), (3,), (5,), (5,)]
