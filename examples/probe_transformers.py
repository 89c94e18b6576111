"""A probe in the Hugging Face Trainer, on sentences of Python's own documentation: which topics share a text model?

The model is a tiny one with random weights, so that nothing is loaded from anywhere; yours comes from
``AutoModel.from_pretrained``.
"""

import email
import inspect
import json
import pathlib
import re
import zlib

import torch
from torch import nn
from transformers import BertConfig, BertModel, Trainer, TrainingArguments, set_seed

import coterie

TOPICS = {"files": "file|path|directory", "folders": "director|folder|path", "texts": "string|text|character"}
modules = (email, json, pathlib, re, inspect)
members = [value for module in modules for _, value in inspect.getmembers(module)]
members += [*vars(pathlib.Path).values(), *vars(str).values()]
found = {line.strip() for value in members for line in (inspect.getdoc(value) or "").splitlines()}
lines = sorted(line for line in found if len(line.split()) > 3)[:400]


def encode(line):
    words = [zlib.crc32(word.lower().encode()) % 199 + 1 for word in re.findall(r"\w+", line)][:12]
    return torch.tensor(words + [0] * (12 - len(words)))


rows = [
    {"input_ids": encode(line), "labels": torch.tensor([float(bool(re.search(p, line))) for p in TOPICS.values()])}
    for line in lines
]


class Heads(nn.Module):
    """A shared encoder with one output a topic."""

    def __init__(self):
        super().__init__()
        config = BertConfig(
            vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        self.encoder, self.heads = BertModel(config), nn.ModuleList(nn.Linear(16, 1) for _ in TOPICS)

    def losses(self, inputs):
        states = self.encoder(inputs["input_ids"]).last_hidden_state.mean(1)
        logits = torch.cat([head(states) for head in self.heads], 1)
        return nn.functional.binary_cross_entropy_with_logits(logits, inputs["labels"], reduction="none").mean(0)

    def forward(self, input_ids, labels):
        return {"loss": self.losses({"input_ids": input_ids, "labels": labels}).mean()}


if __name__ == "__main__":
    set_seed(0)
    model = Heads()
    probe = coterie.probe(model, None, list(TOPICS), every=5)
    arguments = TrainingArguments(
        "trained", num_train_epochs=3, per_device_train_batch_size=16, learning_rate=5e-3, use_cpu=True,
        save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    callback = probe.transformers(lambda model, inputs: model.losses(inputs))
    Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    print(f"{len(lines)} sentences, {len(probe.history)} measurements")
    for method in ("tag", "cosine"):
        values = probe.affinity(method).values
        print(f"{method}: folders to files {values[0, 1]:+.4f}, texts to files {values[0, 2]:+.4f}")
