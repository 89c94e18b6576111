"""A plain PyTorch script that a study starts from the command line, once a run.

``python study_pytorch.py --tasks a,b --seed 0 --out losses.json`` trains one network for some tasks and writes their
losses. That is all that a study needs; the last lines are what one would type into a shell.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import torch

TASKS = ["a", "b", "c"]


def train(tasks: list[str], seed: int) -> dict[str, float]:
    data = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=data)
    weights = torch.randn(8, 2, generator=data)
    y = torch.tanh(x @ weights)[:, [0, 0, 1]] + 0.3 * torch.randn(300, 3, generator=data)
    y = y[:, [TASKS.index(task) for task in tasks]]
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, len(tasks)))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x[:150]), y[:150]).backward()
        optimizer.step()
    with torch.no_grad():
        losses = ((model(x[150:]) - y[150:]) ** 2).mean(0)
    return dict(zip(tasks, losses.tolist(), strict=True))


parser = argparse.ArgumentParser()
parser.add_argument("--tasks")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="losses.json")
given = parser.parse_args()
if given.tasks:
    losses = train(given.tasks.split(","), given.seed)
    Path(given.out).write_text(json.dumps(losses))
    print("trained on", given.tasks)
else:
    own = shlex.join([sys.executable, __file__, "--tasks", "{tasks}", "--seed", "{seed}", "--out", "{out}"])
    for command in (
        ["create", "plain", "--tasks", ",".join(TASKS), "--models", "2", "--load"],
        ["run", "plain", "--command", own, "--runs", "2", "--workers", "2"],
        ["recommend", "plain"],
    ):
        subprocess.run([sys.executable, "-m", "coterie.cli", "study", *command], check=True)  # noqa: S603
