"""The glue between estimate, groups, comparison and recommendation, which the tests of single rooms do not hold."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from coterie import Context
from coterie._progress import silent
from coterie.affinity import Estimate, GainModel, get_estimator
from coterie.affinity.costs import Costs
from coterie.affinity.surrogates.prior import make_prior
from coterie.evaluation import BASELINE, JOINT, Comparison, mix, recommend
from coterie.evaluation.recommend import conclude
from coterie.grouping import Grouping
from coterie.pipeline import run
from coterie.pipeline.candidates import candidate_groupings, estimated_affinity
from coterie.training import measure_cost
from coterie.workload import Workload
from pipeline.conftest import digits_workload
from reference.made_comparisons import between, made, table

NAMES = tuple("abcdef")
PLANTED = np.repeat(np.arange(3), 2)


class Planted(GainModel):
    """Tasks gain 0.1 from each partner of their own pair, and lose 0.1 by each other one."""

    @property
    def tasks(self) -> tuple[str, ...]:
        return NAMES

    def _predict(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        same = PLANTED[:, None] == PLANTED[None, :]
        helps = np.where(same, 0.1, -0.1) - 0.1 * np.eye(len(NAMES))
        return np.where(subsets, subsets @ helps, np.nan)


def test_the_best_grouping_is_the_one_that_is_shown_first(tiny: Workload) -> None:
    estimate = Estimate(Planted(), Costs(measure_cost(tiny)), None, ())
    affinity = estimated_affinity(estimate, "pairwise", None, 2, 0)
    best, named = candidate_groupings(estimate, affinity, None, None, Context(progress=silent))
    assert sorted(sorted(group) for group in best.groups) == [[0, 1], [2, 3], [4, 5]]
    assert {len(grouping.groups) for grouping in named.values()} >= {2, 3, 5}
    assert all((best.objective or 0.0) >= (other.objective or 0.0) for other in named.values())


def lucky_labels(rng: np.random.Generator, tasks: int = 24, labels: int = 40) -> Comparison:
    """One model and single-task models that are equal but for the luck of examples, which all trainings share."""
    names = tuple(f"t{t}" for t in range(tasks))
    size, parts = tasks * labels, {}
    for part in ("validation", "test"):
        parts[part] = 3 + 0.3 * rng.standard_normal((2, 1, size)) + 1e-4 * rng.standard_normal((2, 4, size))
    return made(names, between(names), parts)


def test_a_mixture_is_judged_on_examples_that_did_not_choose_it() -> None:
    """Of 24 tasks some look better alone on any half of the examples; judged there, every fourth draw has a mixture."""
    found = sum(mix(lucky_labels(np.random.default_rng(number)), JOINT) is not None for number in range(40))
    assert found <= 2


def two_halves() -> Comparison:
    """Task d is far better alone, and the others in pairs."""
    names = tuple("abcd")
    pairs = Grouping.from_labels(names, [0, 0, 1, 1], method="test")
    means = np.array([[1.0] * 4, [0.9] * 4, [1.3, 1.3, 1.3, 0.5]])[:, None, table(4, 50)[0]]
    rng = np.random.default_rng(0)
    parts = {part: means + 0.01 * rng.standard_normal((3, 6, 200)) for part in ("validation", "test")}
    return made(names, between(names, {"pairs": pairs}), parts)


def test_a_conclusion_mixes_where_that_pays() -> None:
    comparison = two_halves()
    assert recommend(comparison).candidate == "pairs"
    mixed, advice = conclude(comparison)
    assert (advice.verdict, advice.candidate) == ("yes", "mixed (3)")
    chosen = mixed.groupings[mixed.index(advice.candidate)]
    assert [chosen.groups[server] for server in chosen.serves] == [(0, 1), (0, 1), (2, 3), (3,)]
    assert conclude(comparison, budget=2)[1].candidate == "pairs"
    assert conclude(comparison, worthwhile=0.6)[1].candidate == JOINT


def test_a_run_serves_what_is_concluded(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("coterie.pipeline.run")
    asked = []

    def decide(comparison, budget, worthwhile):
        asked.append((budget, worthwhile))
        advice = recommend(comparison, budget, worthwhile)
        return comparison, replace(advice, candidate=BASELINE, models=comparison.n_models(BASELINE))

    monkeypatch.setattr(module, "conclude", decide)
    result = run(digits_workload(4, rows=250), groups=2, budget=4, seeds=2, bases=1, worthwhile=0.03)
    assert asked == [(4, 0.03)]
    assert result.served.groups == ((0,), (1,), (2,), (3,))
    assert result.result["recommendation"]["candidate"] == BASELINE
    assert result.result["served"]["groups"] == [[f"task {t}"] for t in range(4)]


def test_label_correlation_moves_the_prior_by_its_weight() -> None:
    """Partners that are correlated lower a loss, by seven tenths of what is usual between subsets."""
    rng = np.random.default_rng(0)
    matrix = np.triu(rng.normal(size=(6, 6)), 1)
    matrix += matrix.T
    reference = np.array([rng.permutation(6) < 3 for _ in range(200)])
    noise = rng.normal(size=(6, 6))

    def estimate(subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.where(subsets, 2.0 + 0.1 * (subsets @ noise.T), np.nan)

    moved = make_prior(estimate, matrix, reference)(reference) - estimate(reference)
    score = (reference @ matrix.T) / 2
    usual = np.nanstd(estimate(reference), axis=0)
    for task in range(6):
        held = reference[:, task]
        assert np.corrcoef(score[held, task], moved[held, task])[0, 1] < -0.999
    share = np.sqrt(np.nanmean((moved / np.sqrt(usual**2 + (np.median(usual) / 2) ** 2)) ** 2))
    assert share == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("trainings", [8.0, 24.0])
def test_a_budget_is_spent(trainings: float) -> None:
    """Not half of it, and not much more than all."""
    estimate = get_estimator("fused", trainings=trainings).estimate(
        digits_workload(8, rows=300), context=Context(seed=0, memory=2**30), subset_size=3
    )
    assert estimate.run_flops is not None
    spent = sum(row["flops"] or 0.0 for row in estimate.costs.rows()) / estimate.run_flops
    assert 0.7 * trainings <= spent <= 1.2 * trainings
