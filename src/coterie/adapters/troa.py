"""Task affinities from gradients, learnt along with the adapters (TROA), reconstructed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.affinity import Affinity
from coterie.affinity.scores.attribution import summed_cosines
from coterie.errors import SettingError


def flat_gradients(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """(losses, numbers) gradients of every loss, one row each; 0 where a loss does not depend on a parameter.

    The graph is kept, so that the losses can still be trained on.

    Cost: one backward pass a loss.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> flat_gradients([x.sum(), (x**2).sum()], [x]).tolist()
        [[1.0, 1.0], [2.0, 4.0]]
    """
    rows: list[Tensor] = []
    for loss in losses:
        found = torch.autograd.grad(loss, list(parameters), retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.reshape(-1) for gradient in found]))
    return torch.stack(rows)


class Troa:
    """Omega, how much each source task's gradient agrees with what a target task has wanted so far.

    This is a reconstruction: the algorithm (task representation optimisation, TROA) is not in the released code, and
    of the paper an asymmetric matrix of gradient similarities is known, its entries between 0 and 1, its diagonal below
    1, columns not of sum 1. Every step takes the gradients g_s of the tasks' losses on the current batch, at the
    adapters' shared parameters, and m_t, the exponential mean of task t's gradients on previous batches. Then
    ``omega[s, t] <- (1 - rate) omega[s, t] + rate max(0, cos(g_s, m_t))``, and m_t takes in g_t. The first batch moves
    no affinity: there is nothing before it. A task without a gradient in a batch (absent, or exactly 0) moves neither
    its row nor m; its column moves as soon as its m is not 0.

    Orientation: `omega` is the source's, ``omega[source, target]``, and column t weights the embeddings for task t.
    :attr:`affinity` is this library's, rows are targets: the transpose.

    Args:
        tasks: names.
        rate: weight of a new cosine.
        decay: of the exponential mean of gradients.
        start: value of all entries at first; None is 1 / number of tasks.

    Raises:
        SettingError: for values outside of 0 to 1.

    Cost: an update is a backward pass a task and 4 n^2 inner products of all shared parameters; m needs n times their
    memory, and an update about six times as much for a moment.

    Source: after D. Bhattacharjee et al., ICCV 2023, arXiv 2308.12372; the update is a reconstruction.

    Example:
        >>> troa = Troa(["depth", "edges"], rate=0.5)
        >>> troa.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> troa.update(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        >>> troa.omega.tolist()  # the gradient of edges, the second row, agrees with what depth wanted before
        [[0.75, 0.25], [0.75, 0.25]]
        >>> troa.affinity.values.tolist()
        [[0.75, 0.75], [0.25, 0.25]]
    """

    def __init__(
        self, tasks: Sequence[str], *, rate: float = 0.1, decay: float = 0.9, start: float | None = None
    ) -> None:
        self.tasks, self.rate, self.decay = tuple(tasks), rate, decay
        for name, value in (("rate", rate), ("decay", decay), ("start", start)):
            if value is not None and not 0 <= value <= 1:
                raise SettingError(f"Parameter `{name}` should be from 0 to 1. Found {value!r}.")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise SettingError(f"Parameter `tasks` should have unique names, at least one. Found {list(tasks)}.")
        n = len(self.tasks)
        self.omega: NDArray[np.float64] = np.full((n, n), 1 / n if start is None else start)
        self.means: Tensor | None = None

    @property
    def affinity(self) -> Affinity:
        """Omega with rows as targets, columns as sources; larger is better."""
        return Affinity(self.omega.T, self.tasks, kind="raw", method="TROA (reconstructed)")

    def observe(self, losses: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> None:
        """Update from the losses of a batch; tasks that are missing are left out.

        Args:
            losses: scalar losses by task, of one batch.
            parameters: the shared parameters, see :meth:`AdaptedModel.shared_parameters`.

        Raises:
            SettingError: for unknown tasks, or none.
        """
        if not losses or any(task not in self.tasks for task in losses):
            raise SettingError(f"Parameter `losses` should be of {list(self.tasks)}. Found {list(losses)}.")
        found = flat_gradients(list(losses.values()), parameters)
        rows = found.new_zeros(len(self.tasks), found.shape[1])
        rows[[self.tasks.index(task) for task in losses]] = found
        self.update(rows)

    def update(self, gradients: Tensor) -> None:
        """Update from (tasks, numbers) gradients of a batch; a row of zeros is a task without a gradient.

        Raises:
            SettingError: for another number of rows or columns, or gradients that are not finite.
        """
        gradients = gradients.detach()
        if gradients.dim() != 2 or len(gradients) != len(self.tasks) or not bool(gradients.isfinite().all()):
            raise SettingError(
                f"Parameter `gradients` should be ({len(self.tasks)}, numbers) and finite. Found shape "
                f"{tuple(gradients.shape)}. Gradients that are not finite mean that the training diverged."
            )
        if self.means is not None and gradients.shape != self.means.shape:
            raise SettingError(
                f"Parameter `gradients` should have the shape of those seen so far, {tuple(self.means.shape)}. Found "
                f"{tuple(gradients.shape)}. The likely cause is a model with other shared parameters, or some of them "
                "frozen. Take a new Troa for it."
            )
        means = torch.zeros_like(gradients) if self.means is None else self.means
        present = gradients.any(1).cpu().numpy()
        known = means.any(1).cpu().numpy()
        moves = np.outer(present, known)
        new = np.clip(_cosines(gradients, means), 0.0, 1.0)
        self.omega = np.where(moves, (1 - self.rate) * self.omega + self.rate * new, self.omega)
        mixed = self.decay * means + (1 - self.decay) * gradients
        self.means = torch.where(gradients.any(1)[:, None], mixed, means)

    def similarities(self, gradient: Tensor) -> dict[str, float]:
        """``max(0, cos(gradient, m_t))`` of a new task's (numbers,) gradient with every known task; larger is nearer.

        Raises:
            SettingError: before the first update, or for a gradient of another length.
        """
        if self.means is None or gradient.shape != self.means.shape[1:]:
            raise SettingError(
                f"Parameter `gradient` should have the shape of the gradients seen so far, "
                f"{None if self.means is None else tuple(self.means.shape[1:])}. Found {tuple(gradient.shape)}."
            )
        found = np.clip(_cosines(gradient.detach()[None], self.means)[0], 0.0, 1.0)
        return dict(zip(self.tasks, found.tolist(), strict=True))


def _cosines(rows: Tensor, columns: Tensor) -> NDArray[np.float64]:
    """(rows, columns) cosines; 0 with a vector of zeros."""
    both = torch.cat([rows, columns])
    both = both.to(torch.promote_types(both.dtype, torch.float32))
    # squares of small gradients would be rounded to 0
    largest = both.abs().amax(1, keepdim=True)
    both = both / torch.where(largest > 0, largest, 1.0)
    return summed_cosines(both[:, None])[: len(rows), len(rows) :].cpu().numpy()
