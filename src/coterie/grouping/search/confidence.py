"""How sure a grouping's predicted advantage is, and a search that prefers what is sure."""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, sqrt

import numpy as np

from coterie.grouping.matrix import BoolArray, FloatArray
from coterie.grouping.objective import GainObjective
from coterie.grouping.search.moves import Limits, Partition

#: changes whose standard errors are looked at in a step of the cautious search, those with the best means
LOOKED_AT = 24
#: random groupings that tell how much of the differences between estimates is real
RANDOM = 64
#: variances below this share of the largest count as none
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Advantage:
    """A difference between two groupings, mean over the tasks, and its standard error."""

    mean: float
    error: float

    @property
    def probability(self) -> float:
        """Probability that the difference is above 0, by the normal distribution; 0 for a grouping with itself."""
        if self.error <= 0:
            return float(self.mean > 0)
        return 0.5 * (1 + erf(self.mean / self.error / sqrt(2)))


def advantage(objective: GainObjective, groups: BoolArray, others: BoolArray) -> Advantage | None:
    """What a grouping gains over another one; None where the model does not tell how sure it is.

    Args:
        objective: of a gain model.
        groups: bool (K, T).
        others: bool (L, T).
    """
    both = np.concatenate([groups, others])
    covariance = objective.covariance(both)
    if covariance is None:
        return None
    weights = np.concatenate([np.ones(len(groups)), -np.ones(len(others))])
    n = groups.shape[1]
    error = float(_errors(covariance, weights[None])[0])
    return Advantage(float(weights @ objective.totals(both)) / n, error / n)


def confidence(objective: GainObjective, groups: BoolArray, seed: int = 0) -> dict[str, float | str]:
    """Facts for the details of a grouping: advantages over one group and over single tasks, how sure they are.

    Where the model's standard errors are a posterior, choosing the best of many groupings does not make its
    advantage too large, since the posterior knew all the data that the choice was made from; it is as right as the
    model's prior. Elsewhere the best of many estimates is mostly the luckiest one (winner's curse), and advantages are
    shrunk, see :func:`shrunk`. What all base models get wrong alike is in no spread: such probabilities stay too large.

    Args:
        objective: of a gain model.
        groups: bool (K, T).
        seed: of the random groupings that tell how much to shrink.
    """
    n = groups.shape[1]
    kind = str(getattr(objective.model, "uncertainty", ""))
    found: dict[str, float | str] = {}
    rivals = {"all_in_one": np.ones((1, n), dtype=bool), "single_task": np.eye(n, dtype=bool)}
    for name, rival in rivals.items():
        over = advantage(objective, groups, rival)
        if over is None:
            return {}
        if kind != "posterior":
            over = shrunk(objective, groups, rival, over, seed)
        found[f"gain_over_{name}"] = over.mean
        found[f"gain_over_{name}_error"] = over.error
        found[f"probability_beats_{name}"] = over.probability
    return {**found, "uncertainty": kind}


def shrunk(objective: GainObjective, groups: BoolArray, rival: BoolArray, over: Advantage, seed: int) -> Advantage:
    """An estimated advantage, moved towards the mean one of random groupings with groups of the same sizes.

    How estimates differ between random groupings is how true advantages differ, plus errors. The share of the former in
    the variance is what is kept of the difference from the mean (empirical Bayes with normal distributions); the error
    of the mean itself stays.

    Args:
        objective: of a gain model.
        groups: bool (K, T), found by a search.
        rival: bool (L, T), what it is held against.
        over: the advantage as estimated.
        seed: of the random groupings.
    """
    (k, n), generator = groups.shape, np.random.default_rng(seed)
    labels = groups.argmax(0)
    drawn = [generator.permutation(labels) == np.arange(k)[:, None] for _ in range(RANDOM)]
    rows = np.concatenate([groups, *drawn, rival])
    covariance = objective.covariance(rows)
    if covariance is None or over.error <= 0:  # the rival itself
        return over
    weights = np.zeros((RANDOM + 1, len(rows)))
    weights[:, (RANDOM + 1) * k :] = -1.0
    for number in range(RANDOM + 1):
        weights[number, number * k : (number + 1) * k] = 1.0
    typical = weights[1:].mean(0)
    away = weights - typical
    differences, errors = away @ objective.totals(rows) / n, _errors(covariance, away) / n
    variance = float((differences[1:] ** 2).mean())
    share = max(0.0, 1.0 - float((errors[1:] ** 2).mean()) / variance) if variance > 0 else 0.0
    mean = float(typical @ objective.totals(rows)) / n + share * float(differences[0])
    error = float(_errors(covariance, typical[None])[0]) / n
    return Advantage(mean, sqrt(error**2 + share * float(errors[0]) ** 2))


class Cautious:
    """Worth of a partition: its gain over all-in-one minus `caution` standard errors of that.

    Args:
        objective: of a gain model that tells how sure it is.
        caution: standard errors that are taken off, at least 0.
    """

    def __init__(self, objective: GainObjective, caution: float) -> None:
        self.objective, self.caution = objective, caution

    def worth(self, groups: BoolArray) -> float:
        """Worth, mean over the tasks; 0 for all-in-one."""
        found = advantage(self.objective, groups, np.ones((1, groups.shape[1]), dtype=bool))
        return 0.0 if found is None else found.mean - self.caution * found.error

    def climb(self, partition: Partition, limits: Limits) -> float:
        """Best changes among those with the best means, until none raises the worth; returns the worth.

        Changes are moves and merges. Cost: the covariance of about 50 groups for each step.
        """
        n = partition.groups.shape[1]
        current = self.worth(partition.groups)
        for _ in range(10 * n):
            changes = self._changes(partition, limits)
            if not changes:
                break
            worth = self._worths(partition, changes)
            best = int(np.argmax(worth))
            if worth[best] <= current + self.objective.tolerance:
                break
            partition.replace(changes[best])
            current = self.worth(partition.groups)
        return current

    def _changes(self, partition: Partition, limits: Limits) -> list[dict[int, BoolArray]]:
        """The most promising moves and merges."""
        k, n = partition.groups.shape
        changes: list[dict[int, BoolArray]] = []
        tasks, targets, gain = partition.promising(limits, LOOKED_AT)
        for task, target in zip(tasks[np.isfinite(gain)], targets[np.isfinite(gain)], strict=True):
            source = int(partition.labels[task])
            without = partition.groups[source].copy()
            joined = partition.groups[target].copy() if target < k else np.zeros(n, dtype=bool)
            without[task], joined[task] = False, True
            changes.append({source: without, int(target): joined})
        if k > max(limits.least, 1):
            first, second = np.triu_indices(k, 1)
            unions = partition.groups[first] | partition.groups[second]
            lost = self.objective.totals(unions) - partition.totals[first] - partition.totals[second]
            for pair in np.argsort(-lost, kind="stable")[: LOOKED_AT // 4]:
                empty = np.zeros(n, dtype=bool)
                changes.append({int(first[pair]): unions[pair], int(second[pair]): empty})
        return changes

    def _worths(self, partition: Partition, changes: list[dict[int, BoolArray]]) -> FloatArray:
        """Worth after each of the changes."""
        k, n = partition.groups.shape
        new = [members for change in changes for members in change.values()]
        rows = np.concatenate([partition.groups, np.ones((1, n), dtype=bool), np.stack(new)])
        weights = np.zeros((len(changes), len(rows)))
        weights[:, :k], weights[:, k] = 1.0, -1.0
        place = k + 1
        for number, change in enumerate(changes):
            for index in change:
                if index < k:
                    weights[number, index] = 0.0
                weights[number, place] = 1.0
                place += 1
        filled = rows.any(1)
        rows, weights = rows[filled], weights[:, filled]
        covariance = self.objective.covariance(rows)
        errors = np.zeros(len(changes)) if covariance is None else _errors(covariance, weights)
        return (weights @ self.objective.totals(rows) - self.caution * errors) / n


def _errors(covariance: FloatArray, weights: FloatArray) -> FloatArray:
    """Standard errors of weighted sums, one a row of weights."""
    variances = np.einsum("ci,ij,cj->c", weights, covariance, weights, optimize=True)
    size = np.abs(weights) @ np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return np.sqrt(np.where(variances > _ROUNDING * size**2, variances, 0.0))
