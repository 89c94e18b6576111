"""A mixture that is written down before the runs that judge it, against the natural and the even one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie._json import real, whole
from coterie.errors import SettingError
from coterie.study.confirmation import ERROR, FIRST_BLOCKS
from coterie.study.mixtures.results import MixtureResults
from coterie.study.results import Floats
from coterie.study.sequential import FEWEST, GainInterval, evidence, mean_interval, spent

#: mixtures are the same when no share differs by more
SAME = 1e-5


@dataclass(frozen=True, eq=False)
class MixtureRun:
    """A run that should be made.

    Attributes:
        shares: (sources,) of the data.
        seed: of the run.
        reason: why, in a few words.
    """

    shares: Floats
    seed: int
    reason: str

    def to_dict(self, sources: Sequence[str]) -> dict[str, Any]:
        """A JSON-ready form with the names of the sources."""
        mixture = {name: float(share) for name, share in zip(sources, self.shares, strict=True) if share > 0}
        return {"mixture": mixture, "seed": self.seed, "reason": self.reason}


@dataclass(frozen=True, eq=False)
class MixtureConfirmation:
    """A choice that is to be confirmed with seeds that had no part in it.

    Attributes:
        shares: (sources,) the mixture that was chosen.
        rivals: name -> (sources,) mixtures that it should be better than.
        weights: (targets,) of losses in the objective.
        reference: objective that gains are shares of.
        first_seed: runs with this seed or a later one are fresh.
        attempt: 1 for the first choice; later ones have to show more, so that all together err with 5 % at most.
    """

    shares: Floats
    rivals: Mapping[str, Floats]
    weights: Floats
    reference: float
    first_seed: int
    attempt: int = 1

    @property
    def alpha(self) -> float:
        """The probability of an error that this attempt may spend."""
        return spent(self.attempt, ERROR)

    def gains(self, results: MixtureResults, rival: str) -> Floats:
        """(seeds,) gain over a rival for every fresh seed with which both were run, as a share."""
        mine, theirs = (self._by_seed(results, shares) for shares in (self.shares, self.rivals[rival]))
        seeds = sorted(mine.keys() & theirs.keys())
        return np.array([(theirs[seed] - mine[seed]) / abs(self.reference) for seed in seeds])

    def _by_seed(self, results: MixtureResults, shares: Floats) -> dict[int, float]:
        """Seed -> objective of a mixture, of its runs that measured all targets with a weight; the first counts."""
        found: dict[int, float] = {}
        needed = self.weights != 0
        for row in np.flatnonzero(np.abs(results.shares - shares).max(1) < SAME):
            seed, losses = int(results.seeds[row]), results.losses[row]
            if seed >= self.first_seed and not results.sizes[row] and np.isfinite(losses[needed]).all():
                found.setdefault(seed, float(losses[needed] @ self.weights[needed]))
        return found

    def interval(self, results: MixtureResults, rival: str) -> GainInterval:
        """Mean gain over a rival, with an interval that may be looked at after every run."""
        return mean_interval(self.gains(results, rival), self.alpha)

    def is_better(self, results: MixtureResults) -> bool:
        """Whether the mixture is better than every rival beyond the noise."""
        every = [self.gains(results, rival) for rival in self.rivals]
        return all(len(gains) >= FEWEST and evidence(gains) >= 1 / self.alpha for gains in every)

    def begun(self, results: MixtureResults) -> bool:
        """Whether a fresh run of the mixture was told."""
        return bool(self._by_seed(results, self.shares))

    def wanted(self, results: MixtureResults, taken: Iterable[tuple[Floats, int]] = ()) -> tuple[MixtureRun, ...]:
        """Runs that are to be made next: of four seeds at first, then of one seed at a time.

        Args:
            results: runs so far.
            taken: shares and seed of runs that were asked for already.
        """
        every = {"": self.shares, **self.rivals}
        told = {name: set(self._by_seed(results, shares)) for name, shares in every.items()}
        under_way = {
            (name, seed)
            for shares, seed in taken
            for name, one in every.items()
            if np.abs(np.asarray(shares) - one).max() < SAME and seed not in told[name]
        }
        done = min(len(self.gains(results, rival)) for rival in self.rivals)
        needed, found, seed = max(FIRST_BLOCKS, done + 1), list[MixtureRun](), self.first_seed
        while needed > 0:
            missing = [name for name in every if seed not in told[name]]
            free = [name for name in missing if (name, seed) not in under_way]
            needed -= 1
            found += [MixtureRun(every[name], seed, name or "confirms the choice") for name in free]
            seed += 1
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "shares": self.shares.tolist(),
            "rivals": {name: shares.tolist() for name, shares in self.rivals.items()},
            "weights": self.weights.tolist(),
            "reference": self.reference,
            "first_seed": self.first_seed,
            "attempt": self.attempt,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> MixtureConfirmation:
        """The inverse of :meth:`to_dict`.

        Raises:
            SettingError: when something is missing or of another type.
        """
        try:
            rivals = {str(name): np.array([real(x) for x in shares]) for name, shares in data["rivals"].items()}
            shares, weights = (np.array([real(x) for x in data[name]]) for name in ("shares", "weights"))
            numbers = real(data["reference"]), whole(data["first_seed"]), whole(data["attempt"])
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise SettingError(
                f"A stored confirmation should have what MixtureConfirmation.to_dict writes. Found {data!r:.120}."
            ) from error
        return MixtureConfirmation(shares, rivals, weights, *numbers)
