"""One mixture or several: groups of targets with a mixture each, for a number of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.study.mixtures.results import Numbers
from coterie.study.mixtures.view import DRAWS, MixtureView
from coterie.study.results import Floats
from coterie.study.sequential import GainInterval

#: rounds of the search for groups
_ROUNDS = 5


@dataclass(frozen=True, eq=False)
class MixtureGroups:
    """Several mixtures, each of which serves some targets.

    Attributes:
        models: their number.
        mixtures: one a model, source -> share.
        serves: target -> number of the mixture that serves it.
        gain: over one mixture for all targets, as a share of the objective, with the 95 % interval of the predictor.
        worth: whether the gain is more than the error of the predictor, and as large as matters.
    """

    models: int
    mixtures: tuple[dict[str, float], ...]
    serves: dict[str, int]
    gain: GainInterval
    worth: bool

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "models": self.models,
            "mixtures": [dict(mixture) for mixture in self.mixtures],
            "serves": dict(self.serves),
            "gain": self.gain.to_dict(),
            "worth": self.worth,
        }


def mixture_groups(view: MixtureView, models: int) -> MixtureGroups:
    """The best groups of targets with a mixture each, as the predictor expects them.

    Starting from the mixtures of a menu that together serve best (greedy), targets go to the mixture that serves them
    best and every mixture is improved for its targets, in turn.

    Args:
        view: what is known.
        models: so many mixtures at most.
    """
    weights = view.weights
    menu, values = (
        np.concatenate([view.best[None], view.pool]),
        np.concatenate([view.posterior.mean(view.best[None]), view.means]),
    )
    chosen = [0]
    while len(chosen) < models:
        best = values[chosen].min(0)
        chosen.append(int(np.argmin(np.minimum(best, values) @ weights)))
    mixtures = menu[chosen]
    serves = values[chosen].argmin(0)
    for _ in range(_ROUNDS):
        for number in range(models):
            own = np.where(serves == number, weights, 0.0)
            if own.any():
                mixtures[number] = view.improved(own)[0]
        now = view.posterior.mean(mixtures).argmin(0)
        if (now == serves).all():
            break
        serves = now
    return _described(view, mixtures, serves)


def _described(view: MixtureView, mixtures: Floats, serves: Numbers) -> MixtureGroups:
    """Groups with their gain over one mixture."""
    used = sorted({int(number) for number, weight in zip(serves, view.weights, strict=True) if weight})
    place = {number: index for index, number in enumerate(used)}
    rows = np.concatenate([view.best[None], mixtures[used]])
    drawn = view.posterior.sample(rows, DRAWS, np.random.default_rng(3))
    each = np.array([1 + place.get(int(number), 0) for number in serves])
    gains = (drawn[:, 0] - drawn[:, each, np.arange(len(each))]) @ view.weights / view.reference
    low, high = np.quantile(gains, [0.025, 0.975])
    gain = GainInterval(float(gains.mean()), float(low), float(high))
    worth = len(used) > 1 and gain.low > 0 and gain.mean >= view.aim.matters
    names = view.results.targets
    named = tuple(_named(view, row) for row in rows[1:])
    return MixtureGroups(len(used), named, {n: int(e) - 1 for n, e in zip(names, each, strict=True)}, gain, bool(worth))


def _named(view: MixtureView, shares: Floats) -> dict[str, float]:
    pairs = zip(view.results.sources, shares, strict=True)
    return {name: round(float(share), 6) for name, share in pairs if share > 1e-4}
