"""Several predictors as one: means of what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie.study.results import Floats, Mask, Posterior


@dataclass(frozen=True, eq=False)
class AveragedPosterior:
    """A mixture: one of several posteriors is right, nobody knows which.

    Attributes:
        parts: the posteriors.
        weights: (parts,) probability of each; their sum is 1.
    """

    parts: Sequence[Posterior]
    weights: Floats

    def predict(self, trained: Mask, variant: str = "") -> tuple[Floats, Floats]:
        """Values and standard errors, (subsets, targets); parts that disagree make the errors larger."""
        found = [part.predict(trained, variant) for part in self.parts]
        means, errors = (np.stack(values) for values in zip(*found, strict=True))
        mean = np.tensordot(self.weights, means, 1)
        square = np.tensordot(self.weights, errors**2 + (means - mean) ** 2, 1)
        return mean, np.sqrt(square)

    def sample(self, trained: Mask, draws: int, rng: np.random.Generator, variant: str = "") -> Floats:
        """Joint draws of the values, (draws, subsets, targets), each from one of the parts."""
        counts = rng.multinomial(draws, self.weights)
        drawn = [
            part.sample(trained, int(count), rng, variant)
            for part, count in zip(self.parts, counts, strict=True)
            if count
        ]
        return rng.permutation(np.concatenate(drawn))
