"""mhc: how strongly 25,393 peptides bind to 74 variants of the MHC class I molecule; 94 % of the labels are missing."""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from coterie.datasets._packages import package_file
from coterie.workload.build import from_arrays
from coterie.workload.recipe import Recipe
from coterie.workload.task import Task
from coterie.workload.workload import Workload

FILE = "data/production/{kind}/curated_training_data.csv"
#: its dependencies are large (tensorflow) and not needed to read a file
INSTALL = "pip install --no-deps mhcnuggets==2.4.1"
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
#: class of the molecule -> length of the peptides that are used, and quantitative measurements that make a task
KINDS = {"mhcI": (9, 300), "mhcII": (15, 500)}
#: the largest IC50 that counts, in nM; the weakest binders are recorded as such
WEAKEST = 5e4
RECIPE = Recipe(learning_rate=2e-3, weight_decay=1e-2, epochs=20, batch_size=64, check_every=20, patience=4)


def load() -> Workload:
    """74 regression tasks: ``1 - log(IC50) / log(50,000 nM)`` of peptides of nine amino acids; larger binds stronger.

    15,235 / 5,079 / 5,079 peptides with 20 one-hot inputs a position. A task is an allele with at least 300
    quantitative measurements; a peptide that was measured more than once for an allele has the mean of its values.

    Cost: about a second.

    Source: Immune Epitope Database (IEDB), CC BY 4.0, as the package mhcnuggets (Apache-2.0) ships it.

    Raises:
        MissingDependencyError: when mhcnuggets is not installed.
    """
    inputs, labels, alleles = read()
    return from_arrays(
        inputs,
        labels,
        tasks=[Task(allele, "regression") for allele in alleles],
        recipe=RECIPE,
        split=(0.6, 0.2, 0.2),
        hidden=(64, 32),
        name="mhc",
    )


def read(kind: str = "mhcI") -> tuple[NDArray[np.float32], NDArray[np.float64], list[str]]:
    """One-hot peptides (n, 20 a position), binding (n, alleles), NaN where not measured, and the alleles' names.

    Args:
        kind: ``"mhcI"`` or ``"mhcII"``, the class of the molecule.
    """
    length, least = KINDS[kind]
    measured = _measurements(kind, length)
    alleles = sorted(allele for allele, found in measured.items() if len(found) >= least)
    peptides = sorted({peptide for allele in alleles for peptide, _ in measured[allele]})
    row = {peptide: index for index, peptide in enumerate(peptides)}
    total, count = np.zeros((2, len(peptides), len(alleles)))
    for column, allele in enumerate(alleles):
        for peptide, value in measured[allele]:  # the same peptide may have been measured more than once
            total[row[peptide], column] += value
            count[row[peptide], column] += 1
    labels = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return _one_hot(peptides), labels, alleles


def _measurements(kind: str, length: int) -> dict[str, list[tuple[str, float]]]:
    purpose = "The data of peptides and MHC molecules"
    path = package_file(
        "mhcnuggets", FILE.format(kind=kind), distribution="mhcnuggets", purpose=purpose, install=INSTALL
    )
    measured: dict[str, list[tuple[str, float]]] = defaultdict(list)
    with path.open(encoding="utf8", newline="") as file:
        for line in csv.DictReader(file):
            peptide = line["peptide"]
            if line["measurement_type"] == "quantitative" and len(peptide) == length and set(peptide) <= set(LETTERS):
                strength = min(max(float(line["IC50(nM)"]), 1.0), WEAKEST)
                measured[line["mhc"]].append((peptide, 1 - np.log(strength) / np.log(WEAKEST)))
    return measured


def _one_hot(peptides: list[str]) -> NDArray[np.float32]:
    codes = np.array([[LETTERS.index(letter) for letter in peptide] for peptide in peptides])
    return np.eye(len(LETTERS), dtype=np.float32)[codes].reshape(len(peptides), -1)
