"""Balance tasks in an own training loop: one call takes the place of backward() and step()."""

import torch
from torch import nn

from coterie.balancing import get_balancer

torch.manual_seed(0)
x = torch.randn(512, 8)
y = torch.sin(x @ torch.randn(8, 3)) * torch.tensor([0.1, 1.0, 10.0])  # three tasks on very different scales


def train(method):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    balancer = get_balancer(method, tasks=3)
    for _ in range(100):
        for rows in torch.randperm(len(x)).split(64):
            # (tasks,) losses of this batch at the present parameters; NaN for a task without labels in it
            balancer.step(lambda rows=rows: (model(x[rows]) - y[rows]).square().mean(0), optimizer)
    return (model(x) - y).square().mean(0) / y.var(0)


if __name__ == "__main__":
    for method in ("equal", "marigold"):
        print(f"{method:9s} share of the variance left, task by task: {[round(v, 3) for v in train(method).tolist()]}")
