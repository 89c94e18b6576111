"""Scores from a loop of one's own equal those of the methods on the same batches; and the loop goes on as without."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import coterie
from coterie.affinity.loop_probe import LoopProbe
from coterie.errors import ModelError, ResourceError, SettingError
from coterie.training.evaluate import row_losses
from coterie.training.job import BatchStream
from reference.training_workloads import make

NAMES = ["a", "b", "c", "d"]


class Dropping(nn.Module):
    """A trunk with dropout and normalisation, and one fused head."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 6)

    def forward(self, x):
        return self.head(self.trunk(x))


def own_loop(work, probe_of, steps=12):
    """A plain loop over the batches of a probe run; `probe_of` makes the probe. Returns it and the trained state."""
    model = work.build_model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.05)
    probe = probe_of(model, optimizer)
    stream = BatchStream(work.rows_of(range(4), "train"), work.recipe.batch_size, 0)
    torch.manual_seed(1)
    model.train()

    def losses(rows):
        values, seen = row_losses(work, model, rows)
        return torch.where(seen.any(0), values.sum(0) / seen.sum(0).clamp_min(1), math.nan)

    for step in range(steps):
        rows = stream.batch(step)
        if probe is not None:
            probe.step(lambda rows=rows: losses(rows))
        optimizer.zero_grad()
        values, seen = row_losses(work, model, rows)
        (values.sum() / seen.sum()).backward()
        optimizer.step()
    return probe, model.state_dict()


@pytest.mark.parametrize("missing", [0.0, 0.6])
def test_scores_equal_those_of_the_methods_on_the_same_batches(missing):
    work = make("mixed", missing=missing, rows=40, patience=None, epochs=4, batch_size=8)
    steps = 4 * BatchStream(work.rows_of(range(4), "train"), 8, 0).steps_per_epoch
    probe, _ = own_loop(work, lambda model, optimizer: coterie.probe(model, optimizer, NAMES, every=3), steps)
    for method in ("tag", "cosine", "etap"):
        for average in ("ratios", "pooled"):
            expected, _ = coterie.estimate_affinity(work, method=method, every=3, average=average, order="pairwise")
            found = probe.affinity(method, average=average)
            own = ~np.eye(4, dtype=bool)
            np.testing.assert_allclose(found.values[own], expected.values[own], rtol=1e-6, atol=1e-6)
    assert [row["step"] for row in probe.history] == list(range(0, steps, 3))
    assert all(0 <= row["conflicts"] <= 1 for row in probe.history)


def test_the_training_goes_on_as_without_a_probe():
    work = make("mixed", build=Dropping)
    _, plain = own_loop(work, lambda model, optimizer: None)
    probe, probed = own_loop(work, lambda model, optimizer: coterie.probe(model, optimizer, NAMES, every=2))
    assert len(probe.history) == 6
    assert all(torch.equal(probed[name], value) for name, value in plain.items())


def test_parts_that_stay_in_evaluation_mode_stay_there_and_the_look_ahead_puts_parameters_back():
    work = make("mixed", build=Dropping)
    model = work.build_model(0).train()
    model.trunk[1].eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    probe = coterie.probe(model, optimizer, NAMES, every=1)
    before = copy.deepcopy(model.state_dict())
    rows = work.split.train[:10]
    assert probe.step(lambda: row_losses(work, model, rows)[0].mean(0)) is not None
    assert [m.training for m in model.trunk] == [True, False, True, True]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(p.grad is None for p in model.parameters())


def test_losses_with_their_graph_give_cosines_and_can_be_differentiated_afterwards():
    work = make("mixed", build=Dropping)
    model = work.build_model(0).eval()
    probe = coterie.probe(model, None, NAMES, every=1)
    values = row_losses(work, model, work.split.train[:10])[0].mean(0)
    probe.step({name: values[number] for number, name in enumerate(NAMES)})
    gradients = [torch.autograd.grad(values[t], model.trunk[0].weight, retain_graph=True)[0] for t in (0, 1)]
    values.sum().backward()
    by_hand = torch.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0)
    own = coterie.probe(model, None, NAMES, every=1, shared=["trunk.0.weight"])
    own.step(lambda: row_losses(work, model, work.split.train[:10])[0].mean(0))
    assert own.affinity("cosine").values[0, 1] == pytest.approx(float(by_hand), abs=1e-6)
    with pytest.raises(SettingError, match=r"'tag' was not measured.*optimiser"):
        probe.affinity("tag")


def net(**given):
    model = nn.Linear(3, 2)
    return model, LoopProbe(model, torch.optim.SGD(model.parameters(), 0.1), ["a", "b"], every=1, **given)


WRONG = [
    ({}, lambda m: m(torch.ones(4, 3)).mean(), SettingError, r"one loss for each task.*shape \(\)"),
    ({}, lambda m: m(torch.ones(4, 3)), SettingError, "one loss for each task.*shape"),
    ({}, lambda m: torch.cat([m(torch.ones(4, 3)).mean(0)] * 2), SettingError, "2 numbers, one a task. Found 4"),
    ({}, lambda m: {"z": m(torch.ones(4, 3)).mean()}, SettingError, "losses of .'z'.; the tasks"),
    ({}, lambda m: m(torch.ones(4, 3)).mean(0).detach(), SettingError, "no graph"),
    ({}, lambda m: m(torch.full((4, 3), torch.inf)).mean(0) ** 2, ModelError, "infinite|nothing"),
    ({}, lambda m: m(torch.ones(4, 3)).mean(0), ModelError, "No parameter has gradients of more than one task"),
    ({"shared": ["trunk"]}, lambda m: m(torch.ones(4, 3)).mean(0), SettingError, "shared.*'trunk'"),
    ({"shared": ["weight"], "memory": 8}, lambda m: m(torch.ones(4, 3)).mean(0), ResourceError, "memory"),
]


@pytest.mark.parametrize(("given", "losses", "error", "words"), WRONG, ids=[words for *_, words in WRONG])
def test_what_cannot_be_measured_is_said(given, losses, error, words):
    model, probe = net(**given)
    if "infinite" in words:
        with torch.no_grad():
            model.weight.abs_()
    with pytest.raises(error, match=words):
        probe.step(lambda: losses(model))


@pytest.mark.parametrize("given", [{"tasks": ["a"]}, {"tasks": "ab"}, {"tasks": ["a", "b"], "every": 0}])
def test_a_probe_refuses(given):
    with pytest.raises(SettingError):
        LoopProbe(nn.Linear(2, 2), None, **given)
    with pytest.raises(SettingError, match="not measured in 0 steps"):
        LoopProbe(nn.Linear(2, 2), None, ["a", "b"]).affinity("etap")


def test_a_lightning_trainer_is_probed():
    lightning = pytest.importorskip("lightning")
    torch.manual_seed(0)
    x = torch.randn(32, 3)
    y = x[:, [0, 0]] + 0.1 * torch.randn(32, 2)

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

        def losses(self, batch):
            return ((self.net(batch[0]) - batch[1]) ** 2).mean(0)

        def training_step(self, batch, number):
            return self.losses(batch).mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.03)

    module = Net()
    probe = coterie.probe(module, None, ["a", "b"], every=2)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[probe.lightning(lambda module, batch: module.losses(batch))],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    trainer.fit(module, loader)
    assert len(probe.history) == 4
    assert probe.affinity("tag").values[0, 1] > 0  # two tasks that are nearly the same help each other
    assert probe.affinity("cosine").values[0, 1] > 0


def test_a_trainer_of_transformers_is_probed(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    # the folder of tests of that name is no package of data sets
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)
    torch.manual_seed(0)
    x = torch.randn(32, 3)
    rows = [{"x": x[i], "labels": x[i, [0, 0]]} for i in range(32)]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

        def losses(self, inputs):
            return ((self.net(inputs["x"]) - inputs["labels"]) ** 2).mean(0)

        def forward(self, x, labels):
            return {"loss": self.losses({"x": x, "labels": labels}).mean()}

    model = Net()
    probe = coterie.probe(model, None, ["a", "b"], every=2)
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=5, per_device_train_batch_size=8, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows,
        callbacks=[probe.transformers(lambda model, inputs: model.losses(inputs))],
    )  # fmt: skip
    trainer.train()
    assert [row["step"] for row in probe.history] == [0.0, 2.0, 4.0]
    assert probe.affinity("tag").values[0, 1] > 0
    assert not model._forward_pre_hooks
