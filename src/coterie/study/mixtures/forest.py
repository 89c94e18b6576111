"""Extra trees over proportions: what bends at thresholds and depends on several sources at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.study.mixtures.results import MixtureResults, Numbers, check_told, unit_scales
from coterie.study.results import Floats

#: trees of a forest, where targets are few; and of all forests together
TREES, ALL_TREES = 100, 1600
#: forests at most; targets that react alike share one where there are more
FORESTS = 16


@dataclass(frozen=True, eq=False)
class MixtureForest:
    """Values of mixtures by extra trees.

    Attributes:
        parts: forests, each with the numbers of its targets.
        middle, scale: (targets,) of the values.
        left_out: (runs, targets) means of the trees that did not see a run.
    """

    parts: tuple[tuple[Numbers, Any], ...]
    middle: Floats
    scale: Floats
    left_out: Floats

    def mean(self, shares: Floats) -> Floats:
        """Values of mixtures, (mixtures, targets)."""
        found = np.zeros((len(shares), len(self.middle)))
        for columns, model in self.parts:
            found[:, columns] = model.predict(shares).reshape(len(shares), -1)
        return self.middle + self.scale * found


def grow(results: MixtureResults) -> MixtureForest:
    """Extra trees on drawn runs, a forest a target or a group of targets that react alike.

    Args:
        results: runs; a run that lacks some targets of a group counts with what is usual there.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    check_told(results)
    middle, scale = unit_scales(results.losses)
    values = (results.losses - middle) / scale
    groups = _groups(np.where(np.isfinite(values), values, 0.0))
    trees = max(min(TREES, ALL_TREES // len(groups)), 30)
    left_out, parts = np.zeros_like(values), list[tuple[Numbers, Any]]()
    for group in groups:
        rows = np.isfinite(values[:, group]).any(1)
        wanted = np.where(np.isfinite(values), values, 0.0)[np.ix_(rows, group)]
        model = ExtraTreesRegressor(trees, bootstrap=True, random_state=0, n_jobs=1)
        model.fit(results.shares[rows], wanted[:, 0] if len(group) == 1 else wanted)
        left_out[np.ix_(rows, group)] = _unseen(model, results.shares[rows], wanted)
        parts.append((group, model))
    return MixtureForest(tuple(parts), middle, scale, middle + scale * left_out)


def _groups(values: Floats) -> list[Numbers]:
    """Targets that react alike, as numbers; each for itself where they are few."""
    targets = values.shape[1]
    if targets <= FORESTS:
        return [np.array([target]) for target in range(targets)]
    from scipy.cluster.hierarchy import fcluster, linkage

    found = fcluster(linkage(values.T, "ward"), FORESTS, "maxclust")
    return [np.flatnonzero(found == kind) for kind in np.unique(found)]


def _unseen(model: Any, shares: Floats, wanted: Floats) -> Floats:
    """Means over the trees that did not draw a run; of all trees where each drew it."""
    total, count = np.zeros_like(wanted), np.zeros(len(wanted))
    for tree, drawn in zip(model.estimators_, model.estimators_samples_, strict=True):
        away = np.ones(len(wanted), dtype=bool)
        away[drawn] = False
        if away.any():
            total[away] += tree.predict(shares[away]).reshape(int(away.sum()), -1)
            count[away] += 1
    never = count == 0
    total[never], count[never] = wanted.mean(0), 1
    return total / count[:, None]
