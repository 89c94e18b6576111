"""Small workloads for the tests of training."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from coterie.workload import Recipe, Split, Task, Workload

KINDS = {
    "binary": [Task("a"), Task("b"), Task("c"), Task("d")],
    "regression": [Task(name, "regression") for name in "abcd"],
    "multiclass": [Task("a", "multiclass", classes=3), Task("b", "multiclass", classes=4)],
    "mixed": [Task("a"), Task("b", "regression"), Task("c", "multiclass", classes=3), Task("d")],
}


class Fused(nn.Module):
    """A trunk and one fused linear head."""

    def __init__(self, width, outputs):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU())
        self.head = nn.Linear(6, outputs)

    def forward(self, x):
        return self.head(self.trunk(x))


class Separate(nn.Module):
    """A trunk and one head module a task, with a hidden layer each."""

    def __init__(self, width, outputs):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(width, 8), nn.Tanh())
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, size)) for size in outputs)

    def forward(self, x):
        h = self.trunk(x)
        return [head(h) for head in self.heads]


def seeded(build):
    def build_model(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build()

    return build_model


def make(kind="mixed", *, rows=60, missing=0.0, blocks=False, separate=False, build=None, seed=0, **recipe):
    """A workload with learnable labels; `blocks`: one data set of another size for each task."""
    rng = np.random.default_rng(seed)
    tasks = KINDS[kind]
    x = rng.normal(size=(rows, 5)).astype(np.float32)
    y = np.zeros((rows, len(tasks)), np.float32)
    for index, task in enumerate(tasks):
        score = x @ rng.normal(size=5) + 0.3 * rng.normal(size=rows)
        if task.kind == "regression":
            y[:, index] = score / 2
        else:
            edges = np.quantile(score, np.linspace(0, 1, max(2, task.width) + 1)[1:-1])
            y[:, index] = np.digitize(score, edges)
    if missing:
        y[rng.random(y.shape) < missing] = np.nan
    if blocks:
        owner = np.minimum((np.arange(rows) * 2 * len(tasks) // rows) ** 2 // (4 * len(tasks)), len(tasks) - 1)
        y[np.arange(len(tasks))[None, :] != owner[:, None]] = np.nan
    order = torch.from_numpy(rng.permutation(rows))
    a, b = int(0.6 * rows), int(0.8 * rows)
    widths = [task.width for task in tasks]
    default = (lambda: Separate(5, widths)) if separate else (lambda: Fused(5, sum(widths)))
    settings = {"learning_rate": 0.02, "epochs": 4, "batch_size": 8, "check_every": 3, "weight_decay": 0.05, **recipe}
    return Workload(
        name="small",
        tasks=tuple(tasks),
        inputs=torch.from_numpy(x),
        labels=torch.from_numpy(y),
        split=Split(order[:a], order[a:b], order[b:]),
        build_model=seeded(build or default),
        recipe=Recipe(**settings),
    )
