"""Which targets proportions can steer at all: whether runs that are left out are predicted better than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coterie.study.mixtures.kernels import ROOTS
from coterie.study.mixtures.process import Seen, known, shared_amounts
from coterie.study.mixtures.results import MixtureResults, unit_scales
from coterie.study.results import Floats, Mask

#: shuffled orders of the runs; every target of each is a case of what comes of nothing
SHUFFLES = 20
#: share of false ones among the targets that are called steerable
FALSE_SHARE = 0.1
#: fewer runs tell nothing
FEWEST_RUNS = 6


@dataclass(frozen=True, eq=False)
class Steering:
    """Whether targets follow the mixture.

    Attributes:
        skill: (targets,) share of the variance of runs that is predicted when they are left out, 0 for none.
        p: (targets,) how often shuffled runs are predicted as well.
        steerable: (targets,) whether the target follows the mixture, with one false one in ten at most.
    """

    skill: Floats
    p: Floats
    steerable: Mask


def steering(results: MixtureResults) -> Steering:
    """Compare the skill at runs that are left out with the one at shuffled runs.

    The process looks at square roots of shares with amounts that all targets share, refitted after every shuffle.

    Args:
        results: runs of one size.

    Source: permutation test; false ones among many by Benjamini & Hochberg (1995).
    """
    targets = results.losses.shape[1]
    if len(results.losses) < FEWEST_RUNS:
        nothing = np.full(targets, np.nan)
        return Steering(nothing, nothing, np.zeros(targets, dtype=bool))
    middle, scale = unit_scales(results.losses)
    values = (results.losses - middle) / scale
    seen, rng = Seen.of(ROOTS, results.shares), np.random.default_rng(0)
    skill = _skill(seen, values)
    nulls = np.concatenate([_skill(seen, values[rng.permutation(len(values))]) for _ in range(SHUFFLES)])
    p = (1 + (nulls[None] >= skill[:, None]).sum(1)) / (1 + len(nulls))
    return Steering(np.maximum(skill, 0.0), p, _true_ones(p))


def _skill(seen: Seen, values: Floats) -> Floats:
    """(targets,) 1 - squared error of what is said of runs that are left out, over that of the mean of the others."""
    amounts = shared_amounts(seen.x, values, np.zeros((*values.shape, 0)))
    found = np.zeros(values.shape[1])
    for target, column in enumerate(values.T):
        one, told = known(amounts, seen.x, column), column[np.isfinite(column)]
        apart = (told - told.mean()) * len(told) / max(len(told) - 1, 1)
        found[target] = 1 - float(((one.left_out - told) ** 2).sum()) / max(float((apart**2).sum()), 1e-300)
    return found


def _true_ones(p: Floats) -> Mask:
    """Which of many are true, with a share of false ones among them."""
    order = np.argsort(p, kind="stable")
    below = np.flatnonzero(p[order] <= FALSE_SHARE * np.arange(1, len(p) + 1) / len(p))
    found = np.zeros(len(p), dtype=bool)
    if len(below):
        found[order[: below[-1] + 1]] = True
    return found
