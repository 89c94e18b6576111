"""Validation rows are halved only where every task has labels in both halves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import coterie
from coterie.errors import DataWarning
from coterie.evaluation.compare import halve_validation
from coterie.workload import Split


def workload(labelled: int) -> coterie.Workload:
    """Two tasks; the second has so many labels in the validation part."""
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 2)) < 0.5).astype(float)
    labels[30 + labelled : 50, 1] = np.nan
    split = Split(torch.arange(30), torch.arange(30, 50), torch.arange(50, 60))
    return replace(coterie.from_arrays(rng.normal(size=(60, 3)), labels), split=split)


@pytest.mark.filterwarnings("ignore::coterie.errors.DataWarning")
def test_a_label_in_one_half_alone_is_not_enough():
    for labelled in (0, 1):
        whole = workload(labelled)
        with pytest.warns(DataWarning, match="too few validation labels"):
            halved, choose = halve_validation(whole)
        assert halved is whole
        assert choose.tolist() == whole.split.validation.tolist()


@pytest.mark.filterwarnings("ignore::coterie.errors.DataWarning")
def test_both_halves_have_labels_of_every_task():
    whole = workload(6)
    halved, choose = halve_validation(whole)
    for rows in (halved.split.validation, choose):
        assert bool(whole.observed[rows].any(0).all())
    together = torch.cat([halved.split.validation, choose]).sort().values
    assert together.tolist() == whole.split.validation.tolist()
