"""Tasks on the nodes of one graph with a PyTorch Geometric network: from arrays to served predictions."""

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

import coterie
from coterie.workload import from_graph

NODES, TASKS = 200, ["a", "b", "c", "d"]
rng = np.random.default_rng(0)
place = rng.normal(size=(NODES, 2))
near = np.linalg.norm(place[:, None] - place, axis=2) < 0.4  # points that are close are linked
edges = np.stack(np.nonzero(near & ~np.eye(NODES, dtype=bool)))
x = np.concatenate([place, rng.normal(size=(NODES, 4))], 1).astype("float32")
around = near @ x / near.sum(1, keepdims=True)  # what the tasks are about: the mean over the neighbourhood
first, second = around[:, 0], around[:, 3]
noise = rng.normal(size=(NODES, 4)) * 0.3
y = np.stack([first, -first, second, second + 0.3 * first], 1) + noise > 0


class Net(nn.Module):
    """One row of outputs for every node of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(6, 16)
        self.heads = nn.ModuleDict({name: nn.Linear(16, 1) for name in TASKS})

    def forward(self, x: Tensor, edge_index: Tensor) -> dict[str, Tensor]:
        hidden = self.conv(x, edge_index).relu()
        return {name: head(hidden) for name, head in self.heads.items()}


recipe = coterie.Recipe(epochs=20, batch_size=64, learning_rate=1e-2)
workload = from_graph(x, edges, y, tasks=TASKS, model=Net(), recipe=recipe, name="graph")

if __name__ == "__main__":
    torch.set_num_threads(1)
    result = coterie.run(workload, groups=2, seeds=2, out="runs/graph")
    print(result)
    predictor = coterie.load("runs/graph", workload=workload)
    for name, values in predictor.predict(np.array([0, 1, 2])).items():  # three nodes
        print(name, values.round(2).tolist())
