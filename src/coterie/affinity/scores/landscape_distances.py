"""L1 distances between the tasks' gradients at single examples, without ever holding all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pdist

#: numbers that are compared at a time: few enough to stay in the cache of one core
_TILE = 2**18
#: entries of a point in a tile: enough to be worth a call, few enough to be summed in single precision
_LEAST, _MOST = 256, 4096


class Blocks(Protocol):
    """Gradients block by block; see :class:`coterie.affinity.scores.landscape_gradients.SampleGradients`."""

    layers: list[int]
    narrow_layers: list[int]

    def blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Gradients (c, T, p), the mask (c, T), and what stands for them at the same position (c, T, w)."""
        ...


def landscape_distances(
    source: Blocks, *, paired: bool, block: int = 8, normalise: bool = True, per_layer: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of every pair of tasks, and how far each task's own gradients are apart.

    Args:
        source: gradients of examples; read twice.
        paired: compare tasks at the same position, ``mean_i |g_a,i - g_b,i|_1`` over the positions where both have a
            label. Otherwise ``E|a - b| - E|a - a'| / 2 - E|b - b'| / 2`` (an energy distance), each mean over pairs of
            different positions of a block, and 0 where it comes out negative.
        block: positions of a block; the blocks of `source` must hold whole numbers of them.
        normalise: measure a task's gradients in units of their mean L1 norm, so that the scale of its loss does not
            matter.
        per_layer: let every tensor of the trunk count alike, whatever its size: its part of the gradient is measured
            in units of the mean L1 norm of that part (of the task's own if `normalise`, else over all tasks).

    Returns:
        (T, T) distances, symmetric with zeros on the diagonal, smaller is more similar; (T,) densities
        ``psi_t = mean_i |g_t,i - mean_i g_t,i|_1``. Both in the same units. NaN where two tasks share no position.

    Cost: M T^2 w / 2 subtractions for M positions and w numbers that stand for a gradient; M T^2 p `block` / 2 if not
        `paired`.

    Source: arXiv 2412.04413 as summarised by others; densities, normalisation and the energy distance are
    reconstructed.
    """
    norms, means, counts = _moments(source)
    scale = _scales(norms / counts[:, None], normalise=normalise, per_layer=per_layer)
    factor = _repeat(scale, source.narrow_layers if paired else source.layers)
    total: Tensor | float = 0.0
    weight: Tensor | float = 0.0
    density = torch.zeros_like(counts)
    for g, seen, narrow in source.blocks():
        away = _layer_norms(g - (means / counts[:, None]).to(g.dtype), source.layers)
        density += ((away * scale).sum(-1) * seen).sum(0)
        scaled = (narrow if paired else g) * factor.to(g.dtype)
        for rows in range(0, len(g), 1 if paired else block):
            part = scaled[rows] if paired else scaled[rows : rows + block].transpose(0, 1).flatten(0, 1)
            found = l1_distances(part)
            mask = seen[rows].double() if paired else _different(seen[rows : rows + block])
            if paired:
                total, weight = total + found * mask * mask[:, None], weight + mask * mask[:, None]
            else:
                size = (len(counts), block, len(counts), block)
                total = total + (found * mask).reshape(size).sum((1, 3))
                weight = weight + mask.reshape(size).sum((1, 3))
    values = torch.as_tensor(total / torch.as_tensor(weight))
    if not paired:
        own = values.diagonal() / 2
        values = (values - own - own[:, None]).clamp_min(0)
    values.fill_diagonal_(0)
    return values.cpu().numpy(), (density / counts).cpu().numpy()


def l1_distances(points: Tensor) -> Tensor:
    """(m, m) L1 distances of (m, p) points, double precision, tile by tile of the p numbers.

    Example:
        >>> l1_distances(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))[0, 1].item()
        3.0
    """
    size = len(points)
    upper = points.new_zeros(size * (size - 1) // 2, dtype=torch.float64)
    if size > 1:
        for tile in points.split(min(max(_TILE // size, _LEAST), _MOST), dim=1):
            upper += pdist(tile.contiguous(), p=1)
    full = upper.new_zeros(size, size)
    first, second = torch.triu_indices(size, size, 1, device=points.device)
    full[first, second] = full[second, first] = upper
    return full


def _layer_norms(g: Tensor, layers: list[int]) -> Tensor:
    """(c, T, layers) L1 norms of the tensors' parts of gradients (c, T, p), double precision."""
    return torch.stack([part.abs().sum(-1).double() for part in g.split(layers, dim=-1)], -1)


def _repeat(scale: Tensor, layers: list[int]) -> Tensor:
    """(T, p) factors from those of the tensors (T, layers)."""
    return scale.repeat_interleave(torch.tensor(layers, device=scale.device), dim=1)


def _moments(source: Blocks) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the examples of the norms (T, layers) and of the gradients (T, p), and how many examples (T,)."""
    norms = means = counts = None
    for g, seen, narrow in source.blocks():
        own = _layer_norms(narrow, source.narrow_layers).sum(0)
        each, number = g.sum(0).double(), seen.sum(0).double()  # few rows a block: no need to add them in double
        if norms is None or means is None or counts is None:
            norms, means, counts = own, each, number
        else:
            norms, means, counts = norms + own, means + each, counts + number
    if norms is None or means is None or counts is None:
        raise ValueError("there is no block of gradients")
    return norms, means, counts.clamp_min(1)


def _scales(norms: Tensor, *, normalise: bool, per_layer: bool) -> Tensor:
    """(T, layers) factors from the mean norms (T, layers)."""
    if not normalise and not per_layer:
        return torch.ones_like(norms)
    unit = norms if normalise else norms.mean(0, keepdim=True).expand_as(norms)
    if not per_layer:
        unit = unit.sum(1, keepdim=True).expand_as(norms)
    used = unit > 0
    share = 1.0 / norms.shape[1] if per_layer else 1.0
    return torch.where(used, share / torch.where(used, unit, 1.0), 0.0)


def _different(seen: Tensor) -> Tensor:
    """(T b, T b) weights of the pairs of a block (b, T): both have a label, at different positions."""
    flat = seen.T.double()
    positions = 1 - torch.eye(len(seen), dtype=torch.float64, device=seen.device)
    weights = flat[:, :, None, None] * flat[None, None] * positions[None, :, None, :]
    return weights.reshape(flat.numel(), flat.numel())


def similarity(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, T) weights ``exp(-A / median(A))`` in (0, 1], 1 on the diagonal; the median is over pairs of tasks.

    Example:
        >>> similarity(np.array([[0.0, 2.0], [2.0, 0.0]])).round(3).tolist()
        [[1.0, 0.368], [0.368, 1.0]]
    """
    pairs = distances[np.triu_indices(len(distances), 1)]
    unit = float(np.median(pairs)) if len(pairs) else 0.0
    if unit <= 0:  # most tasks are the same: what is left tells them apart
        unit = float(pairs.mean()) if len(pairs) and pairs.mean() > 0 else 1.0
    return np.exp(-distances / unit)
