"""A short formula in place of a gain model: which partner helps whom, by how much, and how sure that is.

A page can evaluate it without the model, and its coefficients are what is shown of pairs of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.gain_model import GainModel, random_subsets

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: how partners add up: 0 as a sum, 1 as a mean; what predicts left-out subsets best is taken
POWERS = (0.0, 0.5, 1.0)
#: ridges in units of the mean square of a column, among which the same subsets choose
RIDGES = (1e-4, 1e-2, 1e-1, 1.0)
#: every so many-th subset is left out when powers and ridges are compared
LEFT_OUT = 4
#: targets by which powers and ridges are compared; with more of them that would take most of the time
JUDGES = 20
#: subsets behind each coefficient of a target, where there are so many different ones
SUBSETS_EACH = 4
#: more tasks are not described: coefficients grow with their square, and a page has to carry them
MOST_TASKS = 150
#: up to so many tasks the errors of one target's subsets are taken together, which takes a covariance a target
JOINT_UP_TO = 60


@dataclass(frozen=True, eq=False)
class GainFormula:
    """Predicted gain of t in S: ``level[t] + slope[t] log2(|S| / size) + sum of effects[t, s] weight(|S|)``.

    The sum is over the partners s of t in S; ``weight(k) = (k - 1)^-power / (size - 1)^-power``, so that an effect is
    what a partner adds in a group of the usual size.

    Attributes:
        tasks: names.
        effects: (T, T) rows are targets, in units of gains, positive is good; the mean of a row is part of it.
        errors: (T, T) standard errors of the differences of an effect from the mean of its row; NaN where unknown.
        level: (T,) gain where the sum is 0, and the size usual.
        slope: (T,) change of the gain when the group has twice as many tasks, beside what partners add.
        doubt: (T, T + 2) the logarithm of the standard error of a gain by the same formula, its columns being effects,
            level, slope; NaN where unknown.
        off: (T,) root mean square difference between formula and model at subsets that it was not fitted to.
        power: how partners add up.
        size: usual number of tasks in a group.
    """

    tasks: tuple[str, ...]
    effects: Floats
    errors: Floats
    level: Floats
    slope: Floats
    doubt: Floats
    off: Floats
    power: float
    size: int

    def predict(self, subsets: Mask) -> Floats:
        """(m, T) gains of bool subsets (m, T); NaN outside the subset, 0 of tasks alone."""
        partners, sizes = _columns(subsets, self.power, self.size)
        found = partners @ self.effects.T + self.level + sizes[:, None] * self.slope
        return np.where(subsets, np.where(subsets.sum(1, keepdims=True) == 1, 0.0, found), np.nan)

    @property
    def differences(self) -> Floats:
        """(T, T) effects without the mean of their row; NaN on the diagonal."""
        return self.effects - self._means[:, None] + np.where(np.eye(len(self.tasks), dtype=bool), np.nan, 0.0)

    @property
    def levels(self) -> Floats:
        """(T,) gain in a usual group of average partners."""
        return self.level + (self.size - 1) * self._means

    @property
    def level_errors(self) -> Floats:
        """(T,) standard errors of the levels."""
        logs = self.doubt[:, -2] + (self.size - 1) * self.doubt[:, :-2].sum(1) / max(len(self.tasks) - 1, 1)
        return np.sqrt(np.exp(2 * np.clip(logs, -50, 50)) + self.off**2)

    @property
    def _means(self) -> Floats:
        return self.effects.sum(1) / max(len(self.tasks) - 1, 1)


def fit_formula(model: GainModel, size: int, seed: int = 0) -> GainFormula:
    """Fit the formula to what a model predicts of random subsets.

    Args:
        model: predicts gains, and how sure they are.
        size: usual number of tasks in a group.
        seed: of the subsets.

    Cost: some thousand predictions, and, where the model knows how errors of a target go together, one covariance a
    target of up to `JOINT_UP_TO` tasks: 0.1 s for 14 tasks, 8 s for 60, 42 s for 150 (benchmarks/formula.py).
    """
    n = len(model.tasks)
    size = int(np.clip(size, 2, n))
    subsets = _subsets(n, size, seed)
    gains, known = model.predict(subsets), model.standard_error(subsets)
    power, ridge, off = _choose(subsets, gains, size)
    partners, sizes = _columns(subsets, power, size)
    effects, errors, doubt = np.zeros((n, n)), np.full((n, n), np.nan), np.full((n, n + 2), np.nan)
    level, slope = np.zeros(n), np.zeros(n)
    for task in range(n):
        rows, others = np.flatnonzero(subsets[:, task]), np.arange(n) != task
        map_ = _map(partners[rows][:, others], sizes[rows], ridge)
        found = map_ @ gains[rows, task]
        effects[task, others], level[task], slope[task] = found[:-2], found[-2], found[-1]
        if known is not None:
            chosen = subsets[rows]
            joint = model.task_covariance(chosen, task) if n <= JOINT_UP_TO else None
            covariance = np.diag(known[rows, task] ** 2) if joint is None else joint
            centred = map_[:-2] - map_[:-2].mean(0)
            variance = np.einsum("ij,jk,ik->i", centred, covariance, centred)
            errors[task, others] = np.sqrt(np.maximum(variance, 0.0) + off[task] ** 2 * (centred**2).sum(1))
            logs = map_ @ np.log(np.maximum(known[rows, task], 1e-12))
            doubt[task, :-2][others], doubt[task, -2:] = logs[:-2], logs[-2:]
            doubt[task, task] = 0.0
    return GainFormula(model.tasks, effects, errors, level, slope, doubt, off, power, size)


def _subsets(n: int, size: int, seed: int) -> Mask:
    """Random subsets, most of the usual size, the others of all sizes that somebody might pick."""
    usual = random_subsets(n, max(40, -(-SUBSETS_EACH * n * n // size)), size, seed=seed, cover=False)
    sizes: Sequence[int] = sorted({2, min(n, 2 * size), (n + 1) // 2 + 1, max(2, n - 1), n} - {size})
    more = random_subsets(n, max(20, 2 * n), [min(n, max(2, k)) for k in sizes], seed=seed + 1, cover=False)
    return np.unique(np.concatenate([usual, more]), axis=0)


def _columns(subsets: Mask, power: float, size: int) -> tuple[Floats, Floats]:
    """What partners weigh in each subset (m, T), and log2 of its size over the usual one (m,)."""
    count = subsets.sum(1)
    weight = (np.maximum(count - 1, 1) / (size - 1)) ** -power
    return subsets * weight[:, None], np.log2(np.maximum(count, 1) / size)


def _map(partners: Floats, sizes: Floats, ridge: float) -> Floats:
    """(columns, m) what makes coefficients of values: effects, level, slope. Only differences of effects are shrunk."""
    columns = np.column_stack([partners, np.ones(len(sizes)), sizes])
    effects = partners.shape[1]
    strength = np.zeros((effects + 2, effects + 2))
    centre = np.eye(effects) - 1.0 / max(effects, 1)
    strength[:effects, :effects] = ridge * float((partners**2).sum()) / max(effects, 1) * centre
    return np.linalg.pinv(columns.T @ columns + strength, rcond=1e-10, hermitian=True) @ columns.T


def _choose(subsets: Mask, gains: Floats, size: int) -> tuple[float, float, Floats]:
    """The power and the ridge that say most of left-out subsets, and how far off (T,) the formula is there."""
    n = subsets.shape[1]
    judges = np.unique(np.linspace(0, n - 1, min(n, JUDGES)).astype(int))
    spread = np.maximum(np.nanstd(gains[:, judges], axis=0), 1e-12)

    def total(power: float, ridge: float) -> float:
        return float((_off(subsets, gains, judges, (power, ridge, size)) / spread).mean())

    power, ridge = min(product(POWERS, RIDGES), key=lambda one: total(*one))
    return power, ridge, _off(subsets, gains, np.arange(n), (power, ridge, size))


def _off(subsets: Mask, gains: Floats, tasks: NDArray[np.intp], settings: tuple[float, float, int]) -> Floats:
    """(tasks,) root mean square error at left-out subsets, with a power, a ridge and the usual size."""
    power, ridge, size = settings
    partners, sizes = _columns(subsets, power, size)
    off = np.zeros(len(tasks))
    for place, task in enumerate(tasks):
        rows, others = np.flatnonzero(subsets[:, task]), np.arange(subsets.shape[1]) != task
        out = np.arange(len(rows)) % LEFT_OUT == LEFT_OUT - 1
        learn, check = rows[~out], rows[out] if out.any() else rows
        found = _map(partners[learn][:, others], sizes[learn], ridge) @ gains[learn, task]
        told = partners[check][:, others] @ found[:-2] + found[-2] + sizes[check] * found[-1]
        off[place] = np.sqrt(np.mean((told - gains[check, task]) ** 2))
    return off
