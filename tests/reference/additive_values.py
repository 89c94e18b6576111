"""A predictor that is as simple as can be: each source adds its effect to a target, with known variances."""

from __future__ import annotations

import numpy as np


class AdditivePosterior:
    """The posterior of a conjugate linear model of each target; everything in the units of the losses."""

    def __init__(self, means, covariances, sources):
        self.means, self.covariances, self.sources = means, covariances, sources

    def predict(self, trained, variant=""):
        x = features(trained)
        values = x @ self.means.T
        errors = np.sqrt(np.einsum("mi,tij,mj->mt", x, self.covariances, x))
        return values, errors

    def sample(self, trained, draws, rng, variant=""):
        x = features(trained)
        found = np.empty((draws, len(x), len(self.means)))
        for t, (mean, covariance) in enumerate(zip(self.means, self.covariances, strict=True)):
            found[:, :, t] = rng.multivariate_normal(mean, covariance, draws) @ x.T
        return found


class AdditiveValues:
    """Knows the standard deviation of effects and of noise; the level of a target is free."""

    def __init__(self, effect=0.05, noise=0.02):
        self.effect, self.noise = effect, noise

    def fit(self, results):
        means, covariances = [], []
        for losses in results.losses.T:
            known = np.isfinite(losses)
            x, y = features(results.trained[known]), losses[known]
            prior = np.diag([1e-6, *[self.effect**-2] * len(results.sources)])
            covariance = np.linalg.inv(prior + x.T @ x / self.noise**2)
            means.append(covariance @ (x.T @ y) / self.noise**2)
            covariances.append(covariance)
        return AdditivePosterior(np.array(means), np.array(covariances), results.sources)


def features(trained):
    return np.concatenate([np.ones((len(trained), 1)), trained], axis=1).astype(float)
