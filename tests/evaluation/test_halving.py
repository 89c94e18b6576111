"""Successive halving: the budget holds, the better stay, and what chose does not judge."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.evaluation import BASELINE, JOINT, Comparison, halving, recommend
from coterie.evaluation.compare import all_in_one, single_task
from coterie.evaluation.halving import Prices, race, smallest_runs
from coterie.evaluation.labels import LabelLosses, Losses
from coterie.evaluation.trainings import RaceEntries
from coterie.grouping import Grouping
from reference.halving_bed import Draw, prices

TASKS = tuple("abcdef")
SIMPLE = frozenset([tuple(range(6)), *((t,) for t in range(6))])


@st.composite
def worlds(draw):
    """Prices with shared groups, a budget around what matters, seeds."""
    count = draw(st.integers(0, 9))
    subsets = st.frozensets(st.integers(0, 5), min_size=1, max_size=5).map(lambda s: tuple(sorted(s)))
    found = {f"c{c}": draw(st.frozensets(subsets, min_size=1, max_size=6)) for c in range(count)}
    known = Prices(found, SIMPLE)
    seeds = draw(st.lists(st.integers(0, 50), min_size=1, max_size=6, unique=True))
    least = smallest_runs(known, len(seeds))
    return known, seeds, least + draw(st.integers(0, 200)), draw(st.integers(0, 10**6))


def by_chance(seed):
    """Losses that depend on the candidate and the training seed only, kept from rung to rung."""

    def measure(names, seeds):
        values = [[np.random.default_rng((seed, int(n[1:]), s)).uniform(0.5, 1, 4) for s in seeds] for n in names]
        labels = LabelLosses(np.array(values, dtype=np.float32), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
        return Losses.of(labels.means(2), labels)

    return measure


@given(worlds())
def test_the_budget_is_never_exceeded_and_everybody_is_accounted_for(world):
    known, seeds, runs, chance = world
    calls = []

    def measure(names, used):
        calls.append((list(names), list(used)))
        return by_chance(chance)(names, used)

    record = race(known, seeds, runs, measure)
    # the price, counted anew from the sets that were asked for
    trained = {(subset, s) for names, used in calls for name in names for subset in known.subsets[name] for s in used}
    final = {(sub, s) for n in record.finalists for sub in known.subsets[n] for s in record.seeds}
    final |= {(subset, seed) for subset in SIMPLE for seed in record.seeds}
    assert not trained & final
    assert len(trained) + len(final) == record.spent <= runs
    assert sum(rung.runs for rung in record.rungs) == len(trained)
    assert sorted([*record.finalists, *record.eliminated]) == sorted(known.subsets)
    assert bool(record.finalists) == bool(known.subsets)
    assert len(record.seeds) >= min(2, len(seeds))
    assert not set(record.seeds) & {seed for rung in record.rungs for seed in rung.seeds}
    for before, after in zip(record.rungs, record.rungs[1:], strict=False):
        assert before.stayed == tuple(n for n in before.stayed if n in {s.name for s in after.standings})
        assert len(after.standings) < len(before.standings)
        assert set(before.seeds) < set(after.seeds)
    assert race(known, seeds, runs, by_chance(chance)).to_dict() == record.to_dict()


@given(worlds())
def test_enough_runs_for_everybody_eliminate_nobody(world):
    known, seeds, _, _ = world
    names = list(known.subsets)
    record = race(known, seeds, len(seeds) * known.final(names), by_chance(0))
    assert (record.rungs, record.finalists, record.seeds) == ((), tuple(names), tuple(seeds))
    assert record.spent == record.runs


@given(worlds())
@settings(max_examples=30)
def test_too_small_a_budget_names_the_smallest(world):
    known, seeds, _, _ = world
    least = smallest_runs(known, len(seeds))
    with pytest.raises(SettingError, match=rf"`runs` should be at least {least} .* Found {least - 1}\."):
        race(known, seeds, least - 1, by_chance(0))
    assert race(known, seeds, least, by_chance(0)).spent <= least
    with pytest.raises(SettingError) as caught:
        race(known, seeds, least - 1, by_chance(0))
    said = re.search(r"candidates: (?:(\d+) to train .*, and )?(\d) x (\d+) for", str(caught.value))
    assert said
    assert int(said[1] or 0) + int(said[2]) * int(said[3]) == least


@given(worlds())
def test_those_who_stay_are_the_best_by_the_geometric_mean(world):
    known, seeds, runs, chance = world
    record = race(known, seeds, runs, by_chance(chance))
    for rung in record.rungs:
        losses = {}
        for standing in rung.standings:
            means = by_chance(chance)([standing.name], rung.seeds).means[0]
            losses[standing.name] = math.exp(np.log(means).mean())
            assert standing.loss == pytest.approx(losses[standing.name], rel=1e-6)
        order = sorted(losses, key=losses.__getitem__)
        assert [s.name for s in rung.standings] == order
        assert rung.stayed == tuple(order[: len(rung.stayed)])
        best = losses[order[0]]
        assert [s.gain.mean for s in rung.standings] == pytest.approx([1 - losses[n] / best for n in order], abs=1e-6)


def test_of_equals_the_one_with_fewer_models_is_better():
    known = prices(4, 3, 6)

    def same(names, seeds):
        return Losses.of(np.ones((len(names), len(seeds), 1)))

    record = race(known, range(3), smallest_runs(known, 3), same, {"c0": 5, "c1": 4, "c2": 2, "c3": 4})
    assert [s.name for s in record.rungs[0].standings] == ["c2", "c1", "c3", "c0"]
    assert record.finalists == ("c2",)


def test_the_schedule_of_a_known_case():
    """12 candidates of 3 groups, 15 simple models: 36 runs for a seed of everybody, 24 a seed of three finalists."""
    known = prices(12, 3, 14)
    draw = Draw(known, np.random.default_rng(0))
    record = race(known, range(5), 204, draw.measure)
    # 5 x 24 for the final; of the other 84 half for each of two rungs: 1 x 36, then 48 // 18 = 2 more seeds
    assert [(len(r.standings), r.seeds, r.runs) for r in record.rungs] == [(12, (5,), 36), (6, (5, 6, 7), 36)]
    assert (len(record.finalists), record.seeds, record.spent) == (3, (0, 1, 2, 3, 4), 192)
    few = race(known, range(5), 72, draw.measure)
    assert (len(few.rungs), len(few.finalists), few.seeds, few.asked, few.spent) == (1, 1, (0, 1), 5, 72)
    assert "2 seeds (not 5, for want of runs) that no rung used; 72 of 72 runs were spent" in few.lines()[-1]


def test_clear_differences_are_found_at_every_budget():
    known = prices(9, 3, 6)
    draw = Draw(known, np.random.default_rng(1), seed_noise=1e-3, example_noise=1e-3)
    for runs in range(smallest_runs(known, 5), 5 * known.final(draw.names) + 1, 7):
        assert draw.halving(runs, 5)[0] == int(np.argmin(draw.truth))


def test_halving_pays_against_equal_seeds_for_the_same_runs():
    """The claim of benchmarks/halving.py in small: 12 candidates, luck as large as the differences."""
    known = prices(12, 3, 14)
    worlds = [Draw(known, np.random.default_rng(number)) for number in range(300)]
    for runs in (153, 204):
        ours = np.array([draw.regret(draw.halving(runs, 5)[0]) for draw in worlds])
        equal = np.array([draw.regret(draw.equally(runs)[0]) for draw in worlds])
        assert ours.mean() < equal.mean()
        assert len(worlds[0].halving(runs, 5)[1].seeds) >= worlds[0].equally(runs)[1]


def test_the_interval_of_the_winner_covers_the_truth_because_its_seeds_are_fresh():
    """No true differences: whoever comes through was lucky. Judged on the lucky seeds, too, it is off."""
    known = prices(24, 3, 14)
    fresh, reused = [], []
    for number in range(400):
        draw = Draw(known, np.random.default_rng(number), between=0, example_noise=0.1)
        chosen, record = draw.halving(smallest_runs(known, 5), 5)
        fresh.append(draw.covered(chosen, record.seeds)[1])
        reused.append(draw.covered(chosen, [*record.rungs[-1].seeds, *record.seeds])[1])
    error = np.std(fresh) / len(fresh) ** 0.5
    assert abs(np.mean(fresh)) < 3 * error
    assert np.mean(reused) < -6 * error


def grouping(labels, method="test"):
    return Grouping.from_labels(TASKS, labels, method=method)


def test_entries_that_need_no_race():
    everything = {
        JOINT: all_in_one(TASKS),
        "x": grouping([0, 0, 0, 1, 1, 1]),
        "whole": grouping([0] * 6),
        "y": grouping([0, 1, 0, 1, 0, 1]),
        "again": grouping([1, 1, 1, 0, 0, 0]),
        "many": grouping([0, 1, 2, 3, 3, 3]),
        BASELINE: single_task(TASKS),
    }
    entry = RaceEntries.of(everything, (JOINT, BASELINE), budget=3)
    assert list(entry.prices.subsets) == ["x", "y"]
    assert (entry.refused, dict(entry.twins)) == (("many",), {"again": "x"})
    record = race(entry.prices, range(3), 100, by_chance(0))
    assert entry.complete(record).finalists == (JOINT, "x", "whole", "y", "again", BASELINE)
    only_y = replace(record, finalists=("y",))
    assert entry.complete(only_y).finalists == (JOINT, "whole", "y", BASELINE)
    assert any("again has the same groups as x" in line for line in entry.complete(only_y).lines())
    assert any("many" in line for line in entry.complete(only_y).lines())


def test_one_group_served_differently_is_no_twin():
    groups = ((0, 1, 2), (2, 3, 4, 5))
    everything = {
        JOINT: all_in_one(TASKS),
        "x": Grouping(TASKS, groups, (0, 0, 0, 1, 1, 1)),
        "y": Grouping(TASKS, groups, (0, 0, 1, 1, 1, 1)),
        BASELINE: single_task(TASKS),
    }
    entry = RaceEntries.of(everything, (JOINT, BASELINE))
    assert not entry.twins
    assert entry.prices.rung(["x", "y"]) == 2


def halved_comparison(eliminated: int) -> Comparison:
    """A grouping that is better than one model beyond the noise, but not by much; others left before."""
    rng = np.random.default_rng(0)
    groupings = (all_in_one(TASKS), grouping([0, 0, 0, 1, 1, 1]), single_task(TASKS))
    means = np.array([1.0, 0.992, 1.2])[:, None, None] + 0.004 * rng.standard_normal((3, 6, 1)) + np.zeros((3, 6, 6))
    plain = Comparison(TASKS, (JOINT, "x", BASELINE), groupings, tuple(range(6)), means, means)
    known = prices(eliminated + 1, 2, 6)
    record = race(known, range(2), smallest_runs(known, 2), by_chance(0))
    assert len(record.eliminated) == eliminated
    return replace(plain, halving=record)


def test_the_choice_is_adjusted_for_those_who_left_before():
    few, many = halved_comparison(3), halved_comparison(40)
    assert few.total("x", "validation", against=JOINT).low > 0
    assert recommend(few, worthwhile=0).verdict == "yes"
    assert recommend(many, worthwhile=0).verdict == "undecided"
    assert "40 other candidates left by successive halving, on other seeds" in recommend(many).reason


def test_the_record_is_saved_loaded_and_shown(tmp_path):
    comparison = halved_comparison(5)
    again = Comparison.load(comparison.save(tmp_path / "c.safetensors"))
    assert again.to_dict() == comparison.to_dict()
    assert again.halving is not None
    assert again.halving.eliminated == comparison.halving.eliminated
    assert again.halving.lines() == comparison.halving.lines()
    assert len(comparison.to_dict()["halving"]["rungs"][0]["candidates"]) == 6
    extended = replace(comparison, halving=None)
    assert "halving" not in extended.to_dict()
    assert Comparison.load(extended.save(tmp_path / "d.safetensors")).halving is None


def test_to_frame():
    pytest.importorskip("pandas")
    record = halved_comparison(5).halving
    frame = record.to_frame()
    assert list(frame.columns) == ["rung", "seeds", "candidate", "loss", "gain", "low", "high", "stays"]
    assert list(frame[~frame.stays].candidate[::-1]) == list(record.eliminated)
    assert len(replace(record, rungs=()).to_frame()) == 0


@pytest.mark.parametrize(
    ("n", "left", "kept"),
    [
        (6, 7, (3, True)),  # the three best fit into the final, and three are enough for it
        (8, 8, (4, False)),  # four would fit as well, but are more than a final needs
        (8, 6, (4, False)),  # a further round for four, and two seeds for the last
        (8, 5, (2, True)),  # not enough for both
    ],
)
def test_a_further_round_where_more_than_a_final_needs_are_left(n, left, kept):
    names = [f"c{i}" for i in range(n)]
    equal = Prices({name: frozenset({(i,)}) for i, name in enumerate(names)}, frozenset())
    assert halving._kept(equal, names, 2, left) == kept
