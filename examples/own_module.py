"""Own data, an own module with BatchNorm, three kinds of tasks, missing labels: from arrays to served predictions."""

import numpy as np
from torch import Tensor, nn

import coterie

rng = np.random.default_rng(0)
x = rng.normal(size=(600, 8)).astype("float32")
signal = x @ rng.normal(size=(8, 3))
y = np.column_stack(
    [
        signal[:, 0] > 0,  # binary
        signal[:, 0] + rng.normal(size=600) > 0.5,  # binary, related to the first
        signal[:, 1] + 0.1 * rng.normal(size=600),  # regression
        np.digitize(signal[:, 2], [-1.0, 1.0]),  # three classes
    ]
).astype(float)
y[rng.random(y.shape) < 0.3] = np.nan  # a missing label

TASKS = [
    coterie.Task("active", "binary"),
    coterie.Task("toxic", "binary"),
    coterie.Task("solubility", "regression"),
    coterie.Task("family", "multiclass", classes=3),
]


class Net(nn.Module):
    """A trunk with BatchNorm and one linear head a task; trunk and heads are found by Coterie."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.heads = nn.ModuleDict({task.name: nn.Linear(32, task.width) for task in TASKS})

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        hidden = self.trunk(batch)
        return {name: head(hidden) for name, head in self.heads.items()}


recipe = coterie.Recipe(epochs=8, batch_size=32, learning_rate=1e-2)
workload = coterie.from_arrays(x, y, tasks=TASKS, build_model=lambda seed: Net(), recipe=recipe, name="own module")

if __name__ == "__main__":
    result = coterie.run(workload, groups=2, seeds=2, bases=2, out="runs/own-module")
    print(result)
    predictor = coterie.load("runs/own-module", build_model=lambda seed: Net())
    for name, values in predictor.predict(x[:3]).items():
        print(name, values.round(2).tolist())
