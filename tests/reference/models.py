"""Small models of many kinds, with workloads that fit them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coterie.workload import Split, Task, Workload

ROWS = 14


class MlpHeads(nn.Module):
    """Trunk and a ModuleList of heads."""

    def __init__(self, inputs: int, tasks: int, head: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(inputs, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh())
        self.heads = nn.ModuleList(head() for _ in range(tasks))

    def forward(self, x: Tensor) -> list[Tensor]:
        z = self.trunk(x)
        return [head(z) for head in self.heads]


class Recurrent(nn.Module):
    """Embedding, GRU or LSTM, one fused head."""

    def __init__(self, kind: type[nn.RNNBase], tasks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.rnn = kind(4, 5, batch_first=True)
        self.head = nn.Linear(5, tasks)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(x.long()))[0][:, -1])


class Attention(nn.Module):
    """TransformerEncoderLayer with dropout and a fused head."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, tasks)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(x.long())).mean(1))


class TwoInputs(nn.Module):
    """Takes a dict of inputs by keyword."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)
        self.head = nn.Linear(4, tasks)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(left) * self.right(right)))


def conv(tasks: int) -> nn.Module:
    """Convolution, BatchNorm with statistics of its own, ReLU, pooling, fused head."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, tasks)
    )
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 2, 6, 6))
    return model


def mlp(tasks: int) -> nn.Module:
    """Plain chain with a fused head."""
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, tasks))


def make(kind: str, *, missing: float = 0.3, seed: int = 0) -> tuple[Workload, nn.Module]:
    """A workload and a model of a kind; three binary tasks and a regression, or with multi-class tasks."""
    torch.manual_seed(seed)
    tasks: tuple[Task, ...] = (Task("a"), Task("b"), Task("c", "regression"))
    inputs: Tensor | dict[str, Tensor] = torch.randn(ROWS, 5)
    if kind == "multiclass":
        tasks = (
            Task("a"),
            Task("b", "multiclass", classes=3),
            Task("c", "multiclass", classes=4),
            Task("d", "regression"),
        )
    width = sum(task.width for task in tasks)
    if kind in ("mlp", "multiclass"):
        model: nn.Module = mlp(width)
    elif kind == "linear heads":
        model = MlpHeads(5, len(tasks), lambda: nn.Linear(5, 1))
    elif kind == "deep heads":
        model = MlpHeads(5, len(tasks), lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)))
    elif kind == "conv":
        model, inputs = conv(width), torch.randn(ROWS, 2, 6, 6)
    elif kind in ("gru", "lstm"):
        model, inputs = Recurrent(nn.GRU if kind == "gru" else nn.LSTM, width), torch.randint(0, 7, (ROWS, 6))
    elif kind == "attention":
        model, inputs = Attention(width), torch.randint(0, 7, (ROWS, 6))
    elif kind == "dict":
        model, inputs = TwoInputs(width), {"left": torch.randn(ROWS, 3), "right": torch.randn(ROWS, 2)}
    else:
        raise ValueError(kind)
    return workload_for(tasks, inputs, model, missing=missing), model


def workload_for(
    tasks: tuple[Task, ...], inputs: Tensor | dict[str, Tensor], model: nn.Module, *, missing: float = 0.0
) -> Workload:
    """Labels at random, some missing; training rows are not in order, so that row numbers matter."""
    rows = len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)
    columns = []
    for task in tasks:
        if task.kind == "regression":
            columns.append(torch.randn(rows))
        else:
            columns.append(torch.randint(0, task.classes or 2, (rows,)).float())
    labels = torch.stack(columns, 1)
    labels[torch.rand(labels.shape) < missing] = torch.nan
    labels[0, 0] = 1.0
    order = torch.randperm(rows)
    cut = (rows * 2) // 3
    split = Split(order[:cut], order[cut:], order[cut:])
    return Workload("test", tasks, inputs, labels, split, lambda seed: model)


KINDS = ("mlp", "multiclass", "linear heads", "deep heads", "conv", "gru", "lstm", "attention", "dict")
