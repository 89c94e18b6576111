"""A workload from one graph: tasks on its nodes, or on pairs of its nodes."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import VmapInterpreter, retrieve_all_functorch_interpreters

from coterie._check import choice, is_whole
from coterie._read import read_array
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.errors import ModelError, SettingError, WorkloadError, require
from coterie.workload.arrays import as_inputs, input_names, paired, row_labels
from coterie.workload.build import FRACTIONS, from_arrays
from coterie.workload.builders import TasksLike, fresh_copies, labels_and_tasks, seeded
from coterie.workload.checks import as_widths
from coterie.workload.recipe import Recipe
from coterie.workload.split import SplitLike, by_position
from coterie.workload.validate_model import warn_labels_among_inputs
from coterie.workload.workload import BuildModel, Workload

#: name in ``torch_geometric.nn`` of each kind of layer
LAYERS = {"sage": "SAGEConv", "gcn": "GCNConv", "gat": "GATConv"}


class GraphModel(nn.Module):
    """A network together with the graph that it runs on; a batch is node numbers (rows,) or pairs of them (rows, 2).

    Every pass runs over the whole graph and then picks the rows of the batch, so rows do not depend on the batch that
    they are in. The graph is not part of ``state_dict``; a digest of it is, so that stored results of another graph are
    not mistaken for this one's. It refuses ``torch.func.vmap``: stacked message passing would take the memory of the
    whole graph once a member.

    Args:
        model: ``model(x, edge_index)`` -> one row of outputs a node; with a third argument that has no default,
            ``model(x, edge_index, rows)`` -> one row of outputs for each row of the batch.
        x: (nodes, features).
        edge_index: (2, edges) node numbers, from source to target.
        edge_values: name -> (edges, ...), passed by keyword.
        digest: of the graph; a few whole numbers.
    """

    x: Tensor
    edge_index: Tensor
    #: a pass costs the same for any rows; see :func:`whole_pass`
    whole_pass = True

    def __init__(
        self, model: nn.Module, x: Tensor, edge_index: Tensor, edge_values: Mapping[str, Tensor], digest: Tensor
    ) -> None:
        super().__init__()
        self.model = model
        self.takes_rows = takes_rows(model)
        self.edge_names = tuple(edge_values)
        self.register_buffer("x", x, persistent=False)
        self.register_buffer("edge_index", edge_index, persistent=False)
        for name, value in edge_values.items():
            self.register_buffer(f"edge_{name}", value, persistent=False)
        self.register_buffer("graph_digest", digest.clone())

    def forward(self, rows: Tensor) -> Any:
        """Outputs of some nodes or pairs of nodes, in the form in which the network returns them."""
        _refuse_vmap()
        # copies, as the network may write into them
        x, edge_index = self.x.clone(), self.edge_index.clone()
        values = {name: getattr(self, f"edge_{name}").clone() for name in self.edge_names}
        if self.takes_rows:
            return self.model(x, edge_index, rows, **values)
        outputs = self.model(x, edge_index, **values)
        if isinstance(outputs, Mapping):
            named = cast("Mapping[str, Tensor]", outputs)
            return {name: self._pick(value, rows) for name, value in named.items()}
        if isinstance(outputs, Sequence):
            return [self._pick(value, rows) for value in cast("Sequence[Tensor]", outputs)]
        return self._pick(outputs, rows)

    def _pick(self, outputs: Tensor, rows: Tensor) -> Tensor:
        if outputs.shape[:1] != self.x.shape[:1]:
            raise ModelError(
                f"The network should return one row of outputs a node. Found {tuple(outputs.shape)} for "
                f"{len(self.x)} nodes. The likely cause is a pooling over the nodes, or a network for pairs of nodes, "
                "which takes them as a third argument: forward(self, x, edge_index, rows)."
            )
        return outputs[rows]


class GraphNet(nn.Module):
    """Layers of PyTorch Geometric with ReLU after each, then one fused linear head.

    For a pair of nodes the head reads a hidden layer over (source, target, source x target).

    Args:
        n_inputs: node features.
        hidden: widths of the message-passing layers; at least one.
        n_outputs: sum of the widths of the tasks.
        layer: ``"sage"`` (mean of the neighbours beside the node itself), ``"gcn"`` or ``"gat"``.
        pairs: rows are pairs of nodes.

    Raises:
        SettingError: for an unknown layer or widths that are no whole numbers of at least 1.
        MissingDependencyError: without PyTorch Geometric.

    Source: Hamilton, Ying, Leskovec, "Inductive representation learning on large graphs", 2017 (sage); Kipf, Welling,
    "Semi-supervised classification with graph convolutional networks", 2017 (gcn); Velickovic et al., "Graph attention
    networks", 2018 (gat); the layers are those of torch_geometric.

    Example:
        >>> net = GraphNet(3, [8], 2)
        >>> net(torch.zeros(4, 3), torch.tensor([[0, 1], [1, 2]]), torch.tensor([0, 3])).shape
        torch.Size([2, 2])
    """

    def __init__(
        self, n_inputs: int, hidden: Sequence[int], n_outputs: int, *, layer: str = "sage", pairs: bool = False
    ) -> None:
        super().__init__()
        choice(layer, "layer", sorted(LAYERS))
        if not hidden or any(not is_whole(width) or width < 1 for width in hidden):
            raise SettingError(
                "Parameter `hidden` should hold the width of each message-passing layer, at least one, each a whole "
                f"number of at least 1. Found {hidden!r}. For example hidden=(32, 32)."
            )
        geometric = require("torch_geometric.nn", extra="graphs", purpose="The built-in network for graphs")
        make: Callable[[int, int], nn.Module] = getattr(geometric, LAYERS[layer])
        widths = [n_inputs, *hidden]
        self.convs = nn.ModuleList(make(a, b) for a, b in itertools.pairwise(widths))
        last = widths[-1]
        self.pair = nn.Linear(3 * last, last) if pairs else None
        self.head = nn.Linear(last, n_outputs)

    def forward(self, x: Tensor, edge_index: Tensor, rows: Tensor) -> Tensor:
        """(rows, n_outputs)."""
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        x = x[rows]
        if self.pair is not None:
            source, target = x.unbind(1)
            x = self.pair(torch.cat([source, target, source * target], 1)).relu()
        return self.head(x)


def takes_rows(model: nn.Module) -> bool:
    """Whether the network has a third positional argument without a default, which receives the rows.

    Example:
        >>> takes_rows(nn.Bilinear(2, 2, 1)), takes_rows(GraphNet(3, [4], 1))
        (False, True)
    """
    parameters = inspect.signature(model.forward).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in positional) > 2


def whole_pass(model: nn.Module) -> bool:
    """Whether a pass costs the same for any rows, since it runs over all that the module holds (a graph).

    Example:
        >>> whole_pass(nn.Linear(2, 1))
        False
    """
    return bool(getattr(model, "whole_pass", False))


def _refuse_vmap() -> None:
    """Raise when the pass runs under vmap, directly or with another transform around or inside it."""
    if any(isinstance(each, VmapInterpreter) for each in retrieve_all_functorch_interpreters()):
        raise RuntimeError("a pass over the whole graph is not stacked with others (torch.func.vmap)")


@short_repr
@dataclass(frozen=True, eq=False)
class Graph:
    """A graph as tensors: node features (nodes, ...), `edge_index` (2, edges), values (edges, ...) of the edges."""

    x: Tensor
    edge_index: Tensor
    edge_values: Mapping[str, Tensor]

    def digest(self) -> Tensor:
        """SHA-256 of all its numbers as four int64."""
        found = hashlib.sha256()
        for name, value in (("x", self.x), ("edge_index", self.edge_index), *sorted(self.edge_values.items())):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return torch.from_numpy(np.frombuffer(found.digest(), dtype="<i8").astype(np.int64))


@dataclass(frozen=True, eq=False)
class GraphBuilder:
    """seed -> a :class:`GraphModel`: a fresh network with the one graph, which all networks share in memory."""

    network: BuildModel
    graph: Graph
    digest: Tensor

    def __call__(self, seed: int) -> GraphModel:
        """The model of a seed."""
        graph = self.graph
        return GraphModel(self.network(seed), graph.x, graph.edge_index, graph.edge_values, self.digest)


@dataclass(frozen=True)
class NetBuilder:
    """seed -> a fresh :class:`GraphNet`."""

    n_inputs: int
    hidden: tuple[int, ...]
    n_outputs: int
    layer: str
    pairs: bool

    def __call__(self, seed: int) -> GraphNet:
        """The network of a seed; torch is seeded by the caller."""
        del seed
        return GraphNet(self.n_inputs, self.hidden, self.n_outputs, layer=self.layer, pairs=self.pairs)


@known_arguments
def from_graph(
    x: Any,
    edge_index: Any,
    y: Any,
    *,
    pairs: Any = None,
    edge_values: Mapping[str, Any] | None = None,
    tasks: TasksLike | None = None,
    model: nn.Module | None = None,
    build_model: Callable[..., nn.Module] | None = None,
    initial: str = "auto",
    layer: str = "sage",
    hidden: Sequence[int] | int = (32, 32),
    recipe: Recipe | Mapping[str, Any] | None = None,
    split: SplitLike = FRACTIONS,
    seed: int = 0,
    name: str = "workload",
    known_groups: Sequence[Sequence[str]] | None = None,
) -> Workload:
    """A workload whose rows are the nodes of one graph, or pairs of its nodes (links).

    Every pass runs over the whole graph, whatever the batch; labels of other parts of the split are never seen, node
    features and edges are. For links, leave the edges that are to be predicted out of `edge_index`.

    Args:
        x: (nodes, features), floating-point, in a scale that suits the network (it is not standardised); whole numbers
            are kept as they are for a network of your own. Networks without features take numpy.eye(nodes).
        edge_index: (2, edges) node numbers, from source to target; an undirected edge is listed both ways.
        y: labels (nodes, tasks), or (pairs, tasks) with `pairs`; NaN where missing.
        pairs: (rows, 2) node numbers (source, target) that the rows of `y` are about; None: the nodes, in their order.
        edge_values: name -> (edges, ...) weights or types of edges, passed to a network of your own by keyword.
        tasks: as for :func:`coterie.workload.from_arrays`.
        model: a network of your own, ``model(x, edge_index)`` -> one row of outputs a node. With a third argument that
            has no default, ``model(x, edge_index, rows)`` -> one row of outputs for each node or pair asked for; so
            must networks for pairs be, and with a linear head after the choice of rows its features are exact.
        build_model: in place of `model`, a function of the seed, or of nothing, or a Module class.
        initial: of `model`, as for :func:`coterie.workload.from_arrays`.
        layer: of the built-in network, ``"sage"``, ``"gcn"`` or ``"gat"`` (needs PyTorch Geometric, extra ``graphs``).
        hidden: widths of its layers.
        recipe: how every model is trained; a large batch costs little more than a small one.
        split: fractions of (train, validation, test), a :class:`Split`, or a mapping of these names to row numbers or
            masks over the rows.
        seed: of the random split.
        name: for tables and reports.
        known_groups: groups of task names to compare the found ones with.

    Raises:
        WorkloadError: when graph, pairs or labels cannot be used as they are.
        SettingError: when another argument is of the wrong type or out of range.
        ModelError: when the network cannot be copied or called.
        MissingDependencyError: for the built-in network without PyTorch Geometric.

    Cost: models are trained one after the other, and directions of features one at a time.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, edges = rng.normal(size=(60, 5)), rng.integers(0, 60, size=(2, 200))
        >>> workload = from_graph(x, edges, x[:, :3] > 0, tasks=["a", "b", "c"])
        >>> tuple(workload.inputs.shape), tuple(workload.outputs(workload.build_model(0), torch.arange(4)).shape)
        ((60,), (4, 3))
    """
    if pairs is None:
        x, y = paired(x, y)
    else:
        pairs, y = paired(pairs, y, "Parameters `pairs` and `y`")
    names = input_names(x)
    split = by_position(split, row_labels(x if pairs is None else pairs, y))
    graph = _graph(x, edge_index, edge_values)
    nodes = len(graph.x)
    rows = torch.arange(nodes) if pairs is None else node_numbers(pairs, "pairs", nodes, "(rows, 2)", columns=2)
    labels, made = labels_and_tasks(
        y, tasks, len(rows),
        f"Parameter `y` should have one row a {'node' if pairs is None else 'pair'}. Found {{found}} rows for "
        f"{len(rows)}. Nodes without labels get rows of NaN.",
    )  # fmt: skip
    if pairs is None:
        warn_labels_among_inputs(graph.x, labels, made, names)
    if model is None and build_model is None:
        network = seeded(_built_in(graph, layer, hidden, sum(task.width for task in made), pairs=pairs is not None))
    else:
        network = _own(model, build_model, initial, pairs=pairs is not None)
    return from_arrays(
        rows.to(graph.x.device),
        labels,
        tasks=made,
        build_model=GraphBuilder(network, graph, graph.digest()),
        recipe=recipe,
        split=split,
        seed=seed,
        name=name,
        known_groups=known_groups,
    )


def _graph(x: Any, edge_index: Any, edge_values: Mapping[str, Any] | None) -> Graph:
    features = as_inputs(x, own_model=True)
    if isinstance(features, dict):
        raise WorkloadError(
            "Parameter `x` should be one array (nodes, features). Found a mapping; graphs with several kinds of nodes "
            "are not supported. Put the nodes below each other and give their kind as a feature."
        )
    edges = node_numbers(edge_index, "edge_index", len(features), "(2, edges)", rows=2).to(features.device)
    values: dict[str, Tensor] = {}
    for name, value in (edge_values or {}).items():
        made = as_inputs(value, own_model=True)
        if not name.isidentifier() or isinstance(made, dict) or len(made) != edges.shape[1]:
            found = "a mapping" if isinstance(made, dict) else f"{len(made)} rows"
            raise WorkloadError(
                f"Parameter `edge_values`: entry {name!r} should be named like an argument and hold one row an edge. "
                f"Found {found} for {edges.shape[1]} edges."
            )
        values[name] = made.to(features.device)
    return Graph(features, edges, values)


def node_numbers(
    values: Any, name: str, nodes: int, shape: str, *, rows: int | None = None, columns: int | None = None
) -> Tensor:
    """Node numbers, checked."""
    array = read_array(values, name)
    fits = array.ndim == 2 and rows in (None, array.shape[0]) and columns in (None, array.shape[1])
    if not fits or array.dtype.kind not in "iu":
        hint = " It seems to be transposed." if array.ndim == 2 and 2 in array.shape and not fits else ""
        raise WorkloadError(
            f"Parameter `{name}` should hold node numbers (whole numbers) in the shape {shape}. Found shape "
            f"{array.shape} and dtype {array.dtype}.{hint}"
        )
    if array.size and (array.min() < 0 or array.max() >= nodes):
        raise WorkloadError(
            f"Parameter `{name}` should hold node numbers from 0 to {nodes - 1}, the rows of `x`. Found "
            f"{array.min()} to {array.max()}. The likely cause is names or identifiers in place of positions, or nodes "
            "that were filtered out."
        )
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.int64)))


def _built_in(
    graph: Graph, layer: str, hidden: Sequence[int] | int, width: int, *, pairs: bool
) -> Callable[[int], nn.Module]:
    if graph.x.dim() != 2 or not graph.x.is_floating_point():
        raise WorkloadError(
            "Parameter `x`: the built-in network reads floating-point node features (nodes, features). Found shape "
            f"{tuple(graph.x.shape)} and dtype {graph.x.dtype}. Pass x.astype('float32'), or a `model` of your own."
        )
    if graph.edge_values:
        raise SettingError(
            "Parameter `edge_values` is for a network of your own; the built-in one does not read values of edges. "
            f"Found {sorted(graph.edge_values)[:5]}. Pass `model` or `build_model`."
        )
    build = NetBuilder(graph.x.shape[1], as_widths(hidden), width, layer, pairs)
    build(0)  # a wrong layer, width or a missing package is said now
    return build


def _own(
    model: nn.Module | None, build_model: Callable[..., nn.Module] | None, initial: str, *, pairs: bool
) -> BuildModel:
    if model is not None and build_model is not None:
        raise SettingError("Parameters `model` and `build_model` exclude each other. Give one of them.")
    network = fresh_copies(model, initial) if model is not None else seeded(build_model)
    if pairs and not takes_rows(network(0)):
        raise WorkloadError(
            "Parameter `model`: with `pairs`, the network should take them as a third argument without a default, "
            "forward(self, x, edge_index, rows) with rows (rows, 2), and return one row of outputs a pair."
        )
    return network
