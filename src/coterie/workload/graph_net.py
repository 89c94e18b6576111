"""Modules for tasks on a graph: one that holds the graph and picks rows, and a plain network of PyTorch Geometric."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import VmapInterpreter, retrieve_all_functorch_interpreters

from coterie._check import choice, is_whole
from coterie.errors import ModelError, SettingError, require

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
