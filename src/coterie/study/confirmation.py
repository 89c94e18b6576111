"""A choice that is written down before the runs that judge it: fresh seeds, and evidence that may be looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie._json import real, whole
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.study.results import Floats, Mask, Results
from coterie.study.sequential import FEWEST, GainInterval, evidence, mean_interval, spent
from coterie.study.serving_plan import ServingPlan, all_in_one, paired_gains

#: probability with which "better than one model" may be said in error, at any time of a study
ERROR = 0.05
#: seeds of a confirmation that are asked for at once; then one at a time
FIRST_BLOCKS = FEWEST + 1


@known_arguments
@dataclass(frozen=True, eq=False)
class WantedRun:
    """A run that should be made.

    Attributes:
        trained: (sources,) what to train on.
        seed: of the run.
        reason: why, in a few words.
        variant: the way in which to train.
    """

    trained: Mask
    seed: int
    reason: str
    variant: str = ""

    @property
    def key(self) -> tuple[bytes, int, str]:
        """Equal for runs of the same subset, seed and variant."""
        return self.trained.tobytes(), self.seed, self.variant

    def to_dict(self, sources: Sequence[str]) -> dict[str, Any]:
        """A JSON-ready form with the names of the tasks."""
        tasks = [name for name, inside in zip(sources, self.trained, strict=True) if inside]
        return {"tasks": tasks, "seed": self.seed, "variant": self.variant, "reason": self.reason}


@dataclass(frozen=True)
class Confirmation:
    """A choice that is to be confirmed with seeds that had no part in it.

    Keep it with the study from the first confirmatory run on, and give it to every later call: what is confirmed has to
    be the choice that was written down, not the one that looks best afterwards.

    Attributes:
        plan: the models that were chosen.
        shares: for each target, of the reductions of losses in the mean gain over one model.
        first_seed: runs with this seed or a later one are fresh.
        attempt: 1 for the first choice; later ones have to show more, so that all together err with 5 % at most.
    """

    plan: ServingPlan
    shares: tuple[float, ...]
    first_seed: int
    attempt: int = 1

    @staticmethod
    def of(results: Results, plan: ServingPlan, shares: Floats, attempt: int = 1) -> Confirmation:
        """Of a choice that the runs so far led to."""
        return Confirmation(plan, tuple(map(float, shares)), int(results.seeds.max(initial=-1)) + 1, attempt)

    @property
    def alpha(self) -> float:
        """The probability of an error that this attempt may spend."""
        return spent(self.attempt, ERROR)

    def gains(self, results: Results) -> Floats:
        """(seeds,) mean gain over one model for every fresh seed."""
        return paired_gains(results, self.plan, all_in_one(results), np.array(self.shares), self.first_seed)

    def interval(self, results: Results) -> GainInterval:
        """Mean gain over one model with an interval that may be looked at after every run."""
        return mean_interval(self.gains(results), self.alpha)

    def is_better(self, results: Results) -> bool:
        """Whether the models are better than one model beyond the noise."""
        gains = self.gains(results)
        return len(gains) >= FEWEST and evidence(gains) >= 1 / self.alpha

    def wanted(self, results: Results, taken: Iterable[WantedRun] = ()) -> tuple[WantedRun, ...]:
        """Runs that are to be made next: of four seeds at first, then of one seed at a time.

        Args:
            results: runs so far.
            taken: runs that were asked for already, failed ones included; seeds with such runs are left to those.
        """
        one, plan = all_in_one(results), self.plan
        models: list[tuple[Mask, str]] = []
        for part in (one, plan):
            for subset, variant in zip(part.subsets(results.sources), part.variants, strict=True):
                if not any((subset == other).all() and variant == name for other, name in models):
                    models.append((subset, variant))
        made = {
            (row.tobytes(), int(seed), variant)
            for row, seed, variant in zip(results.trained, results.seeds, results.variants, strict=True)
        }
        under_way = {run.key for run in taken} - made
        needed, found, seed = max(FIRST_BLOCKS, len(self.gains(results)) + 1), list[WantedRun](), self.first_seed
        while needed > 0:
            block = [WantedRun(subset, seed, "confirms the choice", variant) for subset, variant in models]
            missing = [run for run in block if run.key not in made]
            if not any(run.key in under_way for run in missing):
                found += missing
                needed -= 1
            seed += 1
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "plan": self.plan.to_dict(),
            "shares": list(self.shares),
            "first_seed": self.first_seed,
            "attempt": self.attempt,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Confirmation:
        """The inverse of :meth:`to_dict`.

        Raises:
            SettingError: when something is missing or of another type.
        """
        try:
            plan, shares = ServingPlan.from_dict(data["plan"]), tuple(real(share) for share in data["shares"])
            return Confirmation(plan, shares, whole(data["first_seed"]), whole(data["attempt"]))
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise SettingError(
                "A stored confirmation should have `plan`, `shares`, `first_seed` and `attempt`, as "
                f"Confirmation.to_dict writes them. Found {data!r}."
            ) from error
