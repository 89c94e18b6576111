"""A study of the Hugging Face Trainer: which classifications should share one text model.

The model is a tiny one with random weights, so that nothing is loaded from anywhere; yours comes from
``AutoModel.from_pretrained``.
"""

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertModel, Trainer, TrainingArguments, set_seed

import coterie

TASKS = ["spam", "toxic", "urgent"]
data = torch.Generator().manual_seed(0)
words = torch.randint(0, 50, (96, 6), generator=data)
labels = torch.stack([(words < 9).any(1), (words < 7).any(1), (words > 43).any(1)], dim=1).float()


class Texts(Dataset):
    """Rows with the labels of some tasks."""

    def __init__(self, rows, columns):
        self.rows, self.columns = range(*rows.indices(len(words))), columns

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, item):
        return {"input_ids": words[self.rows[item]], "labels": labels[self.rows[item], self.columns]}


class Heads(torch.nn.Module):
    """A shared encoder with one output a task."""

    def __init__(self, outputs):
        super().__init__()
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        self.encoder, self.heads = BertModel(config), torch.nn.Linear(16, outputs)

    def forward(self, input_ids, labels=None):
        logits = self.heads(self.encoder(input_ids).last_hidden_state.mean(1))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return {"loss": loss, "logits": logits}


def train(tasks, seed):
    set_seed(seed)
    columns = [TASKS.index(task) for task in tasks]
    arguments = TrainingArguments(
        "trained", num_train_epochs=2, per_device_train_batch_size=16, learning_rate=1e-2, use_cpu=True, seed=seed,
        save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(Heads(len(tasks)), arguments, train_dataset=Texts(slice(0, 64), columns))
    trainer.train()
    found = trainer.predict(Texts(slice(64, 96), columns))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(found.predictions), torch.from_numpy(found.label_ids), reduction="none"
    )
    return dict(zip(tasks, losses.mean(0), strict=True))


if __name__ == "__main__":
    study = coterie.create_study("texts", tasks=TASKS, models=2, load_if_exists=True)
    study.optimize(train, runs=4)
    print(study.recommend().text)
