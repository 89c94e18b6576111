"""How much runs of another size tell: whether they rank mixtures as runs of the own size do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.study.mixtures.average import FEWEST_OTHERS, AveragedMixtures
from coterie.study.mixtures.results import MixtureResults
from coterie.study.results import Floats

#: orders of the own runs that show what agreement comes of nothing
_SHUFFLES = 200
#: agreement below which another size hardly ranks mixtures
HARDLY = 0.6


@dataclass(frozen=True, eq=False)
class SizeEvidence:
    """What runs of another size tell of the runs that are asked about.

    Attributes:
        size: their name.
        runs: their number.
        own: number of runs of the own size that were compared.
        targets: (targets,) rank correlation of what the others say and what the own runs brought; NaN with too few.
        mean: of these.
        total: the same for the objective.
        chance: what 95 % of shuffled runs stay below, for the mean.
        text: one sentence.
    """

    size: str
    runs: int
    own: int
    targets: Floats
    mean: float
    total: float
    chance: float
    text: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        numbers = {name: getattr(self, name) for name in ("mean", "total", "chance")}
        plain = {name: (float(value) if np.isfinite(value) else None) for name, value in numbers.items()}
        targets = [float(value) if np.isfinite(value) else None for value in self.targets]
        return {"size": self.size, "runs": self.runs, "own": self.own, **plain, "targets": targets, "text": self.text}


def size_evidence(results: MixtureResults, posterior: Any, weights: Floats) -> tuple[SizeEvidence, ...]:
    """What every other size tells.

    Args:
        results: all runs.
        posterior: of the usual predictor; others look at one size only.
        weights: (targets,) of the objective.
    """
    own = results.of_size("")
    told: dict[str, Any] = {}
    if isinstance(posterior, AveragedMixtures):
        told = dict(zip(posterior.others.names, posterior.others.posteriors, strict=True))
    found: list[SizeEvidence] = []
    for size in dict.fromkeys(one for one in results.sizes if one):
        count, nothing = results.sizes.count(size), np.full(len(results.targets), np.nan)
        if size not in told or len(own.losses) < FEWEST_OTHERS:
            what = "no run of the own size was told" if not len(own.losses) else "there are too few runs to compare"
            text = (
                f"How far the {count} runs with {size} rank mixtures for the size that is asked about is not known: "
                f"{what}. Published small models ranked pretraining mixtures well and instruction data hardly; "
                f"{2 * FEWEST_OTHERS} runs of the own size would tell."
            )
            found.append(SizeEvidence(size, count, len(own.losses), nothing, np.nan, np.nan, np.nan, text))
            continue
        found.append(_compared(size, count, own, told[size].mean(own.shares), weights))
    return tuple(found)


def _compared(size: str, count: int, own: MixtureResults, said: Floats, weights: Floats) -> SizeEvidence:
    """Own runs against what another size says of them."""
    targets = _agreement(said, own.losses)
    total = float(_agreement((said @ weights)[:, None], (own.losses @ weights)[:, None])[0])
    rng = np.random.default_rng(0)
    shuffled = [float(np.nanmean(_agreement(said[rng.permutation(len(said))], own.losses))) for _ in range(_SHUFFLES)]
    mean, chance = float(np.nanmean(targets)), float(np.quantile(shuffled, 0.95))
    word = "hardly rank" if mean < HARDLY or mean < chance else "rank"
    text = (
        f"The {count} runs with {size} {word} mixtures for the size that is asked about: rank correlation "
        f"{mean:.2f} in the mean over targets (chance stays below {chance:.2f}), {total:.2f} for the objective, "
        f"on {len(own.losses)} runs."
    )
    return SizeEvidence(size, count, len(own.losses), targets, mean, total, chance, text)


def _agreement(a: Floats, b: Floats) -> Floats:
    """(columns,) rank correlations, NaN where less than three are known or one side is all the same."""
    from scipy.stats import rankdata

    found = np.full(a.shape[1], np.nan)
    for column in range(a.shape[1]):
        rows = np.isfinite(b[:, column])
        if rows.sum() > 2:
            x, y = rankdata(a[rows, column]), rankdata(b[rows, column])
            if x.std() > 0 and y.std() > 0:
                found[column] = np.corrcoef(x, y)[0, 1]
    return found
