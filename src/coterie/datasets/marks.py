"""marks: what a handwritten digit is, and what it looks like: two kinds of tasks on one small network."""

from __future__ import annotations

import numpy as np

from coterie.errors import require
from coterie.workload.build import from_arrays
from coterie.workload.recipe import Recipe
from coterie.workload.task import Task
from coterie.workload.workload import Workload

RECIPE = Recipe(learning_rate=5e-3, weight_decay=1e-2, epochs=30, batch_size=50, check_every=10, patience=4)


def load() -> Workload:
    """Four yes-or-no tasks on which digit it is, three regressions on its ink; 64 inputs, 16 hidden units.

    The network is too small for both kinds at once, so that a grouping is worth its price: this is what the demo shows.

    Source: the optical recognition of handwritten digits data (E. Alpaydin, C. Kaynak, UCI, 1998), as scikit-learn
    ships it.

    Raises:
        MissingDependencyError: when scikit-learn is not installed.

    Example:
        >>> load().task_names
        ('even', 'at least 5', 'loop', 'prime', 'ink', 'middle x', 'middle y')
    """
    found = require("sklearn.datasets", extra="data", purpose="The demo").load_digits()
    images, number = found.images / 16, found.target
    ink, place = images.sum((1, 2)), np.arange(8)
    labels = {
        "even": number % 2 == 0,
        "at least 5": number >= 5,
        "loop": np.isin(number, [0, 6, 8, 9]),
        "prime": np.isin(number, [2, 3, 5, 7]),
        "ink": ink,
        "middle x": (images.sum(1) * place).sum(1) / ink,
        "middle y": (images.sum(2) * place).sum(1) / ink,
    }
    kinds = ["binary"] * 4 + ["regression"] * 3
    return from_arrays(
        images.reshape(len(number), -1),
        np.column_stack(list(labels.values())).astype(float),
        tasks=[Task(name, kind) for name, kind in zip(labels, kinds, strict=True)],
        recipe=RECIPE,
        split=(0.44, 0.28, 0.28),
        hidden=(16,),
        name="marks",
    )
