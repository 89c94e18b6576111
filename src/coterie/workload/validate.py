"""Everything that can be known to be wrong before any training."""

from __future__ import annotations

from coterie.workload.validate_data import check_data
from coterie.workload.validate_model import check_model
from coterie.workload.workload import Workload


def validate(workload: Workload) -> None:
    """Check the data and the model of a workload; the main job does so before it trains anything.

    The data were checked once already by :func:`from_arrays` and its siblings, without the model.

    Raises:
        WorkloadError: tasks, inputs, labels, split or the shape of the outputs cannot be used.
        ModelError: the model cannot be built or run; its subclass NonDeterministicModelError when evaluation is random.

    Warns:
        DataWarning: for rare classes, mostly constant inputs, a model that ignores its seed.

    Cost: a few passes over the labels, one over the inputs, three models built, four forward passes of at most 8 rows.

    Example:
        >>> import numpy as np
        >>> from coterie.workload import from_arrays
        >>> x = np.random.default_rng(0).normal(size=(60, 5))
        >>> validate(from_arrays(x, x[:, :3]))
    """
    check_data(workload)
    check_model(workload)
