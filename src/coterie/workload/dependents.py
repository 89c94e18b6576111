"""Which outputs are computed from which parameters, whatever the values of rows and parameters are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from coterie.workload.workload import Batch, Workload

#: a parameter's name, a dimension of it, and positions along it (None: all of them)
Slices = tuple[str, int, Tensor | None]


@torch.no_grad()
def dependents(workload: Workload, model: nn.Module, batch: Batch, slices: Sequence[Slices]) -> np.ndarray:
    """Tasks whose outputs are computed from some slices of the parameters, as a (tasks,) bool array.

    NaN in the slices spreads to whatever is computed from them: through dead units, weights of 0 and inputs of 0, where
    gradients are 0. It does not spread through what is picked by an index, such as the experts of a hard gate; there
    the answer holds for the given rows only. A model that refuses NaN counts as using the slices for every task.

    Args:
        workload: tasks, and the way to call the model.
        model: in evaluation mode; left as it was.
        batch: a few rows.
        slices: what is made NaN, all at once.

    Cost: a forward pass.

    Example:
        >>> from coterie.workload import Split, Task
        >>> n = torch.arange(4)
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> tasks, x, y = (Task("a"), Task("b")), torch.zeros(4, 3), torch.ones(4, 2)
        >>> work = Workload("w", tasks, x, y, Split(n, n, n), lambda seed: net)
        >>> dependents(work, net.eval(), work.batch(n), [("0.weight", 0, None)]).tolist()
        [True, True]
        >>> dependents(work, net, work.batch(n), [("2.weight", 0, torch.tensor([1]))]).tolist()
        [False, True]
    """
    everyone = np.ones(workload.n_tasks, bool)
    kept = {name: model.get_parameter(name).clone() for name, _, _ in slices}
    try:
        for name, dimension, positions in slices:
            parameter = model.get_parameter(name)
            if positions is None:
                parameter.fill_(torch.nan)
            else:
                parameter.index_fill_(dimension, positions.to(parameter.device), torch.nan)
        lost = torch.isnan(workload.outputs(model, batch)).any(0).cpu().numpy()
    except Exception:  # a check of the model's own, that its numbers are finite
        return everyone
    finally:
        for name, value in kept.items():
            model.get_parameter(name).copy_(value)
    return np.array([lost[columns].any() for columns in workload.columns])
