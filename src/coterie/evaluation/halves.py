"""One half of the validation part stops the trainings, the other half chooses between them.

A single-task model stops where its own validation loss is lowest, a group where the mean over its tasks is: the first
looks better on those rows than it is. Rows that no training has seen, not even to stop, give every candidate the same
chance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from coterie._surface import warn
from coterie.errors import DataWarning
from coterie.workload import Split, Workload


def halve_validation(workload: Workload) -> tuple[Workload, Tensor]:
    """A workload that stops on one half of the validation rows, and the rows of the other half.

    Rows are dealt out in turn after sorting by which labels they have and what they are, so that both halves look
    alike. Where a task would have no label in one of the halves, all validation rows serve both ends and a DataWarning
    says so.
    """
    rows = workload.split.validation
    labels = workload.labels[rows].cpu().double().numpy()
    order = np.lexsort(np.nan_to_num(labels, nan=-np.inf).T)
    stop = torch.as_tensor(np.sort(order[0::2]), device=rows.device)
    choose = torch.as_tensor(np.sort(order[1::2]), device=rows.device)
    observed = workload.observed[rows]
    if bool((observed[stop].any(0) & observed[choose].any(0)).all()):
        split = Split(workload.split.train, rows[stop], workload.split.test)
        return replace(workload, split=split), rows[choose]
    warn(
        "A task has too few validation labels to stop trainings on one half and choose on the other, so all of them "
        "serve both ends, which flatters small groups. Give more validation rows.",
        DataWarning,
    )
    return workload, rows
