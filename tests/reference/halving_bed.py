"""Candidates with known truth whose losses are drawn instead of trained, and simple ways to spend a budget."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from coterie.evaluation.halving import Prices, final_seeds, race
from coterie.evaluation.intervals import Noise, t_interval
from coterie.evaluation.labels import Losses

#: what one standard deviation between candidates is on the scale of log losses
UNIT = 0.01
_SEEDS = 400


def prices(candidates: int, groups: int, tasks: int) -> Prices:
    """Candidates with groups of their own, all of one number, beside all-in-one and single-task models."""
    simple = frozenset([tuple(range(tasks)), *((t,) for t in range(tasks))])
    return Prices({f"c{c}": frozenset((tasks, c, g) for g in range(groups)) for c in range(candidates)}, simple)


@dataclass
class Draw:
    """One world: true log losses of the candidates and the luck of examples and seeds, in units of `UNIT`.

    The luck of a training is the same on validation and test examples; that of the examples is not.
    """

    prices: Prices
    rng: np.random.Generator
    between: float = 1.0
    seed_noise: float = 1.0
    example_noise: float = 0.5
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = list(self.prices.subsets)
        count = len(self.names)
        self.truth = self.between * self.rng.standard_normal(count)
        self.validation = self.truth + self.example_noise * self.rng.standard_normal(count)
        self.test = self.truth + self.example_noise * self.rng.standard_normal(count)
        self.luck = self.seed_noise * self.rng.standard_normal((count, _SEEDS))
        examples = self.example_noise * self.rng.standard_normal()
        self.joint = examples + self.seed_noise * self.rng.standard_normal(_SEEDS)

    def measure(self, names, seeds) -> Losses:
        """What successive halving sees."""
        rows = [self.names.index(name) for name in names]
        logs = self.validation[rows, None] + self.luck[np.ix_(rows, list(seeds))]
        return Losses.of(np.exp(UNIT * logs)[..., None])

    def best(self, rows, seeds) -> int:
        """The best of some candidates on validation data."""
        scores = self.validation[rows] + self.luck[np.ix_(rows, list(seeds))].mean(1)
        return rows[int(np.argmin(scores))]

    def halving(self, runs: int, n_seeds: int):
        """(chosen, record) by the real thing."""
        record = race(self.prices, range(n_seeds), runs, self.measure)
        return self.best([self.names.index(name) for name in record.finalists], record.seeds), record

    def equally(self, runs: int) -> tuple[int, int]:
        """(chosen, seeds) when every candidate gets the same number of seeds, one at least."""
        seeds = max(1, runs // self.prices.final(self.names))
        return self.best(list(range(len(self.names))), range(seeds)), seeds

    def two_stages(self, runs: int, n_seeds: int) -> int:
        """Chosen when what the final of one candidate leaves is spent on all candidates alike."""
        left = runs - final_seeds(self.prices, runs, n_seeds) * self.prices.dearest(self.names)
        return self.best(list(range(len(self.names))), range(max(1, left // self.prices.rung(self.names))))

    def regret(self, chosen: int) -> float:
        """How much worse than the best one, in units of `UNIT`."""
        return float(self.truth[chosen] - self.truth.min())

    def covered(self, chosen: int, seeds) -> tuple[bool, float]:
        """Whether the 95 % test interval of the loss over that of all-in-one holds the truth; its mean's error."""
        seeds = list(seeds)
        # the examples of all-in-one and of the candidate are drawn apart, so that both bring their noise
        difference = self.test[chosen] + self.luck[chosen, seeds] - self.joint[seeds]
        found = t_interval(difference, Noise(2 * self.example_noise**2, 1e6))
        return bool(found.low <= self.truth[chosen] <= found.high), float(found.mean - self.truth[chosen])
