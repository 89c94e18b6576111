"""digits: is it a 0, is it a 1, ...: ten binary tasks on 1,797 handwritten digits of 8 x 8 pixels."""

from __future__ import annotations

from coterie.errors import require
from coterie.workload.build import from_arrays
from coterie.workload.recipe import Recipe
from coterie.workload.task import Task
from coterie.workload.workload import Workload

RECIPE = Recipe(learning_rate=5e-3, weight_decay=0.1, epochs=40, batch_size=50, check_every=10, patience=4)


def load() -> Workload:
    """Ten one-against-the-rest tasks; 64 inputs; 797 training, 500 validation and 500 test rows.

    Source: the optical recognition of handwritten digits data (E. Alpaydin, C. Kaynak, UCI, 1998), as scikit-learn
    ships it.

    Raises:
        MissingDependencyError: when scikit-learn is not installed.
    """
    sklearn = require("sklearn.datasets", extra="data", purpose="The workload 'digits'")
    x, y = sklearn.load_digits(return_X_y=True)
    rows = len(y)
    return from_arrays(
        x,
        y[:, None] == range(10),
        tasks=[Task(f"is {digit}", "binary") for digit in range(10)],
        recipe=RECIPE,
        split=(1 - 1000 / rows, 500 / rows, 500 / rows),
        hidden=(64, 32),
        name="digits",
    )
