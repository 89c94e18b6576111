"""Use the estimate only: predict the gain of any subset of tasks, and train elsewhere."""

from itertools import combinations

import numpy as np
from sklearn.datasets import load_digits

import coterie

x, y = load_digits(return_X_y=True)
labels = (y[:600, None] == np.arange(6)).astype(float)
recipe = coterie.Recipe(epochs=8, batch_size=50, learning_rate=5e-3, check_every=5)

if __name__ == "__main__":
    workload = coterie.from_arrays(x[:600], labels, recipe=recipe, hidden=(32,))
    affinity, model = coterie.estimate_affinity(workload, bases=2)
    triples = list(combinations(range(6), 3))
    gains = model.predict(triples)  # (subsets, tasks), NaN where a task is not in the subset
    errors = model.standard_error(triples)  # how much they differ between base models
    best = int(np.nanmean(gains, 1).argmax())
    print(f"the most promising triple is {triples[best]}, predicted gain {np.nanmean(gains[best]):+.1%}")
    print(f"mean standard error {np.nanmean(errors):.1%}; estimated differences are for ranking, not for reporting")
