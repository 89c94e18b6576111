"""What is known after some runs about the mixtures that may be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from coterie.study.mixtures.average import MixtureProcess
from coterie.study.mixtures.confirmation import SAME, MixtureConfirmation
from coterie.study.mixtures.objective import MixtureAim, around, pool, smallest
from coterie.study.mixtures.results import MixturePosterior, MixturePredictor, MixtureResults
from coterie.study.results import Floats

#: joint draws behind an interval
DRAWS = 1000
#: part of the standard error that is added to what is expected of a mixture before it is chosen
CAUTION = 0.5
#: mixtures of the pool that the best one may be among, in joint draws; and mixtures near the first of them
LEADING, NEAR, CENTRES = 60, 200, 10
#: fresh seeds are asked for when the choice is better than all rivals with this probability
PROMISING = 0.8
#: a choice of which fresh runs were told gives way to one that is better with this probability, by more than this
#: part of the gain over the rivals: less is not worth runs with fresh seeds anew
SURE, WORTH = 0.9, 0.1
#: names of mixtures that need no study
NATURAL, EVEN = "natural", "uniform"


@dataclass(frozen=True, eq=False)
class MixtureView:
    """Runs, what a predictor makes of them, and the best mixture.

    Attributes:
        results: the runs.
        aim: what is to be decided.
        posterior: of the predictor.
    """

    results: MixtureResults
    aim: MixtureAim
    posterior: MixturePosterior

    @staticmethod
    def of(results: MixtureResults, aim: MixtureAim, predictor: MixturePredictor | None = None) -> MixtureView:
        """After a fit of the predictor; None is the usual one."""
        return MixtureView(results, aim, (predictor or MixtureProcess()).fit(results))

    @cached_property
    def own(self) -> MixtureResults:
        """The runs of the size that is asked about; those of the most usual size where there is none."""
        sizes = self.results.sizes
        return self.results.of_size("" if "" in sizes else max(dict.fromkeys(sizes), key=sizes.count))

    @cached_property
    def weights(self) -> Floats:
        """(targets,) of losses in the objective."""
        return self.aim.scaled(self.own)

    @cached_property
    def told(self) -> Floats:
        """(runs,) objectives of the runs that measured all targets."""
        found = self.own.losses @ self.weights
        return found[np.isfinite(found)]

    @cached_property
    def pool(self) -> Floats:
        """Mixtures that may be chosen."""
        return pool(self.aim, self.own, np.random.default_rng(0))

    @cached_property
    def means(self) -> Floats:
        """(pool, targets) expected losses."""
        return self.posterior.mean(self.pool)

    def objective(self, shares: Floats) -> Floats:
        """(mixtures,) expected objective; lower is better."""
        return self.posterior.mean(shares) @ self.weights

    @cached_property
    def best(self) -> Floats:
        """(sources,) the mixture to choose: its expected objective is good even when it is a little worse than said.

        What looks best of many is worse than it looks, the more so the less is known of it: mixtures of the best
        expected objective, those that were run among them, are compared with their standard error added in part.
        """
        leading = self.pool[np.argsort(self.means @ self.weights, kind="stable")[:LEADING]]
        rows = np.concatenate([self.improved(self.weights), leading])
        mean, error = self.posterior.total(rows, self.weights[None])
        return rows[int(np.argmin(mean[:, 0] + CAUTION * error[:, 0]))]

    def improved(self, weights: Floats, *, without: int | None = None) -> Floats:
        """(mixtures, sources) mixtures that are expected to be best for a weighted sum of targets, the best first.

        Args:
            weights: (targets,).
            without: number of a source that it should leave out.
        """
        aim, rows = self.aim, self.pool
        if without is not None:
            high = aim.high.copy()
            high[without] = 0.0
            aim = MixtureAim(aim.weights, aim.low, high, aim.natural)
            rows = rows[rows[:, without] <= 0]
        rows = rows if len(rows) > 20 or without is None else pool(aim, self.own, np.random.default_rng(1))
        active = np.flatnonzero(weights)

        def cost(shares: Floats) -> Floats:
            return self.posterior.mean(shares)[:, active] @ weights[active]

        return smallest(cost, rows, aim, np.random.default_rng(2))

    @cached_property
    def careful(self) -> Floats:
        """(mixtures, sources) mixtures whose expected objective with a standard error added is small, best first."""

        def cost(shares: Floats) -> Floats:
            mean, error = self.posterior.total(shares, self.weights[None])
            return mean[:, 0] + error[:, 0]

        return smallest(cost, np.concatenate([self.best[None], self.pool]), self.aim, np.random.default_rng(4))

    @cached_property
    def rivals(self) -> dict[str, Floats]:
        """Mixtures that need no study; one of them where both are the same."""
        found = {NATURAL: self.aim.natural, EVEN: self.aim.even}
        return found if np.abs(found[NATURAL] - found[EVEN]).max() > SAME else {EVEN: found[EVEN]}

    @cached_property
    def reference(self) -> float:
        """Objective that gains are shares of: that of the first rival, as is expected.

        Its spread over runs in its place where that is larger: near 0, shares of it would say nothing.
        """
        first = next(iter(self.rivals.values()))
        spread = float(np.std(self.told)) if len(self.told) else 0.0
        found = max(abs(float(self.objective(first[None])[0])), spread)
        return found if found > 0 else 1.0

    def draws(self, shares: Floats, count: int = DRAWS, seed: int = 0) -> Floats:
        """(draws, mixtures) joint draws of the objective."""
        return self.posterior.sample(shares, count, np.random.default_rng(seed)) @ self.weights

    def gain_draws(self, shares: Floats) -> dict[str, Floats]:
        """Rival -> (draws,) gain of a mixture over it, as a share."""
        found = self.draws(np.stack([shares, *self.rivals.values()]))
        return {name: (found[:, 1 + k] - found[:, 0]) / self.reference for k, name in enumerate(self.rivals)}

    @cached_property
    def gains(self) -> dict[str, Floats]:
        """Rival -> (draws,) gain of the best mixture over it, as a share."""
        return self.gain_draws(self.best)

    @cached_property
    def regret(self) -> float:
        """What is expected to be missed by choosing the best mixture of now, as a share of the objective."""
        found = self.draws(self.leading, 400, seed=1)
        return float((found[:, 0] - found.min(1)).mean()) / self.reference

    @cached_property
    def leading(self) -> Floats:
        """(mixtures, sources) mixtures that may be the best one: that of now, those near it, and the best random ones.

        Random mixtures are few for the room that there is; only those near the best ones say what may be missed.
        """
        order = np.argsort(self.means @ self.weights, kind="stable")[:LEADING]
        centres = np.concatenate([self.best[None], self.pool[order[:CENTRES]]])
        near = around(centres, self.aim, NEAR, np.random.default_rng(3))
        return np.concatenate([self.best[None], near, self.pool[order]])

    def written(self, confirmation: MixtureConfirmation | None) -> MixtureConfirmation | None:
        """The choice that fresh seeds should judge: the one that was written down, or the best one of now.

        A choice of which no fresh run was told is replaced freely. One with fresh runs stays, unless another one is
        clearly better with 90 %: then the other one is a new attempt.
        """
        attempt = 1
        if confirmation is not None:
            begun = confirmation.begun(self.results)
            kept = np.stack([confirmation.shares, self.best])
            found = self.draws(np.concatenate([kept, np.stack([*self.rivals.values()])]))
            gain = float((found[:, 2:].min(1) - found[:, 0]).mean())
            better = bool((found[:, 1] < found[:, 0] - WORTH * max(gain, 0.0)).mean() >= SURE)
            if np.abs(kept[0] - kept[1]).max() < SAME or (begun and not better):
                return confirmation
            attempt = confirmation.attempt + begun
        gains = self.gains
        promising = all((gain > 0).mean() >= PROMISING and gain.mean() >= self.aim.matters for gain in gains.values())
        if not promising:
            return confirmation if confirmation is not None and confirmation.begun(self.results) else None
        seed = int(self.results.seeds.max(initial=-1)) + 1
        return MixtureConfirmation(self.best, self.rivals, self.weights, self.reference, seed, attempt)
