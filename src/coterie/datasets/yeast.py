"""yeast: 14 functions of 2,417 yeast genes from 103 numbers that describe each gene."""

from __future__ import annotations

import gzip

import numpy as np

from coterie.datasets._packages import package_file
from coterie.workload.build import from_arrays
from coterie.workload.recipe import Recipe
from coterie.workload.task import Task
from coterie.workload.workload import Workload

N_INPUTS = 103
RECIPE = Recipe(learning_rate=2e-3, weight_decay=0.1, epochs=20, batch_size=50, check_every=10, patience=3)


def load() -> Workload:
    """14 binary tasks (functional classes, the first is the commonest); all labels are known; 1,217 / 600 / 600 rows.

    Source: A. Elisseeff, J. Weston, A kernel method for multi-labelled classification, NIPS 2001; the file is the one
    of the package river.

    Raises:
        MissingDependencyError: when river is not installed.
    """
    path = package_file("river", "datasets/yeast.csv.gz", distribution="river", purpose="The workload 'yeast'")
    with gzip.open(path, "rt", encoding="utf8") as file:
        columns = file.readline().strip().split(",")
        table = np.loadtxt(file, delimiter=",", dtype=np.float64)
    rows = len(table)
    return from_arrays(
        table[:, :N_INPUTS],
        table[:, N_INPUTS:],
        tasks=[Task(column, "binary") for column in columns[N_INPUTS:]],
        recipe=RECIPE,
        split=(1 - 1200 / rows, 600 / rows, 600 / rows),
        hidden=(64, 32),
        name="yeast",
    )
