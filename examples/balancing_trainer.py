"""Balance tasks in the Trainer of Hugging Face: a tiny model with random weights, nothing is downloaded."""

import tempfile

import torch
from torch import nn
from transformers import BertConfig, BertModel, Trainer, TrainerCallback, TrainingArguments

from coterie.balancing import Replay, get_balancer, task_means

TASKS = 3


class Model(nn.Module):
    """A small encoder with one output a task; the last column of the labels has gaps (NaN)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        self.encoder = BertModel(BertConfig(vocab_size=50, **sizes))
        self.heads = nn.Linear(32, TASKS)

    def forward(self, input_ids, labels=None):
        logits = self.heads(self.encoder(input_ids).last_hidden_state[:, 0])
        observed = ~labels.isnan()
        losses = nn.functional.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
        return {"losses": task_means(losses, observed), "logits": logits}


class BalancedTrainer(Trainer):
    """The Trainer with a balancer: it weights the losses, and looks again before and after the optimiser's step."""

    def __init__(self, balancer, **options) -> None:
        super().__init__(**options, callbacks=[AfterStep(self)])
        self.balancer = balancer

    def compute_loss(self, model, inputs, return_outputs=False, **unused):
        if not model.training:
            outputs = model(**inputs)
            loss = outputs["losses"].nanmean()
            return (loss, outputs) if return_outputs else loss
        self.replay = Replay(lambda: model(**inputs)["losses"], model)
        return self.balancer.total(self.replay())

    def training_step(self, model, *rest):
        loss = super().training_step(model, *rest)
        self.balancer.before_step(self.replay, model.parameters())  # the Trainer clips gradients after this
        return loss


class AfterStep(TrainerCallback):
    """Calls the balancer right after the optimiser."""

    def __init__(self, trainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, args, state, control, **unused) -> None:
        self.trainer.balancer.after_step(self.trainer.replay)


def dataset(rows):
    """Is token 7, 8 or 9 in the text? Labels of the last task are often missing."""
    tokens = torch.randint(10, 50, (rows, 12))
    labels = (torch.rand(rows, TASKS) < 0.5).float()
    for task in range(TASKS):
        tokens[:, task + 1] = torch.where(labels[:, task] > 0, 7 + task, tokens[:, task + 1])
    labels[torch.rand(rows) < 0.7, -1] = torch.nan
    return [{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)]


if __name__ == "__main__":
    torch.manual_seed(0)
    train, test = dataset(256), dataset(128)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=3,
            learning_rate=3e-3,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        balancer = get_balancer("marigold", tasks=TASKS, every=5)
        trainer = BalancedTrainer(balancer, model=Model(), args=arguments, train_dataset=train, eval_dataset=test)
        trainer.train()
        print("loss on new rows", round(trainer.evaluate()["eval_loss"], 3))
    print("weights at the last step", [round(w, 3) for w in balancer.weights.tolist()])
