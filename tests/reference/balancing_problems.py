"""Small problems with several losses and known gradients."""

import numpy as np
import torch
from torch import nn


class Quadratics:
    """Losses (x - c_j)' A_j (x - c_j) / 2 + 0.1 in float64; A_j positive definite."""

    def __init__(self, tasks, size=6, seed=0, spread=1.0):
        rng = np.random.default_rng(seed)
        roots = rng.normal(size=(tasks, size, size)) * np.exp(spread * rng.normal(size=(tasks, 1, 1))) ** 0.5
        self.A = torch.tensor(roots @ roots.transpose(0, 2, 1) / size + 0.1 * np.eye(size))
        self.c = torch.tensor(rng.normal(size=(tasks, size)))
        self.x = torch.tensor(rng.normal(size=size), requires_grad=True)
        self.tasks = tasks

    def losses(self, x=None):
        off = (self.x if x is None else x) - self.c
        return 0.5 * torch.einsum("ti,tij,tj->t", off, self.A, off) + 0.1

    def gradients(self, x=None):
        """(tasks, size), from the formula."""
        off = (self.x if x is None else x).detach() - self.c
        return torch.einsum("tij,tj->ti", self.A, off)

    @property
    def smoothness(self):
        return float(torch.linalg.eigvalsh(self.A)[:, -1].max())


class Net(nn.Module):
    """A trunk with dropout and BatchNorm, and one linear head a task; inputs of 5 columns."""

    def __init__(self, tasks, dropout=0.0, norm=False, width=16):
        super().__init__()
        parts = [nn.Linear(5, width), nn.BatchNorm1d(width) if norm else nn.Identity(), nn.Tanh(), nn.Dropout(dropout)]
        self.trunk = nn.Sequential(*parts)
        self.heads = nn.Linear(width, tasks)

    def forward(self, x):
        return self.heads(self.trunk(x))


def regression(tasks, rows=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator)
    y = torch.sin(x @ torch.randn(5, tasks, generator=generator)) * torch.arange(1, tasks + 1)
    return x, y


def setting(tasks=3, seed=0, dtype=torch.float32, **options):
    """A model, a function that gives the losses of its one batch, and plain gradient descent."""
    torch.manual_seed(seed)
    x, y = (part.to(dtype) for part in regression(tasks, seed=seed))
    model = Net(tasks, **options).to(dtype)
    return model, lambda: (model(x) - y).square().mean(0), torch.optim.SGD(model.parameters(), lr=0.05)
