"""What represents a task: learnt embeddings, mixed by task affinities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie.errors import SettingError


def column_weights(omega: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix with every column divided by its sum; a column of zeros becomes the task alone.

    Sums are exact, so that a further row of zeros changes no weight.

    Example:
        >>> column_weights(np.array([[3.0, 0.0], [1.0, 0.0]])).tolist()
        [[0.75, 0.0], [0.25, 1.0]]
    """
    weights = np.array(omega, dtype=np.float64)
    for task in range(len(weights)):
        total = math.fsum(weights[:, task])
        weights[:, task] = weights[:, task] / total if total > 0 else np.arange(len(weights)) == task
    return weights


class TaskEmbeddings(nn.Module):
    """One learnt vector E_s a task, and z_t, the mean of all with the weights of column t of Omega.

    Omega, ``omega[source, target]`` as in the source, is the identity at first: z_t = E_t, which is what the released
    code does. It holds numbers, not parameters: no gradient passes through it. The state of the module has it all the
    same, with the names of the tasks.

    Args:
        tasks: names.
        size: length of the vectors. A window of w x w tokens has w^2 * w in the source, 343 for 7 x 7.

    Example:
        >>> e = TaskEmbeddings(["depth", "edges"], 8)
        >>> bool((e(["edges"])[0] == e.vector("edges")).all())
        True
        >>> e.set_omega(np.array([[0.5, 0.1], [0.5, 0.9]]))
        >>> e.weights[:, 0].tolist()
        [0.5, 0.5]
    """

    def __init__(self, tasks: Sequence[str], size: int) -> None:
        super().__init__()
        self.size = size
        self.tasks: tuple[str, ...] = ()
        self.vectors = nn.ParameterList()
        for task in tasks:
            self.add(task, torch.randn(size))
        self.set_omega(np.eye(len(self.tasks)))

    def add(self, task: str, vector: Tensor) -> None:
        """Append a task; Omega has to be set afterwards."""
        self.tasks = (*self.tasks, task)
        self.vectors.append(nn.Parameter(vector.detach().clone()))

    def vector(self, task: str) -> Tensor:
        """(size,) embedding of a task."""
        return self.vectors[self.tasks.index(task)]

    def set_omega(self, omega: NDArray[np.float64]) -> None:
        """Take task affinities ``omega[source, target]``, none negative.

        Raises:
            SettingError: for another shape, or values that are negative or not finite.
        """
        omega, n = np.array(omega, dtype=np.float64), len(self.tasks)
        if omega.shape != (n, n) or not np.isfinite(omega).all() or (omega < 0).any():
            raise SettingError(
                f"Parameter `omega` should be ({n}, {n}), finite and not negative. Found shape {omega.shape} with "
                f"values {omega.ravel()[:4].tolist()} ... Give one row and one column a task, in "
                "their order."
            )
        self.omega, self.weights = omega, column_weights(omega)

    def get_extra_state(self) -> dict[str, Any]:
        """What `state_dict` has besides the vectors: the tasks' names and Omega."""
        return {"tasks": list(self.tasks), "omega": self.omega.tolist()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`get_extra_state`.

        Raises:
            SettingError: for other tasks, or the same in another order.
        """
        if list(state["tasks"]) != list(self.tasks):
            raise SettingError(
                f"The state should be of the tasks {list(self.tasks)}, in this order. Found {list(state['tasks'])}. "
                "Attach adapters for those tasks, in their order, and load it into them."
            )
        self.set_omega(np.array(state["omega"], dtype=np.float64))

    def forward(self, tasks: Sequence[str]) -> Tensor:
        """(tasks, size): z of every task asked for."""
        return torch.stack([self._mix(self.weights[:, self.tasks.index(task)].tolist()) for task in tasks])

    def _mix(self, weights: list[float]) -> Tensor:
        # one after the other, zeros left out: a task added later cannot change a bit of the others
        terms = [weight * vector for weight, vector in zip(weights, self.vectors, strict=True) if weight]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
