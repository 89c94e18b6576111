"""Node features that are spread over the edges of a graph once, so that a node becomes a row of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._check import choice, is_whole
from coterie._surface import known_arguments
from coterie.errors import SettingError, WorkloadError
from coterie.workload.arrays import as_inputs
from coterie.workload.graph import node_numbers

#: how the edges into a node are weighted
WEIGHTINGS = ("symmetric", "mean")
#: bytes of the copies that a block of columns takes in one hop, beside the result; one column is taken at least
BLOCK = 2**28


@known_arguments
def propagate(
    x: Any,
    edge_index: Any,
    *,
    hops: int = 2,
    weighting: str = "symmetric",
    self_loops: bool = True,
    keep: str = "all",
) -> NDArray[np.float32]:
    """Node features, and their weighted means over neighbours up to some hops away, as rows for ``from_arrays``.

    What a graph network does in every pass is done once: afterwards a row is all that is known of its node, so models
    are trained in batches, many at once, and the graph is not needed any more. There are no nonlinear functions
    between the hops; a linear model of the last hop is SGC, any model of all hops is SIGN.

    Args:
        x: (nodes, features), numbers.
        edge_index: (2, edges) node numbers, from source to target, in any order; an undirected edge is listed both
            ways. Edges that are listed twice count twice; edges from a node to itself are replaced by `self_loops`.
        hops: how often features are passed on, at least 1.
        weighting: ``"symmetric"``, 1 / sqrt(degree of source x degree of target); ``"mean"``, 1 / degree of target.
            A degree is the number of edges into a node. Nodes without any get zeros.
        self_loops: give every node an edge to itself, as SGC does; PyTorch Geometric's SIGN does without.
        keep: ``"all"``, `x` and every hop beside each other; ``"last"``, the last hop alone.

    Returns:
        (nodes, features x (hops + 1)) float32, `x` first; with ``keep="last"`` (nodes, features).

    Raises:
        WorkloadError: when features or edges cannot be used as they are.
        SettingError: when another argument is out of range.

    Cost: hops x edges x features multiplications on one thread; in memory the result, about 40 bytes an edge while
        edges are sorted, and columns in blocks of 256 MiB.

    Source: Wu et al., "Simplifying graph convolutional networks", 2019 (SGC); Frasca et al., "SIGN: Scalable inception
    graph neural networks", 2020.

    Example:
        >>> x = np.array([[1.0], [0.0], [4.0]])
        >>> propagate(x, np.array([[0, 2], [1, 1]]), hops=1, weighting="mean", self_loops=False).tolist()
        [[1.0, 0.0], [0.0, 2.5], [4.0, 0.0]]
    """
    choice(weighting, "weighting", WEIGHTINGS)
    choice(keep, "keep", ("all", "last"))
    if not is_whole(hops) or hops < 1:
        raise SettingError(
            f"Parameter `hops` should be a whole number of at least 1. Found {hops!r}. Without hops, give "
            "`x` itself to from_arrays."
        )
    features = as_inputs(x, own_model=False)
    if isinstance(features, dict) or features.dim() != 2:
        found = "a mapping" if isinstance(features, dict) else f"shape {tuple(features.shape)}"
        raise WorkloadError(
            f"Parameter `x` should be one array (nodes, features). Found {found}. Put what belongs to a node "
            "into one row; nodes without features take numpy.eye(nodes)."
        )
    values = features.detach().cpu().numpy().astype(np.float32, copy=False)
    edges = node_numbers(edge_index, "edge_index", len(values), "(2, edges)", rows=2).numpy()
    matrix, into, out = _weighted(edges, len(values), weighting, self_loops=self_loops)
    width = values.shape[1]
    result = np.empty((len(values), width * (hops + 1 if keep == "all" else 1)), dtype=np.float32)
    block = max(1, BLOCK // (3 * 4 * max(1, len(values))))
    for start in range(0, width, block):
        at = slice(start, min(width, start + block))
        columns = values[:, at]
        for hop in range(hops + 1):
            if hop:
                columns = into[:, None] * (matrix @ (columns if out is None else out[:, None] * columns))
            if keep == "all" or hop == hops:
                first = width * hop * (keep == "all")
                result[:, first + at.start : first + at.stop] = columns
    return result


def _weighted(edges: NDArray[np.int64], nodes: int, weighting: str, *, self_loops: bool) -> tuple[Any, Any, Any]:
    """Matrix of the numbers of edges, a row a target; factors of its rows; factors of its columns, or None."""
    from scipy import sparse

    source, target = edges[:, edges[0] != edges[1]].astype(np.int32)
    counts = np.ones(len(source), dtype=np.float32)
    matrix = sparse.coo_matrix((counts, (target, source)), shape=(nodes, nodes)).tocsr()
    if self_loops:
        matrix = matrix + sparse.identity(nodes, dtype="float32", format="csr")
    degree = np.bincount(target, minlength=nodes).astype(np.float64) + self_loops
    power = 0.5 if weighting == "symmetric" else 1.0
    factor = np.where(degree > 0, np.maximum(degree, 1) ** -power, 0).astype(np.float32)
    return matrix, factor, factor if weighting == "symmetric" else None
