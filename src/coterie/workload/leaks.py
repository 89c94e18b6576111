"""Labels that were left among the inputs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._surface import warn
from coterie.errors import DataWarning
from coterie.workload.arrays import Inputs
from coterie.workload.task import Task

#: rows that are compared first; columns that agree there are compared as a whole
_PROBE = 64
#: with fewer labels, two columns may well agree by chance
_FEWEST = 10


def warn_labels_among_inputs(
    inputs: Inputs, labels: NDArray[np.float64], tasks: tuple[Task, ...], names: tuple[str, ...] | None
) -> None:
    """Warn (DataWarning) when a column of inputs is a column of labels wherever there is a label, whatever its name.

    Args:
        inputs: as given, before they are standardised; arrays of more than two dimensions are not looked at.
        labels: (rows, tasks) as given, NaN where missing.
        tasks: of the columns.
        names: of the columns of inputs, where there are some.

    Cost: a comparison of 64 rows of each pair of columns.
    """
    found: list[str] = []
    for name, part in (inputs if isinstance(inputs, dict) else {"": inputs}).items():
        columns = part[:, None] if part.dim() == 1 else part
        if columns.dim() != 2:
            continue
        for index, task in enumerate(tasks):
            for column in _copies(columns, labels[:, index]):
                shown = repr(name) if name else f"column {column}" if names is None else repr(names[column])
                found.append(f"{shown} is the label of {task.name!r}")
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        warn(
            f"Parameter `x` holds labels: {'; '.join(found[:5])}{more}. A model reads the answer there, and no task "
            "can help. Drop these columns from the inputs, for example with x.drop(columns=[...]).",
            DataWarning,
        )


def _copies(columns: Tensor, labels: NDArray[np.float64]) -> list[int]:
    """Columns that are equal to the labels, to the precision of float32, in all rows with a label."""
    known = np.flatnonzero(np.isfinite(labels))
    if len(known) < _FEWEST or labels[known].min() == labels[known].max():
        return []
    probe = known[np.linspace(0, len(known) - 1, min(_PROBE, len(known))).astype(int)]
    fit = torch.arange(columns.shape[1], device=columns.device)
    for rows in (probe, known):
        wanted = torch.from_numpy(labels[rows].astype(np.float32)).to(columns.device)
        part = columns[torch.from_numpy(rows).to(columns.device)][:, fit].float()
        fit = fit[(part == wanted[:, None]).all(0)]
        if not len(fit):
            break
    return fit.tolist()
