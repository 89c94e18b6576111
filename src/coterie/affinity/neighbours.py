"""Values of a group with one task more, one less, or one exchanged: all of them from one factorisation of the group.

A search asks for such neighbours by the hundred. Their Hessians differ from that of the group by the block of the task
that comes or goes, and by the ridge, which grows with the number of examples. The sum over the group's tasks is formed
at a few strengths of the ridge and interpolated between them; the inverse at the group's own strength is the
preconditioner of conjugate gradients, to which a neighbour is a small change. So what a neighbour costs hardly depends
on the size of the group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from coterie.affinity.blocks import Penalty, Statistics, TaskBlock
from coterie.affinity.conjugate import CONDITION, CROSSOVER

#: neighbours of a group from which on its factorisation pays
LEAST = 12
#: neighbours that are solved at a time
_ROWS = 256
#: relative error of the interpolation between strengths of the ridge, and most strengths that are used for it
_ERROR, _NODES = 1e-6, 10
#: leaders that may fail to have neighbours before the rest of a batch counts as scattered
_FAILURES = 8
_LIMIT = 60


def neighbourhoods(subsets: NDArray[np.bool_]) -> tuple[list[tuple[NDArray[np.bool_], NDArray[np.int64]]], list[int]]:
    """Groups with many neighbours among some subsets: (group (T,), rows of its neighbours) each, and the other rows.

    Args:
        subsets: bool (m, T), all different.

    Returns:
        Neighbourhoods with at least ``LEAST`` rows. Each row has at most one task that the group lacks, and lacks at
        most one task of the group; the group itself is its own neighbour.

    Cost: ``m T`` operations for each neighbourhood.

    Example:
        >>> found, rest = neighbourhoods(~np.eye(14, dtype=bool))
        >>> len(found), int(found[0][0].sum()), rest
        (1, 14, [])
    """
    left, failures = np.arange(len(subsets)), 0
    found: list[tuple[NDArray[np.bool_], NDArray[np.int64]]] = []
    scattered: list[int] = []
    while len(left) >= LEAST and failures < _FAILURES:
        rows = subsets[left]
        near = rows[(rows != rows[0]).sum(1) <= 4]  # two neighbours of a group differ in at most four tasks
        group = 2 * near.sum(0) > len(near)
        own = ((rows & ~group).sum(1) <= 1) & ((group & ~rows).sum(1) <= 1)
        if own.sum() < LEAST:
            failures += 1
            scattered.append(int(left[0]))
            left = left[1:]
            continue
        found.append((group, left[own]))
        left = left[~own]
    return found, sorted([*scattered, *left.tolist()])


@dataclass(frozen=True, eq=False)
class Neighbours:
    """One-step fits of neighbours of groups, for one base model.

    Args:
        statistics: of the training features.
        validation: validation block of each task.
        penalty: weights of the ridge.
        path: strengths of the ridge.
    """

    statistics: Statistics
    validation: Sequence[TaskBlock]
    penalty: Penalty
    path: tuple[float, ...]

    @property
    def _bytes(self) -> int:
        """Memory of the tables."""
        (n, d, _), q = self.statistics.trunk.shape, max(self.statistics.head_widths)
        return 4 * n * (d * (d + q) + max(block.rows for block in self.validation) * (d + q))

    @property
    def kind(self) -> torch.dtype:
        """Double precision where there are so few directions that it costs little."""
        return torch.float64 if self.statistics.width <= CROSSOVER else torch.float32

    @cached_property
    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Trunk blocks (T, d, d), mixed (T, d, q), eigenvalues and rotated gradients (T, q) of the heads, (T, d)."""
        sums, q, kind = self.statistics, max(self.statistics.head_widths), self.kind
        mixed = torch.stack([pad(part, (0, q - part.shape[1])) for _, _, part in sums.eigen])
        eigen = torch.stack([pad(part, (0, q - part.shape[0])) for part, _, _ in sums.eigen])
        rotated = [gradient @ vectors for gradient, (_, vectors, _) in zip(sums.head_gradient, sums.eigen, strict=True)]
        heads = torch.stack([pad(part, (0, q - part.shape[0])) for part in rotated])
        return (
            sums.trunk.to(kind),
            mixed.to(kind),
            eigen.to(kind),
            heads.to(kind),
            sums.trunk_gradient.to(kind),
        )

    @cached_property
    def padded(self) -> _Validation:
        """The validation blocks, padded."""
        return _Validation.of(self.validation, self.statistics, self.tables[1])

    def values(
        self,
        group: NDArray[np.bool_],
        subsets: NDArray[np.bool_],
        memory: int = 2**30,
        strengths: tuple[float, ...] | None = None,
    ) -> NDArray[np.float64] | None:
        """(strengths, m, T) validation losses of neighbours of a group, NaN outside; None where they are not near.

        Args:
            group: bool (T,).
            subsets: bool (m, T), each with at most one task more and one task less than the group.
            memory: bytes that may be used at a time.
            strengths: some of the path; None for all.
        """
        strengths = strengths or self.path
        if not group.any() or self._bytes > memory // 4:
            return None
        counts = self.statistics.counts.double().cpu().numpy()
        relative = subsets @ counts / (group @ counts)
        reach = float(np.abs(relative - 1).max(initial=1e-3))
        nodes = _nodes(reach)
        if nodes is None or not self._conditioned(group, subsets, counts):
            return None
        fit = _Fit.of(self, group, nodes, strengths)
        result = np.full((len(strengths), *subsets.shape), np.nan)
        _, mixed, *_ = self.tables
        size = max(1, min(_ROWS, memory // (16 * mixed[0].numel() + 16 * self.statistics.width**2)))
        for start in range(0, len(subsets), size):
            part = subsets[start : start + size]
            scale = torch.as_tensor(relative[start : start + size], dtype=self.kind, device=fit.device)
            came, left = fit.changes(part, scale)
            moved = fit.solve(scale, [change for change in (came, left) if len(change.rows)])
            result[:, start : start + size] = fit.losses(part, scale, moved, came)
        return result

    def _conditioned(self, group: NDArray[np.bool_], subsets: NDArray[np.bool_], counts: NDArray[np.float64]) -> bool:
        """Whether the type is precise enough for the weakest ridge."""
        if self.kind == torch.float64:
            return True
        traces = self.statistics.trunk.diagonal(dim1=1, dim2=2).sum(1).cpu().numpy()
        largest = max(float((subsets @ traces).max()), float(group @ traces))
        return largest < CONDITION * min(self.path) * self.penalty.trunk * float((subsets @ counts).min())


def _nodes(reach: float) -> NDArray[np.float64] | None:
    """Chebyshev points of [1 - reach, 1 + reach] at which 1 / (c + x) is known well enough; None for too many."""
    if reach >= 1:
        return None
    rate = 1 / reach + math.sqrt(1 / reach**2 - 1)
    count = max(3, math.ceil(-math.log(_ERROR) / math.log(rate)))
    if count > _NODES:
        return None
    return 1 + reach * np.cos(np.pi * (np.arange(count) + 0.5) / count)


@dataclass(frozen=True, eq=False)
class _Fit:
    """A group's systems at all strengths of the ridge.

    Attributes:
        near: the tables of all tasks.
        members: tasks of the group.
        shifts: (P, 2) ridge of the trunk and of the heads for the group.
        nodes: (K,) strengths between which is interpolated, in units of the group's.
        blocks: (P, d, K d) sums over the group of trunk blocks with the heads eliminated, at each node.
        right: (P, K, d) right sides.
        inverse: (P, d, d) inverse systems of the group.
    """

    near: Neighbours
    members: list[int]
    shifts: Tensor
    nodes: Tensor
    blocks: Tensor
    right: Tensor
    inverse: Tensor

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.blocks.device

    @staticmethod
    def of(
        near: Neighbours, group: NDArray[np.bool_], nodes: NDArray[np.float64], strengths: tuple[float, ...]
    ) -> _Fit:
        """Form and invert. Cost: ``strengths K d^2 q`` multiply-adds a task of the group."""
        trunk, mixed, eigen, heads, gradient = near.tables
        members = [int(task) for task in np.flatnonzero(group)]
        examples = near.statistics.counts[members].sum().double()
        weights = torch.tensor([[near.penalty.trunk, near.penalty.heads]], dtype=torch.float64, device=trunk.device)
        shifts = examples * torch.tensor(strengths, dtype=torch.float64, device=trunk.device)[:, None] * weights
        places, d = torch.tensor(nodes, device=trunk.device), trunk.shape[1]
        side = mixed[members].transpose(0, 1).reshape(d, -1)  # (d, Q), the group's heads side by side
        values, rotated = eigen[members].reshape(-1), heads[members].reshape(-1)
        total, whole = trunk[members].sum(0), gradient[members].sum(0)
        blocks: list[Tensor] = []
        right: list[Tensor] = []
        for shift in shifts[:, 1]:
            inverse = 1 / (values[None] + (shift * places).to(near.kind)[:, None])  # (K, Q)
            blocks.append(torch.cat([total - (side * one) @ side.mT for one in inverse], 1))
            right.append(whole - (inverse * rotated) @ side.mT)
        stacked = torch.stack(blocks)
        # at the group's own strength, between the nodes: good enough for a preconditioner, and hardly any work
        here = _lagrange(places, torch.ones(1, dtype=torch.float64, device=trunk.device))[0].to(near.kind)
        middle = torch.einsum("pikj,k->pij", stacked.view(len(shifts), d, len(nodes), d), here)
        middle.diagonal(dim1=1, dim2=2).add_(shifts[:, :1].to(near.kind))
        inverted = torch.linalg.inv(middle)
        both = 0.5 * (inverted + inverted.mT)
        return _Fit(near, members, shifts, places, stacked, torch.stack(right), both)

    def solve(self, scale: Tensor, changes: Sequence[_Change]) -> Tensor:
        """(P, m, d) trunk displacements, by conjugate gradients."""
        kind, (strengths, d, _) = self.near.kind, self.blocks.shape
        basis = _lagrange(self.nodes, scale.double()).to(kind)  # (m, K)
        ridge = (self.shifts[:, 0, None] * scale.double()).to(kind)[..., None]
        right = torch.einsum("mk,pkd->pmd", basis, self.right)
        for change in changes:
            right[:, change.rows] += change.right
        weights = basis[None, :, :, None]

        def product(vectors: Tensor) -> Tensor:
            parts = torch.bmm(vectors, self.blocks).view(strengths, -1, len(self.nodes), d)
            result = torch.addcmul((parts * weights).sum(2), ridge, vectors)
            for change in changes:
                result[:, change.rows] += change.product(vectors[:, change.rows])
            return result

        return _conjugate(product, self.inverse, right, 1e-9 if kind == torch.float64 else 1e-5)

    def changes(self, subsets: NDArray[np.bool_], scale: Tensor) -> list[_Change]:
        """What came to some rows, and what left some."""
        group = np.zeros(subsets.shape[1], dtype=bool)
        group[self.members] = True
        found: list[_Change] = []
        for differ, sign in ((subsets & ~group, 1.0), (group & ~subsets, -1.0)):
            rows, tasks = (torch.as_tensor(index, device=self.device) for index in np.nonzero(differ))
            trunk, mixed, eigen, heads, gradient = (table[tasks] for table in self.near.tables)
            shift = (scale[rows, None].double() * self.shifts[:, 1]).to(self.near.kind)[..., None]
            inverse = 1 / (eigen[:, None] + shift)  # (r, P, q)
            part = gradient[:, None] - torch.bmm(inverse * heads[:, None], mixed.mT)
            found.append(_Change(rows, tasks, sign * part.transpose(0, 1), sign * trunk, mixed, sign * inverse))
        return found

    def losses(self, subsets: NDArray[np.bool_], scale: Tensor, moved: Tensor, came: _Change) -> NDArray[np.float64]:
        """(P, m, T) mean validation losses, NaN outside."""
        read, (_, mixed, eigen, heads, _) = self.near.padded, self.near.tables
        strengths, m, d = moved.shape
        q, result = mixed.shape[2], np.full((strengths, *subsets.shape), np.nan)
        shift = (self.shifts[:, 1, None] * scale.double()).to(self.near.kind).reshape(-1, 1)
        flat = moved.reshape(-1, d)
        for task in self.members:
            block = self.near.validation[task]
            back, both = read.back[task, :, : block.rows], flat @ read.side[task, :, : q + block.rows]
            left = (heads[task] - both[:, :q]).div_(eigen[task] + shift)
            margin = (read.offset[task, : block.rows] - both[:, q:]).addmm_(left, back, alpha=-1)
            total = read.mean(margin, block).view(strengths, m).cpu().numpy()
            result[:, :, task] = np.where(subsets[:, task], total, np.nan)
        if len(came.rows):
            both = torch.bmm(moved[:, came.rows].transpose(0, 1), read.side[came.tasks])
            left = (heads[came.tasks, None] - both[..., :q]).mul_(came.inverse)
            margin = read.offset[came.tasks, None] - both[..., q:] - torch.bmm(left, read.back[came.tasks])
            total = read.means(came.tasks, margin, self.near.validation).mT.cpu().numpy()
            result[:, came.rows.cpu().numpy(), came.tasks.cpu().numpy()] = total
        return result


@dataclass(frozen=True, eq=False)
class _Validation:
    """Validation blocks of all tasks, padded to the same number of examples.

    Attributes:
        side: (T, d, q + v) what turns a displacement into that of the head, and into margins.
        back: (T, q, v) what turns a rotated head displacement into margins.
        offset: (T, v) margins of the base model.
        targets: (T, v) labels; beyond the examples of a task its first label.
        shares: (T, v) one over the number of examples, 0 beyond them.
    """

    side: Tensor
    back: Tensor
    offset: Tensor
    targets: Tensor
    shares: Tensor

    @staticmethod
    def of(blocks: Sequence[TaskBlock], statistics: Statistics, mixed: Tensor) -> _Validation:
        """Read all blocks."""
        most, kind, q = max(block.rows for block in blocks), mixed.dtype, mixed.shape[2]
        side: list[Tensor] = []
        back: list[Tensor] = []
        offset: list[Tensor] = []
        targets, shares = torch.zeros(2, len(blocks), most, dtype=torch.float64, device=mixed.device)
        for task, block in enumerate(blocks):
            more = most - block.rows
            targets[task] = block.targets[0] if block.rows else 0.0
            targets[task, : block.rows] = block.targets
            shares[task, : block.rows] = 1 / max(1, block.rows)
            g = torch.cat([part.g for part in block.chunks(4096)]) if block.rows else block.g.float()
            turned = statistics.eigen[task][1].to(kind).mT @ block.head.to(kind).mT
            side.append(torch.cat([mixed[task], pad(g.to(kind).mT, (0, more))], 1))
            back.append(pad(turned, (0, more, 0, q - turned.shape[0])))
            offset.append(pad(block.offset.to(kind), (0, more)))
        return _Validation(torch.stack(side), torch.stack(back), torch.stack(offset), targets, shares)

    def means(self, tasks: Tensor, margin: Tensor, blocks: Sequence[TaskBlock]) -> Tensor:
        """(r, P) mean losses of task r for margins (r, P, v), tasks with the same loss together."""
        result = margin.new_full(margin.shape[:2], torch.nan, dtype=torch.float64)
        of = [blocks[task].loss for task in tasks.tolist()]
        for number in {id(loss): place for place, loss in enumerate(of) if blocks[int(tasks[place])].rows}.values():
            same = [place for place, loss in enumerate(of) if loss is of[number] and blocks[int(tasks[place])].rows]
            own = tasks[same]
            kind = blocks[int(own[0])].offset.dtype
            losses = of[number].value(margin[same].to(kind), self.targets[own, None].to(kind)).double()
            shares = self.shares[own, None]
            result[same] = torch.where(shares > 0, losses * shares, 0.0).sum(2)
        return result

    def mean(self, margin: Tensor, block: TaskBlock) -> Tensor:
        """(rows,) mean losses of a task for margins (rows, v)."""
        if not block.rows:
            return margin.new_full(margin.shape[:1], torch.nan, dtype=torch.float64)
        losses = block.loss.value(margin.to(block.offset.dtype), block.targets)
        return losses.sum(1, dtype=torch.float64) / block.rows


@dataclass(frozen=True, eq=False)
class _Change:
    """One task that came to, or left, each of some rows; what left has the opposite sign.

    Attributes:
        rows: (r,).
        tasks: (r,) which task it is.
        right: (P, r, d) of the right side.
        trunk: (r, d, d) trunk blocks.
        mixed: (r, d, q).
        inverse: (r, P, q) reciprocals of the shifted eigenvalues of the head.
    """

    rows: Tensor
    tasks: Tensor
    right: Tensor
    trunk: Tensor
    mixed: Tensor
    inverse: Tensor

    def product(self, vectors: Tensor) -> Tensor:
        """(P, r, d) its part of a product with (P, r, d)."""
        own = vectors.transpose(0, 1).contiguous()
        result = torch.bmm(own, self.trunk)
        if self.mixed.shape[2]:
            result -= torch.bmm(torch.bmm(own, self.mixed).mul_(self.inverse), self.mixed.mT)
        return result.transpose(0, 1)


def _lagrange(nodes: Tensor, places: Tensor) -> Tensor:
    """(m, K) weights of the values at K nodes for the polynomial through them at m places."""
    weights = torch.ones(len(places), len(nodes), dtype=torch.float64, device=places.device)
    for k in range(len(nodes)):
        for j in range(len(nodes)):
            if j != k:
                weights[:, k] *= (places - nodes[j]) / (nodes[k] - nodes[j])
    return weights


def _conjugate(product: Callable[[Tensor], Tensor], inverse: Tensor, right: Tensor, tolerance: float) -> Tensor:
    """Preconditioned conjugate gradients for (P, m, d) systems until each residual is `tolerance` of what it was."""
    size = (right.square().sum(2, keepdim=True) + 1e-30).sqrt()
    residual, answer = right / size, torch.zeros_like(right)
    steered = torch.bmm(residual, inverse)
    old = (residual * steered).sum(2, keepdim=True)
    goal, direction = tolerance**2 * old, steered
    for _ in range(_LIMIT):
        moved = product(direction)
        length = old / (direction * moved).sum(2, keepdim=True).clamp_min(1e-30)
        answer = torch.addcmul(answer, length, direction)
        residual = torch.addcmul(residual, length, moved, value=-1)
        steered = torch.bmm(residual, inverse)
        new = (residual * steered).sum(2, keepdim=True)
        if not bool((new > goal).any()):
            break
        direction = torch.addcmul(steered, new / old.clamp_min(1e-30), direction)
        old = new
    return answer * size
