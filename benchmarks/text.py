"""Text tasks from end to end: features, groups, real comparison, adapters of all groups on one frozen encoder.

The workload is ``texts``: 15 tasks, two layers of MiniLM with LoRA. Everything runs on one thread.
Run: ``python benchmarks/text.py [--toy]``; ``--toy`` takes few rows and one epoch, writes nothing, and only shows that
all parts work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _features import Pair, against_plain_loop
from _runs import timed_run

import coterie
from coterie.datasets import texts
from coterie.features.part import PartFeatures
from coterie.features.plan import plan_features
from coterie.serving import export_adapters
from coterie.training import fit
from coterie.training.job import Job
from coterie.training.loop import batch_loss, trainable
from coterie.workload import Split, Workload
from coterie.workload.structure import find_structure

GROUPS, SEEDS, DIRECTIONS, STEPS, PLAIN_TASKS = 4, 2, 100, 10, 5


def toy(workload: Workload) -> Workload:
    """A few rows of each task, one epoch."""

    def first(part: str, count: int) -> torch.Tensor:
        rows = workload.split.part(part)
        return torch.cat([rows[workload.observed[rows, task]][:count] for task in range(workload.n_tasks)])

    split = Split(first("train", 16), first("validation", 8), first("test", 8))
    return replace(workload, split=split, recipe=replace(workload.recipe, epochs=1), reference=None)


def size(workload: Workload) -> dict[str, Any]:
    """What is held once, and what a group adds."""
    model = workload.build_model(0)
    return {
        "tasks": workload.n_tasks,
        "rows": [len(workload.split.part(part)) for part in ("train", "validation", "test")],
        "tokens a row": float(workload.inputs["attention_mask"].sum(1).double().mean()),
        "frozen parameters": sum(b.numel() for b in model.buffers() if b.is_floating_point()),
        "trained parameters": sum(p.numel() for p in model.parameters()),
    }


def step(workload: Workload) -> dict[str, float]:
    """Seconds of a training step on all tasks, on the processor and by the clock."""
    model = workload.build_model(0).train()
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-3)
    rows = workload.split.train[torch.randperm(len(workload.split.train), generator=torch.Generator().manual_seed(0))]
    batches = [batch for batch in rows.split(workload.recipe.batch_size) if len(batch) > 1]
    for index in range(STEPS + 2):
        if index == 2:
            clock, processor = time.perf_counter(), time.process_time()
        batch_loss(workload, model, batches[index % len(batches)], list(range(workload.n_tasks))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {
        "seconds": (time.perf_counter() - clock) / STEPS,
        "processor seconds": (time.process_time() - processor) / STEPS,
    }


def features(workload: Workload) -> dict[str, Any]:
    """Features of the training part beside a plain loop over one label of each of the first tasks."""
    model = workload.build_model(0)
    plan = plan_features(workload, find_structure(workload, model), DIRECTIONS, model=model)

    def pairs(fast: PartFeatures) -> Iterator[Pair]:
        for task in range(PLAIN_TASKS):
            position = fast.pairs_of(task).start
            yield position, int(fast.rows[position]), task

    return {"planned": plan.reason, **against_plain_loop(workload, DIRECTIONS, pairs)}


def end_to_end(workload: Workload) -> dict[str, Any]:
    """A run with its comparison, its models served from one base, and their adapters exported."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result, facts = timed_run(workload, Path(folder) / "run", groups=GROUPS, seeds=SEEDS)
        predictor = coterie.load(result, workload=workload)
        rows = workload.split.test
        inputs = {name: value.numpy() for name, value in workload.batch(rows).items()}
        served = predictor.predict(inputs)
        exported = export_adapters(predictor, Path(folder) / "adapters")
        adapters = [sum(file.stat().st_size for file in place.glob("*.safetensors")) for place in exported]
        stored = (Path(folder) / "run" / "serve.safetensors").stat().st_size
    bases = {model.base.get_input_embeddings().weight.data_ptr() for model in predictor.models}
    print(result, flush=True)
    return {
        **facts,
        "test accuracy of the served models": accuracy(workload, served),
        "served models": len(predictor.models),
        "bases in memory": len(bases),
        "bytes of all served states": stored,
        "bytes of an exported adapter": adapters,
    }


def accuracy(workload: Workload, served: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of right answers of each task on its test rows."""
    rows = workload.split.test
    found: dict[str, float] = {}
    for index, task in enumerate(workload.tasks):
        known = workload.observed[rows, index].numpy()
        labels = workload.labels[rows, index].numpy()[known]
        chance = served[task.name][known]
        answers = chance > 0.5 if chance.ndim == 1 else chance.argmax(1)
        found[task.name] = float((answers == labels).mean())
    return found


def plain(value: Any) -> str:
    """A number with three digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def percent(gain: dict[str, float]) -> str:
    """A gain in per cent with its 95 % interval."""
    mean, low, high = (100 * gain[name] for name in ("mean", "low", "high"))
    return f"{mean:+.1f} % ({low:+.1f} to {high:+.1f})"


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    run, cost = results["run"], results["features"]
    lines = ["| what | found |", "|---|---|"]
    lines += [f"| {name} | {plain(value)} |" for name, value in results["workload"].items()]
    lines += [f"| a training step, {name} | {value:.3f} |" for name, value in results["step"].items()]
    lines += [f"| features, {name} | {plain(value)} |" for name, value in cost.items() if name != "planned"]
    names = ("seconds", "processor seconds", "recommendation", "served models", "bases in memory")
    lines += [f"| run, {name} | {plain(run[name])} |" for name in names]
    lines += ["", "| candidate | gain on test rows |", "|---|---|"]
    lines += [f"| {name} | {percent(gain)} |" for name, gain in run["gains"].items()]
    lines += ["", "| task | test accuracy |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in run["test accuracy of the served models"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="a small model and few rows")
    small = parser.parse_args().toy
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=coterie.errors.CoterieWarning)
    workload = toy(texts.load()) if small else texts.load()
    results: dict[str, Any] = {
        "settings": {"groups": GROUPS, "seeds": SEEDS, "threads": 1, "torch": torch.__version__},
        "workload": size(workload),
        "step": step(workload),
    }
    start = time.process_time()
    alone = fit(workload, [Job((0,), 0)], backend="loop")[0]
    results["one task alone"] = {"steps": alone.steps, "processor seconds": time.process_time() - start}
    results["features"] = features(workload)
    print(json.dumps(results, indent=1), flush=True)
    results["run"] = end_to_end(workload)
    print(tables(results))
    if not small:
        path = Path(__file__).parent / "results" / "text.json"
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
