"""Statistics of tasks for the regression, in blocks of equal layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._progress import Progress, silent
from coterie.errors import SettingError, WorkloadError
from coterie.features.storage import FeatureMatrix, compress
from coterie.workload.losses import MarginLoss

# At zero displacement every task adds its own small blocks to the Hessian and the gradient of the loss of a subset.
# Once they are known, one Newton step for any subset costs the same for a hundred and for a million examples.

#: types of features that are stored in half the bytes
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class TaskBlock:
    """The linearised examples of one task, in one part of the data.

    Attributes:
        g: (n, d) projected gradient of the margin with respect to the trunk; float16 or bfloat16 where it is stored in
            half the bytes, and then read in full precision by :meth:`chunks` only.
        head: (n, q) gradient of the margin with respect to the task's own head; q may be 0.
        offset: (n,) margin of the base model.
        targets: (n,) labels.
        loss: the loss of the task as a function of the margin.
        scale: (d,) what the columns of a float16 `g` are multiplied by on reading.
    """

    g: Tensor
    head: Tensor
    offset: Tensor
    targets: Tensor
    loss: MarginLoss
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.offset.shape[0]
        fits = self.g.dim() == 2 and self.head.dim() == 2 and self.offset.dim() == 1 and self.targets.shape == (n,)
        if not (fits and self.g.shape[0] == n and self.head.shape[0] == n):
            raise SettingError(
                "A TaskBlock should hold g (n, d), head (n, q), offset (n,), targets (n,). "
                f"Found {tuple(self.g.shape)}, {tuple(self.head.shape)}, {tuple(self.offset.shape)}, "
                f"{tuple(self.targets.shape)}."
            )

        full = (self.head, self.offset, self.targets)
        types = {part.dtype for part in (full if self.g.dtype in HALF else (self.g, *full))}
        if len(types) > 1:
            raise SettingError(
                f"The tensors of a TaskBlock should have one type. Found {sorted(map(str, types))}. "
                "Convert them with .to(torch.float32)."
            )

    @property
    def rows(self) -> int:
        """Number of examples with a label."""
        return self.offset.shape[0]

    def chunks(self, size: int) -> Iterator[TaskBlock]:
        """The block cut into row chunks of at most `size` rows: views, or copies in full precision of a half `g`."""
        stored = FeatureMatrix(self.g, self.scale, self.offset.dtype)
        for start in range(0, self.rows, size):
            own = slice(start, start + size)
            g = stored.rows(own).read(self.offset.device)
            yield TaskBlock(g, self.head[own], self.offset[own], self.targets[own], self.loss)


@dataclass(frozen=True, eq=False)
class Penalty:
    """Weights of the ridge on trunk and head displacements: ``lambda / 2 (trunk |u|^2 + heads |w|^2)``."""

    trunk: float = 1.0
    heads: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.trunk < float("inf") and 0 < self.heads < float("inf")):
            raise SettingError(f"The weights of a Penalty should be positive and finite. Found {self}.")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over the training examples of each task, at zero displacement, in float64.

    With first and second derivatives r, s of the loss at the offset:

    Attributes:
        trunk: (T, d, d) sum of s g g^T.
        mixed: T tensors (d, q_t), sum of s g head^T.
        heads: T tensors (q_t, q_t), sum of s head head^T.
        trunk_gradient: (T, d) sum of r g.
        head_gradient: T tensors (q_t,), sum of r head.
        counts: (T,) examples of each task.
        loss: (T,) sum of the losses.
        norms: (T, 2) sums of |g|^2 and |head|^2.
        offset: whether the base margins were used; False leaves them out (the published code), to show what that costs.
    """

    trunk: Tensor
    mixed: tuple[Tensor, ...]
    heads: tuple[Tensor, ...]
    trunk_gradient: Tensor
    head_gradient: tuple[Tensor, ...]
    counts: Tensor
    loss: Tensor
    norms: Tensor
    offset: bool = True

    @property
    def n_tasks(self) -> int:
        """Number of tasks T."""
        return self.trunk.shape[0]

    @property
    def width(self) -> int:
        """Number of trunk directions d."""
        return self.trunk.shape[1]

    @cached_property
    def head_widths(self) -> tuple[int, ...]:
        """Head parameters q_t of each task."""
        return tuple(block.shape[0] for block in self.heads)

    @cached_property
    def eigen(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Per task: eigenvalues and eigenvectors V of the head block, and ``mixed V``."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for mixed, block in zip(self.mixed, self.heads, strict=True):
            values, vectors = torch.linalg.eigh(block)
            parts.append((values.clamp_min(0.0), vectors, mixed @ vectors))
        return tuple(parts)

    @cached_property
    def single(self) -> tuple[Tensor, tuple[Tensor, ...], Tensor, Tensor]:
        """In float32: trunk blocks, ``mixed V`` of each task and side by side (d, sum of q_t); all eigenvalues."""
        mixed = tuple(part[2].float() for part in self.eigen)
        return self.trunk.float(), mixed, torch.cat(mixed, 1), torch.cat([part[0] for part in self.eigen])

    def penalty(self, norm: float = 4.0) -> Penalty:
        """The ridge weights that act as if both blocks had been scaled to a mean squared norm of `norm`.

        Scaling features by c divides displacements by c; weighting the ridge by ``1 / c^2`` gives the same fit with
        displacements in their own units, so nothing has to be undone.
        """
        means = (self.norms.sum(0) / self.counts.sum()).tolist()
        trunk, heads = (mean / norm if mean > 0 else 1.0 for mean in means)
        return Penalty(trunk, heads)

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat dict of tensors, ready for safetensors. Inverse: :meth:`from_tensors`."""
        tensors = {
            "trunk": self.trunk,
            "trunk_gradient": self.trunk_gradient,
            "counts": self.counts,
            "loss": self.loss,
            "norms": self.norms,
            "offset": torch.tensor(self.offset),
        }
        for task in range(self.n_tasks):
            tensors[f"mixed.{task}"] = self.mixed[task]
            tensors[f"heads.{task}"] = self.heads[task]
            tensors[f"head_gradient.{task}"] = self.head_gradient[task]
        return tensors

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Statistics:
        """The inverse of :meth:`to_tensors`."""
        tasks = range(tensors["trunk"].shape[0])
        return Statistics(
            trunk=tensors["trunk"],
            mixed=tuple(tensors[f"mixed.{task}"] for task in tasks),
            heads=tuple(tensors[f"heads.{task}"] for task in tasks),
            trunk_gradient=tensors["trunk_gradient"],
            head_gradient=tuple(tensors[f"head_gradient.{task}"] for task in tasks),
            counts=tensors["counts"],
            loss=tensors["loss"],
            norms=tensors["norms"],
            offset=bool(tensors["offset"]),
        )


def compute_statistics(
    blocks: Sequence[TaskBlock],
    *,
    offset: bool = True,
    chunk_rows: int = 2048,
    progress: Progress | None = None,
) -> Statistics:
    """Sufficient statistics of every task: one pass over the training features.

    Args:
        blocks: training block of each task, all with the same number of trunk directions.
        offset: False treats the base margins as 0, as the published code does; the estimate is then visibly worse.
        chunk_rows: rows per matrix product. Products run in the type of the features; chunks are added in float64, so
            float32 features give entries to about 1e-7 relative of the largest.
        progress: called as ``progress("statistics", tasks done, tasks)``.

    Raises:
        WorkloadError: when a task has no examples, or a feature is NaN or infinite.

    Cost: ``(d + q)^2`` multiply-adds an example. Source: coterie's own; the regression is that of Grad-TAE
    (arXiv 2409.06091) with exact heads.

    Example:
        >>> from coterie.workload import get_loss
        >>> one = torch.ones(3, dtype=torch.float64)
        >>> block = TaskBlock(one[:, None], torch.zeros(3, 0).double(), 0 * one, one, get_loss("regression"))
        >>> sums = compute_statistics([block])
        >>> float(sums.trunk[0, 0, 0]), float(sums.trunk_gradient[0, 0])
        (6.0, -6.0)
    """
    report = progress or silent
    if not blocks:
        raise SettingError("Parameter `blocks` should hold one TaskBlock a task. Found none.")
    widths = {block.g.shape[1] for block in blocks}
    if len(widths) > 1:
        raise SettingError(f"All blocks should have the same number of trunk directions. Found {sorted(widths)}.")
    sums: list[dict[str, Tensor]] = []
    for task, block in enumerate(blocks):
        if block.rows == 0:
            raise WorkloadError(f"Task {task} has no labelled training example, so it cannot be fitted. Leave it out.")
        sums.append(_task_sums(block, offset, chunk_rows))
        if not all(bool(torch.isfinite(value).all()) for value in sums[-1].values()):
            raise WorkloadError(
                f"The features, offsets or labels of task {task} hold NaN or infinite values. Look for diverged base "
                "training (lower the learning rate) or missing labels that were not masked."
            )
        report("statistics", task + 1, len(blocks))
    device = blocks[0].offset.device
    return Statistics(
        trunk=torch.stack([part["trunk"] for part in sums]),
        mixed=tuple(part["mixed"] for part in sums),
        heads=tuple(part["heads"] for part in sums),
        trunk_gradient=torch.stack([part["trunk_gradient"] for part in sums]),
        head_gradient=tuple(part["head_gradient"] for part in sums),
        counts=torch.tensor([block.rows for block in blocks], device=device),
        loss=torch.stack([part["loss"] for part in sums]),
        norms=torch.stack([part["norms"] for part in sums]),
        offset=offset,
    )


def _task_sums(block: TaskBlock, offset: bool, chunk_rows: int) -> dict[str, Tensor]:
    d, q = block.g.shape[1], block.head.shape[1]
    zeros = lambda *shape: torch.zeros(shape, dtype=torch.float64, device=block.offset.device)  # noqa: E731
    sums = {
        "trunk": zeros(d, d),
        "mixed": zeros(d, q),
        "heads": zeros(q, q),
        "trunk_gradient": zeros(d),
        "head_gradient": zeros(q),
        "loss": zeros(),
        "norms": zeros(2),
    }
    for part in block.chunks(chunk_rows):
        margin = part.offset if offset else torch.zeros_like(part.offset)
        first = part.loss.first(margin, part.targets)
        second = part.loss.curvature(margin, part.targets)[:, None]
        weighted = second * part.g
        sums["trunk"] += weighted.mT @ part.g
        sums["mixed"] += weighted.mT @ part.head
        sums["heads"] += (second * part.head).mT @ part.head
        sums["trunk_gradient"] += first @ part.g
        sums["head_gradient"] += first @ part.head
        sums["loss"] += part.loss.value(margin, part.targets).sum(dtype=torch.float64)
        norms = (part.g.square().sum(dtype=torch.float64), part.head.square().sum(dtype=torch.float64))
        sums["norms"] += torch.stack(norms)
    return sums


_FIELDS = ("g", "head", "offset", "targets")


def pack_blocks(blocks: Sequence[TaskBlock]) -> dict[str, Tensor]:
    """The tensors of the blocks under "task/field"."""
    tensors = {f"{task}/{field}": getattr(block, field) for task, block in enumerate(blocks) for field in _FIELDS}
    # each its own, though tasks may share one: files take no tensors that share memory
    scales = {f"{task}/scale": block.scale.clone() for task, block in enumerate(blocks) if block.scale is not None}
    return tensors | scales


def unpack_blocks(losses: Sequence[MarginLoss], tensors: Mapping[str, Tensor]) -> tuple[TaskBlock, ...]:
    """The inverse of :func:`pack_blocks`, with the loss of each task; nothing for no tensors."""
    if not tensors:
        return ()
    return tuple(
        TaskBlock(*(tensors[f"{task}/{field}"] for field in _FIELDS), loss=loss, scale=tensors.get(f"{task}/scale"))
        for task, loss in enumerate(losses)
    )


def compressed(blocks: Sequence[TaskBlock], dtype: str) -> tuple[TaskBlock, ...]:
    """The blocks with `g` stored as ``"float32"`` (unchanged), ``"float16"`` or ``"bfloat16"``."""
    stored = [compress(block.g, dtype) for block in blocks]
    return tuple(replace(block, g=own.stored, scale=own.scale) for block, own in zip(blocks, stored, strict=True))


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


# Subset l has a trunk displacement ``u[l]`` and one head displacement for each of its tasks. The (subset, task) pairs
# are sorted by task, so that what concerns one task is one slice, and one matrix product serves all subsets with it.


@dataclass(frozen=True, eq=False)
class Layout:
    """Which subset holds which task.

    Attributes:
        mask: (m, T) bool tensor.
    """

    mask: Tensor

    @staticmethod
    def from_mask(mask: NDArray[np.bool_], device: torch.device) -> Layout:
        """The layout of a bool array (m, T)."""
        return Layout(torch.as_tensor(mask, device=device))

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """(task, subset) of each of the P pairs, sorted by task."""
        task, subset = torch.nonzero(self.mask.mT, as_tuple=True)
        return task, subset

    @cached_property
    def starts(self) -> list[int]:
        """Where the pairs of each task start: T + 1 numbers."""
        return [0, *self.mask.sum(0).cumsum(0).tolist()]

    def pairs_of(self, task: int) -> slice:
        """The pairs of a task."""
        return slice(self.starts[task], self.starts[task + 1])

    def subsets_of(self, task: int) -> Tensor:
        """The subsets with a task, in the order of its pairs."""
        return self.pairs[1][self.pairs_of(task)]

    def sum_pairs(self, values: Tensor) -> Tensor:
        """(m, ...) sums over the pairs of each subset of (P, ...) values."""
        total = torch.zeros((self.mask.shape[0], *values.shape[1:]), dtype=values.dtype, device=values.device)
        return total.index_add_(0, self.pairs[1], values)

    def select(self, keep: Tensor) -> Layout:
        """The layout of some subsets (bool tensor (m,))."""
        return Layout(self.mask[keep])


@dataclass(frozen=True, eq=False)
class Point:
    """Displacements, or gradients, of all subsets of a layout, each in one floating-point type.

    Attributes:
        u: (m, d) trunk part.
        w: (P, q) head part of each pair, zero beyond the task's own q_t columns.
    """

    u: Tensor
    w: Tensor

    @staticmethod
    def zeros(layout: Layout, d: int, q: int, kind: torch.dtype = torch.float64) -> Point:
        """No displacement."""
        device = layout.mask.device
        return Point(
            torch.zeros(layout.mask.shape[0], d, dtype=kind, device=device),
            torch.zeros(layout.pairs[1].shape[0], q, dtype=kind, device=device),
        )

    def step(self, scale: Tensor, direction: Point, layout: Layout) -> Point:
        """``self + scale[l] * direction`` for each subset l; `scale` is (m,)."""
        scale = scale.to(self.u.dtype)
        return Point(
            torch.addcmul(self.u, scale[:, None], direction.u),
            torch.addcmul(self.w, scale[layout.pairs[1], None], direction.w),
        )

    def minus(self, other: Point) -> Point:
        """Difference."""
        return Point(self.u - other.u, self.w - other.w)

    def scaled(self, scale: Tensor, layout: Layout) -> Point:
        """``scale[l] * self``."""
        scale = scale.to(self.u.dtype)
        return Point(scale[:, None] * self.u, scale[layout.pairs[1], None] * self.w)

    def dot(self, other: Point, layout: Layout) -> Tensor:
        """(m,) inner product of each subset, in float64."""
        return ((self.u * other.u).sum(1) + layout.sum_pairs((self.w * other.w).sum(1))).double()

    def where(self, keep: Tensor, other: Point, layout: Layout) -> Point:
        """This point for the subsets in `keep` (bool (m,)), the other one elsewhere."""
        return Point(
            torch.where(keep[:, None], self.u, other.u), torch.where(keep[layout.pairs[1], None], self.w, other.w)
        )

    def select(self, keep: Tensor, layout: Layout) -> Point:
        """The part of the subsets in `keep`, to be used with ``layout.select(keep)``."""
        return Point(self.u[keep], self.w[keep[layout.pairs[1]]])

    def put(self, keep: Tensor, part: Point, layout: Layout) -> None:
        """Write back what :meth:`select` took out."""
        self.u[keep] = part.u.to(self.u.dtype)
        self.w[keep[layout.pairs[1]]] = part.w.to(self.w.dtype)
