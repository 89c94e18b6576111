"""The predictor from results alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.study.predictors.averaged import AveragedPosterior
from coterie.study.predictors.likelihood import Learning
from coterie.study.predictors.process import PriorValues, RunsPosterior, fit_process, observe
from coterie.study.results import Floats, Mask, Posterior, Results

#: two views of the same runs: a source is as good for all targets as far as it is alike, or there are patterns, too
PLAIN = Learning(rank=0)
ALIKE = Learning(rank=2)


@known_arguments
@dataclass(frozen=True)
class ProcessPredictor:
    """A Gaussian process over (subset, target), learnt from the results of runs.

    A value is a level of the target, effects of the partners, something that is alike in subsets with almost the same
    partners, and an effect of size; targets may share each of them, and what one task does to another may be what the
    other does to it. Runs are values plus luck that targets of a run share, and noise. Variances are learnt from the
    runs.

    Args:
        affinity: (targets, sources), how much a source should help a target, higher is better, in any unit.
        values: bool subsets (m, sources) -> losses (m, targets) that something else predicts, such as a gain model.
        features: (targets, features) what is known of the targets; those with like features react alike to partners.
        views: models of what targets have in common; what they say is averaged.

    Prior knowledge is weighed by how well it explains the runs: a variance for each is learnt with the others.

    Cost: a few seconds for some hundred runs, on one thread.

    Example:
        >>> trained = np.array([[True, True], [True, False], [False, True], [True, True]])
        >>> losses = np.array([[0.30, 0.50], [0.40, np.nan], [np.nan, 0.48], [0.31, 0.52]])
        >>> posterior = ProcessPredictor().fit(Results.of(("a", "b"), trained, losses))
        >>> values, errors = posterior.predict(trained[:2])
        >>> bool(values[0, 0] < values[1, 0]), np.isnan(values).tolist()
        (True, [[False, False], [False, True]])
    """

    affinity: Floats | None = None
    values: PriorValues | None = None
    features: Floats | None = None
    views: tuple[Learning, ...] = (PLAIN, ALIKE)

    def fit(self, results: Results) -> Posterior:
        """What is known after these runs.

        Raises:
            WorkloadError: a target that no run measured.
            SettingError: an affinity matrix or features of other tasks.
        """
        priors = self._priors(results)
        scales, data = observe(results, priors, self._alike(results))
        parts = [RunsPosterior(results, scales, fit_process(data, view), priors) for view in self.views]
        return AveragedPosterior(parts, np.full(len(parts), 1.0 / len(parts)))

    def _priors(self, results: Results) -> tuple[PriorValues, ...]:
        """Values of what is given, on one scale."""
        found: list[PriorValues] = []
        if self.affinity is not None:
            matrix = np.asarray(self.affinity, dtype=np.float64)
            _expect(matrix, "affinity", (len(results.targets), len(results.sources)))
            same = np.array([[target == source for source in results.sources] for target in results.targets])
            found.append(_scaled(lambda trained: -_partner_means(trained, matrix, same), results))
        if self.values is not None:
            found.append(_scaled(self.values, results))
        return tuple(found)

    def _alike(self, results: Results) -> Floats | None:
        """Features as loadings of unit length; those that do not vary say nothing."""
        if self.features is None:
            return None
        features = np.asarray(self.features, dtype=np.float64)
        _expect(features, "features", (len(results.targets), features.shape[-1]))
        centred = features - features.mean(0)
        spread = centred.std(0)
        scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
        length = np.sqrt((scaled**2).sum(1, keepdims=True))
        return np.divide(scaled, length, out=np.zeros_like(scaled), where=length > 0)


def _expect(given: Floats, name: str, shape: tuple[int, int]) -> None:
    """Refuse an array of another shape, or with numbers that are none."""
    if given.shape != shape or not np.isfinite(given).all():
        raise SettingError(
            f"Parameter `{name}` should be finite numbers of shape {shape}, a row for each target. Found shape "
            f"{given.shape}{'' if np.isfinite(given).all() else ' with NaN or infinity'}."
        )


def _partner_means(trained: Mask, matrix: Floats, same: Mask) -> Floats:
    """(m, targets) mean affinity of the sources of a subset but the target itself; the matrix's mean where none is."""
    others = (~same).astype(np.float64)
    member = trained.astype(np.float64)
    count = member @ others.T
    usual = (matrix * others).sum(1) / np.maximum(others.sum(1), 1)
    return np.where(count > 0, (member @ (matrix * others).T) / np.maximum(count, 1), usual)


def _scaled(values: PriorValues, results: Results) -> PriorValues:
    """Values of a prior in units of how they vary within targets over the runs, around each target's mean.

    Where a prior says nothing of a subset, it says the mean.
    """
    at = np.where(np.isfinite(results.losses), values(results.trained), np.nan)
    known = np.isfinite(at)
    count = np.maximum(known.sum(0), 1)
    centre = np.where(known, at, 0.0).sum(0) / count
    deviation = np.sqrt(np.where(known, at - centre, 0.0) ** 2).sum(0) / count
    usual = float(deviation[deviation > 0].mean()) if (deviation > 0).any() else 1.0

    def scaled(trained: Mask) -> Floats:
        found = values(trained)
        return np.where(np.isfinite(found), (found - centre) / usual, 0.0)

    return scaled
