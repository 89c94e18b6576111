"""Two views of a cheap estimate, weighed by real runs: it tells which subsets differ, or it tells next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.surrogates.covariance import Floats, ProcessPriors
from coterie.affinity.surrogates.process import SubsetProcess, Sums, covariance_of_sums, fit_process

#: prior odds of the view that believes the estimate: it told something on most data sets it was ever measured on, and a
#: handful of runs cannot say that it does not
ODDS = 4.0
#: of the view that does not believe the estimate: no share of its differences in the mean, and more in effects of
#: partners, which have to explain all there is
DOUBTFUL_SLOPE, DOUBTFUL_MEAN = 0.0, -2.0
#: a view with a smaller weight is left out
LEAST_WEIGHT = 0.02


@dataclass(frozen=True, eq=False)
class WeighedProcess:
    """A mixture of processes with the same observations: their means weighed, what they disagree on in the variance.

    Attributes:
        views: the processes.
        weights: (views,) posterior probabilities, which sum to 1.
    """

    views: tuple[SubsetProcess, ...]
    weights: Floats

    def predict(self, subsets: NDArray[np.bool_], estimates: Floats, *, errors: bool = True) -> tuple[Floats, Floats]:
        """Mean and standard deviation of f(S, t), as :meth:`SubsetProcess.predict` has them."""
        found = [view.predict(subsets, estimates, errors=errors) for view in self.views]
        mean = self._mean([one for one, _ in found])
        variance = self._mean([error**2 + (one - mean) ** 2 for one, error in found])
        return mean, np.sqrt(variance)

    def covariance_with_single(
        self, subsets: NDArray[np.bool_], estimates: Floats, alone: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Posterior of tasks alone, and how it varies with that of subsets, as of one process."""
        found = [view.covariance_with_single(subsets, estimates, alone) for view in self.views]
        means = [view.predict(subsets, estimates, errors=False)[0] for view in self.views]
        single, mean = self._mean([one for one, _, _ in found]), self._mean(means)
        variance = self._mean([error**2 + (one - single) ** 2 for one, error, _ in found])
        together = [shared + (own - mean) * (one - single) for (one, _, shared), own in zip(found, means, strict=True)]
        return single, np.sqrt(variance), self._mean(together)

    def covariance_of_sums(self, sums: Sums) -> Floats:
        """(m, m) posterior covariance of weighted sums of values, as of one process."""
        each = np.eye(len(sums.alone), dtype=bool)
        alone = np.where(each, sums.alone[:, None], np.nan)
        totals: list[Floats] = []
        for view in self.views:
            values = view.predict(sums.subsets, sums.estimates, errors=False)[0]
            single = np.diag(view.predict(each, alone, errors=False)[0])
            weighed = sums.weights * values + sums.alone_weights * single
            totals.append(np.where(sums.subsets, weighed, 0.0).sum(1))
        mean = self._mean(totals)
        away = [np.outer(total - mean, total - mean) for total in totals]
        return self._mean([covariance_of_sums(view, sums) + one for view, one in zip(self.views, away, strict=True)])

    def _mean(self, found: Sequence[Floats]) -> Floats:
        return np.einsum("v,v...->...", self.weights, np.stack(found))


def fit_views(
    subsets: NDArray[np.bool_],
    values: Floats,
    estimates: Floats,
    reference: NDArray[np.bool_],
    reference_estimates: Floats,
    *,
    features: Sequence[Floats] = (),
    settings: ProcessPriors | None = None,
) -> WeighedProcess:
    """Correct a cheap estimate by real runs, which also say whether it is worth believing.

    Two processes are fitted to the runs: one that believes a share of the estimate's differences, one that explains
    the runs by effects of partners. Each counts by its penalised marginal likelihood; both have the same number of free
    variances. Without runs the estimate is believed.

    Args:
        subsets: bool (N, T), the real runs; N may be 0.
        values: (N, T) their values, NaN outside the subset.
        estimates: (N, T) cheap estimates of the same.
        reference: bool (m, T), random subsets that say what is usual.
        reference_estimates: (m, T) cheap estimates of these.
        features: see :func:`coterie.affinity.surrogates.process.fit_process`.
        settings: priors of the view that believes the estimate.

    Cost: that of two processes.
    """
    settings = settings or ProcessPriors()
    doubtful = replace(settings, slope=DOUBTFUL_SLOPE, mean=DOUBTFUL_MEAN)
    views = [
        fit_process(subsets, values, estimates, reference, reference_estimates, features=features, settings=view)
        for view in ((settings, doubtful) if len(subsets) else (settings,))
    ]
    logs = np.array([view.support for view in views])
    logs[0] += np.log(ODDS)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    kept = weights >= LEAST_WEIGHT
    weights = weights[kept] / weights[kept].sum()
    return WeighedProcess(tuple(view for view, stays in zip(views, kept, strict=True) if stays), weights)
