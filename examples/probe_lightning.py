"""A probe in a Lightning training: who helps whom, from the training on all tasks that runs anyway."""

import logging
import warnings

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import coterie

TASKS = ["speed", "height", "mass"]
data = torch.Generator().manual_seed(0)
x = torch.randn(512, 10, generator=data)
y = (x @ torch.randn(10, 2, generator=data))[:, [0, 0, 1]] + torch.randn(512, 3, generator=data)


class Net(lightning.LightningModule):
    """One network for all tasks."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

    def losses(self, batch):
        inputs, labels = batch
        return ((self.net(inputs) - labels) ** 2).mean(0)

    def training_step(self, batch, number):
        return self.losses(batch).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    lightning.seed_everything(0, verbose=False)
    module = Net()
    probe = coterie.probe(module, None, TASKS, every=5)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[probe.lightning(lambda module, batch: module.losses(batch))],
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=32))
    found = probe.affinity("tag")
    print(found.to_frame().round(4))
    print(coterie.group(found, k=2).names)
    for row in probe.history[::3]:
        print(f"step {row['step']:.0f}: mean cosine {row['cosine']:+.2f}, {row['conflicts']:.0%} of pairs in conflict")
