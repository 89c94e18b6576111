"""Six small workloads on made-up data; numbers are multiples of 1/8, so that other processors read the same bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from coterie.workload import Recipe, Task, Workload, from_arrays, from_text
from reference import tiny_text

RECIPE = Recipe(epochs=6, batch_size=16, check_every=4, learning_rate=0.02)
ROWS = 128


def numbers(columns: int, seed: int = 0) -> np.ndarray:
    """(ROWS, columns) multiples of 1/8 between -2 and 2."""
    return np.random.default_rng(seed).integers(-16, 17, size=(ROWS, columns)) / 8


def signs(x: np.ndarray) -> np.ndarray:
    """Four binary tasks, two of a kind."""
    margins = (x[:, 0], x[:, 0] + x[:, 1] / 4, x[:, 2] * x[:, 3], x[:, 2] * x[:, 3] - x[:, 4] / 4)
    return np.stack([margin > 0 for margin in margins], 1).astype(float)


def plain() -> Workload:
    """Binary tasks, every label known."""
    x = numbers(6)
    return from_arrays(x, signs(x), tasks=list("abcd"), recipe=RECIPE, hidden=(8,), name="plain", standardize=False)


def missing() -> Workload:
    """The same with a third of the labels."""
    x = numbers(6, 1)
    y = signs(x)
    y[np.random.default_rng(2).random(y.shape) < 0.6] = np.nan
    return from_arrays(x, y, tasks=list("abcd"), recipe=RECIPE, hidden=(8,), name="missing", standardize=False)


def multiclass() -> Workload:
    """Classes: three, four and two."""
    x = numbers(5, 3)
    y = np.stack([np.digitize(x[:, 0], [-0.5, 0.5]), np.digitize(x[:, 1], [-1, 0, 1]), x[:, 0] > 0], 1).astype(float)
    tasks = [Task("three", "multiclass", classes=3), Task("four", "multiclass", classes=4), Task("two")]
    return from_arrays(x, y, tasks=tasks, recipe=RECIPE, hidden=(8,), name="multiclass", standardize=False)


def mixed() -> Workload:
    """A binary, a multi-class and two regression tasks, standardised."""
    x = numbers(5, 4)
    y = np.stack([x[:, 0] > 0, np.digitize(x[:, 0], [-0.5, 0.5]), 10 + 4 * x[:, 1], x[:, 1] - x[:, 0]], 1)
    tasks = [Task("yes"), Task("class", "multiclass", classes=3), Task("high", "regression"), Task("low", "regression")]
    return from_arrays(x, y.astype(float), tasks=tasks, recipe=RECIPE, hidden=(8,), name="mixed")


class Normed(nn.Module):
    """A trunk with BatchNorm and one layer for all heads."""

    def __init__(self) -> None:
        super().__init__()
        # no bias: BatchNorm takes it away again, so that rounding alone would decide where Adam moves it
        self.trunk = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(self.trunk(batch))


def build(seed: int) -> nn.Module:
    """A network of seed's own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Normed()


def batchnorm() -> Workload:
    """A network of one's own."""
    x = numbers(6, 5)
    y = signs(x)
    return from_arrays(x, y, tasks=list("abcd"), recipe=RECIPE, build_model=build, name="batchnorm", standardize=False)


def text() -> Workload:
    """Three tasks with texts of their own, on a transformer of random numbers."""
    named = tiny_text.tasks(30)
    recipe = Recipe(learning_rate=0.01, epochs=3, batch_size=16, check_every=4)
    tasks = {name: named[name] for name in ("tone", "animal", "length")}
    model = tiny_text.model(num_hidden_layers=1)
    with torch.no_grad():
        for parameter in model.parameters():  # normal numbers differ in last digits between processors
            parameter.copy_((parameter * 8).round() / 8)
    return from_text(tasks, model, tiny_text.tokenizer(), lora=1, max_length=16, recipe=recipe, name="text")


#: name -> how a run of it is made
ALL = {
    "plain": {"groups": 2, "seeds": 2, "bases": 2},
    "missing": {"budget": 2, "seeds": 2, "bases": 1},
    "multiclass": {"seeds": 2, "bases": 1},
    "mixed": {"groups": 2, "seeds": 2, "bases": 1},
    "batchnorm": {"groups": 2, "seeds": 2, "method": "task-vectors"},
    "text": {"groups": 2, "seeds": 2, "bases": 1},
}
