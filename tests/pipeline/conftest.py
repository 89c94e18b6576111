"""Small workloads on real data for the tests of the whole pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from coterie.workload import Recipe, Workload, from_arrays

RECIPE = Recipe(learning_rate=5e-3, batch_size=50, check_every=5, patience=2, epochs=6)


def digits_workload(n_tasks: int = 5, rows: int = 500, **options: object) -> Workload:
    """One-vs-rest digits, few rows, short training."""
    x, y = load_digits(return_X_y=True)
    labels = (y[:rows, None] == np.arange(n_tasks)).astype(float)
    settings: dict[str, object] = {"recipe": RECIPE, "hidden": (16,), "name": "tiny digits", **options}
    return from_arrays(x[:rows], labels, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tiny() -> Workload:
    return digits_workload()
