"""The search is never below a plain one that makes one move at a time, and gets over what stops single moves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.grouping.objective import GainObjective
from coterie.grouping.search import moves
from coterie.grouping.search.groups import search_groups
from coterie.grouping.search.guesses import Guesses
from coterie.grouping.search.moves import Limits, Partition, Steps, climb, climb_by_steps


class Rugged:
    """Gains by pairs with a price of size, and something of its own for every group: guesses are often wrong."""

    def __init__(self, seed: int, n: int, rugged: float) -> None:
        rng = np.random.default_rng(seed)
        self.tasks = tuple(f"t{i}" for i in range(n))
        self.pairs = rng.normal(size=(n, n)) * (1 - np.eye(n))
        self.waves, self.phase, self.rugged = rng.normal(size=(n, n)) * 3, rng.normal(size=n), rugged

    def predict(self, subsets):
        subsets = np.asarray(subsets, dtype=bool)
        root = np.sqrt(np.maximum(subsets.sum(1, keepdims=True) - 1, 1))
        own = self.rugged * np.sin(subsets @ self.waves + self.phase) * (subsets.sum(1, keepdims=True) > 1)
        return np.where(subsets, subsets @ self.pairs.T / root + own, np.nan)

    def pairwise(self):
        return self.pairs


def plain(model, start, limits):
    """Where the plain search gets from labels, per task."""
    n = len(model.tasks)
    partition = Steps(GainObjective(model, np.arange(n)), start == np.unique(start)[:, None])
    climb_by_steps(partition, limits)
    return partition.worth / n


@given(st.integers(5, 20), st.integers(2, 5), st.integers(0, 10_000), st.floats(0.0, 1.0), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_gain_is_at_least_that_of_the_plain_search(n, k, seed, rugged, free):
    model, k = Rugged(seed, n, rugged), min(k, n - 1)
    start = np.random.default_rng(seed).permutation(np.arange(n) % k)
    limits = Limits(1, n) if free else Limits(k, k)
    found = search_groups(model, None if free else k, starts=[start], seed=seed)
    assert found.objective >= plain(model, start, limits) - 1e-8


def test_two_tasks_move_together_where_each_alone_would_lose(monkeypatch):
    """Tasks 0 and 1 hold together; their company would gain elsewhere. No exchange helps."""
    values = np.zeros((6, 6))
    values[0, 1] = values[1, 0] = 2.0
    values[:2, 2:4] = values[2:4, :2] = -0.5
    values[:2, 4:] = values[4:, :2] = 0.5
    values[2, 3] = values[3, 2] = values[4, 5] = values[5, 4] = 4.0

    class Sums:
        tasks = tuple("abcdef")

        def predict(self, subsets):
            return np.where(subsets, np.asarray(subsets, dtype=float) @ values, np.nan)

        def pairwise(self):
            return values

    start = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]], dtype=bool)
    reached = []
    for chains in (moves.CHAINS, 0):
        monkeypatch.setattr(moves, "CHAINS", chains)
        partition = Partition(GainObjective(Sums(), np.arange(6)), start)
        climb(partition, Limits(2, 2))
        reached.append(partition.groups.tolist())
    assert reached == [[[0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1]], start.tolist()]


def test_a_chain_moves_every_task_once_at_most_and_ends_at_its_best_point():
    rng = np.random.default_rng(0)
    groups = np.arange(8) % 3 == np.arange(3)[:, None]
    effects = rng.normal(size=(8, 8)) * (1 - np.eye(8))
    value = np.stack([(effects + effects.T)[:, members].sum(1) for members in groups], 1)
    for task in range(8):
        guesses = Guesses(groups, value, effects)
        target = (task + 1) % 3
        worth, after = guesses.chain(task, target)
        labels = after.argmax(0)
        both = effects + effects.T
        before = sum(both[np.ix_(own, own)].sum() for own in groups) / 2
        assert worth == pytest.approx(sum(both[np.ix_(own, own)].sum() for own in after) / 2 - before)
        assert (after.sum(0) == 1).all()
        assert after.any(1).all()
        assert (labels != np.arange(8) % 3).sum() > 1
        assert labels[task] == target  # moved once
