"""A study of PyTorch Lightning modules: Lightning trains each run in its own way, the study chooses the tasks."""

import logging
import warnings

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import coterie

TASKS = ["speed", "height", "mass"]
data = torch.Generator().manual_seed(0)
x = torch.randn(256, 10, generator=data)
y = (x @ torch.randn(10, 2, generator=data))[:, [0, 0, 1]] + torch.randn(256, 3, generator=data)


class Net(lightning.LightningModule):
    """One network for some tasks."""

    def __init__(self, columns):
        super().__init__()
        self.columns = columns
        self.net = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.ReLU(), torch.nn.Linear(8, len(columns)))

    def losses(self, batch):
        inputs, labels = batch
        return ((self.net(inputs) - labels[:, self.columns]) ** 2).mean(0)

    def training_step(self, batch, number):
        return self.losses(batch).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.03)


def train(tasks, seed):
    lightning.seed_everything(seed, verbose=False)
    net = Net([TASKS.index(task) for task in tasks])
    trainer = lightning.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(net, DataLoader(TensorDataset(x[:128], y[:128]), batch_size=32, shuffle=True))
    with torch.no_grad():
        return dict(zip(tasks, net.losses((x[128:], y[128:])), strict=True))


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    study = coterie.create_study("physics", tasks=TASKS, models=2, load_if_exists=True)
    study.optimize(train, runs=6)
    print(study.recommend().text)
