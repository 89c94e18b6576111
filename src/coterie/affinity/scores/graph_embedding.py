"""A graph of tasks embedded by graph attention, trained to give the graph back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import elu, leaky_relu

HEADS = 4
HIDDEN = 32
#: slope of the attention scores below zero
_SLOPE = 0.2


@dataclass(frozen=True, eq=False)
class Embedding:
    """Tasks as points.

    Attributes:
        points: (T, d) embedding of the best start.
        weights: (T, T) ``sigmoid(z_a . z_b)``, the graph as the embedding gives it back; larger is more similar.
        losses: (seeds,) final reconstruction losses; lower is better.
    """

    points: NDArray[np.float64]
    weights: NDArray[np.float64]
    losses: NDArray[np.float64]


def neighbours(similarity: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """(T, T) which tasks are linked: each with itself and its `count` most similar, in both directions.

    Example:
        >>> neighbours(np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]]), 1).astype(int).tolist()
        [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    """
    size = len(similarity)
    others = similarity.astype(np.float64)  # a copy
    np.fill_diagonal(others, -np.inf)
    linked = np.eye(size, dtype=bool)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, : min(count, size - 1)]
    np.put_along_axis(linked, nearest, True, axis=1)
    return linked | linked.T


def contrast(similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, T) similarities of pairs of tasks less their mean, over their standard deviation; 0 on the diagonal.

    Distances in many dimensions hardly differ, so all weights lie close to ``1 / e``. No points have inner products
    that are all negative alike: an embedding of the weights as they are collapses to one point.

    Example:
        >>> contrast(np.array([[1, 0.4, 0.3], [0.4, 1, 0.3], [0.3, 0.3, 1]])).round(2)[0].tolist()
        [0.0, 1.41, -0.71]
    """
    pairs = similarity[np.triu_indices(len(similarity), 1)]
    spread = float(pairs.std()) if len(pairs) else 0.0
    if spread <= 1e-9:
        return np.zeros_like(similarity)
    scores = (similarity - pairs.mean()) / spread
    np.fill_diagonal(scores, 0.0)
    return scores


def attend(x: Tensor, weight: Tensor, left: Tensor, right: Tensor, edges: Tensor) -> Tensor:
    """One layer of graph attention, for several independent networks at once.

    Task a takes the mean of ``h_b = W x_b`` over the tasks it is linked to, each with weight proportional to
    ``edge_ab exp(LeakyReLU(left . h_a + right . h_b))``.

    Args:
        x: (S, T, inputs) features of the tasks in each of S networks.
        weight: (S, heads, inputs, outputs).
        left: (S, heads, outputs).
        right: (S, heads, outputs).
        edges: (T, T) weights of the links, 0 where there is none; every task is linked to itself.

    Returns:
        (S, heads, T, outputs).

    Source: Velickovic et al., Graph Attention Networks, ICLR 2018, equations 1-4; edge weights as factors of the
    softmax are ours.
    """
    h = x[:, None] @ weight
    scores = (h @ left[..., None]) + (h @ right[..., None]).transpose(-1, -2)
    scores = leaky_relu(scores, _SLOPE) + edges.log()
    return torch.softmax(scores, -1) @ h


def embed(
    similarity: NDArray[np.float64],
    density: NDArray[np.float64],
    *,
    dimensions: int = 8,
    links: int = 5,
    steps: int = 300,
    seeds: int = 10,
    learning_rate: float = 5e-3,
    seed: int = 0,
) -> Embedding:
    """Embed tasks with a two-layer graph attention network that is trained as an auto-encoder of the graph.

    Minimises the sum over pairs of ``(sigmoid(z_a . z_b) - sigmoid(C_ab))^2``, C the :func:`contrast` of the
    similarities, from several random starts, all trained at once, and keeps the best. A task's features are its row of
    C and its standardised density; its links weigh ``sigmoid(C_ab)``.

    Args:
        similarity: (T, T) weights W in [0, 1], 1 on the diagonal.
        density: (T,) how far the task's own gradients are apart.
        dimensions: of the embedding.
        links: links of a task in the graph, most similar first.
        steps: of Adam.
        seeds: random starts.
        learning_rate: of Adam.
        seed: of the starts.

    Cost: `seeds` x `steps` passes of a network with T x T attention: seconds for tens of tasks.

    Source: arXiv 2412.04413 names a graph attention network; features, layers, loss and settings are reconstructed.

    Example:
        >>> w = np.kron(np.eye(2), np.full((3, 3), 0.9)) + 0.1
        >>> found = embed(w, np.ones(6), steps=200, seeds=2, links=2)
        >>> bool(found.weights[0, 1] > 0.7), bool(found.weights[0, 5] < 0.4)
        (True, True)
    """
    scores = contrast(similarity)
    target = torch.sigmoid(torch.from_numpy(scores))
    spread = float(density.std())
    own = (density - density.mean()) / (spread if spread > 1e-9 * abs(float(density.mean())) else 1.0)
    x = torch.from_numpy(np.concatenate([scores, own[:, None]], 1))
    edges = target * torch.from_numpy(neighbours(similarity, links))
    parameters = _start(x.shape[1], dimensions, seeds, seed)
    solver = torch.optim.Adam(parameters, lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            losses = _losses(_points(x, parameters, edges), target)
            solver.zero_grad()
            losses.sum().backward()  # the starts share no parameter, and Adam works entry by entry
            solver.step()
    with torch.no_grad():
        points = _points(x, parameters, edges)
        losses = _losses(points, target)
        best = points[int(losses.argmin())]
        return Embedding(best.numpy(), torch.sigmoid(best @ best.T).numpy(), losses.numpy())


def embedding_flops(tasks: int, *, dimensions: int, steps: int, seeds: int) -> float:
    """FLOPs of the matrix products of :func:`embed`; a backward pass counts as two forward passes.

    Example:
        >>> embedding_flops(10, dimensions=8, steps=1, seeds=1)
        133440.0
    """
    first = 2.0 * tasks * (tasks + 1) * HIDDEN + 2 * tasks**2 * HIDDEN
    second = HEADS * (2.0 * tasks * HIDDEN * dimensions + 2 * tasks**2 * dimensions)
    scores = 4.0 * tasks * (HIDDEN + HEADS * dimensions)
    return 3 * seeds * steps * (first + second + scores + 2 * tasks**2 * dimensions)


def _start(inputs: int, dimensions: int, seeds: int, seed: int) -> list[Tensor]:
    """Glorot-uniform parameters of both layers: weight, left, right, each (seeds, heads, ...)."""
    generator = torch.Generator().manual_seed(seed)
    made: list[Tensor] = []
    for fan_in, fan_out in ((inputs, HIDDEN // HEADS), (HIDDEN, dimensions)):
        for shape, fan in (((fan_in, fan_out), fan_in + fan_out), ((fan_out,), fan_out + 1), ((fan_out,), fan_out + 1)):
            drawn = torch.rand(seeds, HEADS, *shape, generator=generator, dtype=torch.float64)
            made.append(((2 * drawn - 1) * (6 / fan) ** 0.5).requires_grad_())
    return made


def _points(x: Tensor, parameters: list[Tensor], edges: Tensor) -> Tensor:
    """(S, T, dimensions): heads side by side after the first layer, their mean after the second."""
    hidden = attend(x.expand(len(parameters[0]), -1, -1), parameters[0], parameters[1], parameters[2], edges)
    hidden = elu(hidden.transpose(1, 2).flatten(2))
    return attend(hidden, parameters[3], parameters[4], parameters[5], edges).mean(1)


def _losses(points: Tensor, target: Tensor) -> Tensor:
    apart = (torch.sigmoid(points @ points.transpose(1, 2)) - target).square()
    return apart.sum((1, 2)) - apart.diagonal(dim1=1, dim2=2).sum(1)
