"""Adapters in a frozen backbone, with and without TROA, on scenes of real garments: metrics, parameters, time.

    python benchmarks/adapters.py [--fashion FOLDER] [--seeds 3] [--steps 500] [--pretraining 1200] [--work FOLDER]

Scenes are composed of Fashion-MNIST by the recipe of coterie.adapters.scenes: 1,000 with dense labels for training and
300 for the test, of garments of its test files. Debian's package dataset-fashion-mnist puts the four files where
--fashion looks by default.

The backbone is a small Swin (56 x 56 pixels, patches of 2, windows of 7 x 7, blocks 2, 2, 2, width 32). There are no
pretrained weights for such images, so the script pretrains one a seed, on 4,000 other scenes of the training garments
with labels of whole images only: which class is to be seen. As common for pretraining, these scenes show one garment
each. It takes --pretraining steps of 16 scenes, and its accuracy on 300 such scenes of the test garments is reported.

All methods have the same scenes, order of scenes, steps of 8 scenes, optimiser, decoder and heads:

* single tasks: a backbone of its own for each task, all of it trained;
* heads: the frozen backbone with a decoder and heads for all tasks; the others are compared with it, seed by seed;
* one backbone, all of it trained on all tasks (for reference);
* adapters, each task with its own embedding; adapters with TROA.

The time of a step is measured apart, in rounds of 20 steps of all methods, one after the other.

Then a fourth task comes later: heads, adapters and adapters with TROA are trained on three tasks and frozen, and the
task gets a head, and with adapters an embedding and a column of Omega. Without TROA all known tasks count alike in it;
with TROA as similar as their gradients are, which a tenth of the steps in a copy tells. The last row trains a decoder
of its own on the frozen backbone.

Every training is kept under --work, so a run that was stopped goes on where it was. It is found again by the numbers of
steps, the seed and its name alone: after a change of the recipe, the scenes, the backbone or the adapters, give another
--work.

Writes benchmarks/results/adapters.json and docs/figures/adapters.png, and prints the tables of docs/adapters.md.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.functional import cross_entropy

from coterie.adapters import Image, Troa, attach, compose_scenes, grow, load, save
from coterie.adapters.dense import DenseTask, delta_m, dense_task
from coterie.adapters.figure import draw_predictions
from coterie.adapters.plain import PlainModel
from coterie.adapters.predict import evaluate_dense, predict_dense, shared_gradient
from coterie.adapters.recipe import DenseRecipe
from coterie.adapters.scenes.scenes import Scenes
from coterie.adapters.train import train_dense
from coterie.datasets.images import FOLDER, load_images
from coterie.evaluation.intervals import t_interval

ROOT = Path(__file__).resolve().parent.parent
RESULT, FIGURE = ROOT / "benchmarks" / "results" / "adapters.json", ROOT / "docs" / "figures" / "adapters.png"
CLASSES = 10
TASKS = {
    "segmentation": dense_task("segmentation", classes=CLASSES + 1),
    "depth": dense_task("depth"),
    "normals": dense_task("normals"),
    "edges": dense_task("edges"),
}
LATER = "edges"
KNOWN = {name: task for name, task in TASKS.items() if name != LATER}
TRAIN, TEST, PRETRAIN, SHOWN = 1000, 300, 4000, 2
DECODER, EMBEDDING, LAYERS = 32, 49, [1, 2, 3, 4, 5]
METHODS = {
    "single tasks": "single tasks (four backbones)",
    "heads": "heads on the frozen backbone",
    "one backbone": "one backbone, all of it trained",
    "adapters": "adapters",
    "troa": "adapters with TROA",
}
LATER_METHODS = {
    "later heads": "head, frozen backbone and decoder",
    "later adapters": "head and embedding, adapters",
    "later troa": "head and embedding, adapters with TROA",
    "later decoder": "head and decoder of its own, frozen backbone",
}
CLOCK_STEPS, CLOCK_ROUNDS = 20, 3
MEMORY = "parameters, gradients, moments, MiB"
NOTE = (
    "Memory is that of all parameters, frozen or not, and of gradients and both moments of the trained ones; with TROA",
    "also of its mean gradients, one of the shared parameters a task. Activations come on top. A step is the median of",
    "20 and of three rounds of all methods, one after the other; that of single tasks is the sum over four backbones.",
)
LATER_NOTE = (
    "The row with TROA leaves out what its similarities take: a tenth of the steps more, in a copy of the model, and",
    "the mean gradients of the known tasks.",
)


@dataclass(frozen=True)
class Bench:
    """What all trainings of one seed share."""

    seed: int
    recipe: DenseRecipe
    train: Scenes
    test: Scenes
    folder: Path

    def backbone(self) -> Any:
        """The pretrained one of this seed, fresh from disk."""
        return transformers.SwinModel.from_pretrained(self.folder / "backbone", add_pooling_layer=False)

    def plain(self, tasks: dict[str, DenseTask], frozen: bool) -> PlainModel:
        """Without adapters."""
        heads = {name: task.head for name, task in tasks.items()}
        return PlainModel(self.backbone(), heads, frozen=frozen, decoder=DECODER, seed=self.seed)

    def adapted(self, tasks: dict[str, DenseTask]) -> Any:
        """With adapters."""
        heads = {name: task.head for name, task in tasks.items()}
        options = {"layers": LAYERS, "embedding": EMBEDDING, "decoder": DECODER}
        return attach(self.backbone(), heads, **options, seed=self.seed)

    def fit(self, model: Any, tasks: dict[str, DenseTask], troa: Troa | None = None) -> Any:
        """Train on the scenes for training."""
        return train_dense(model, inputs(self.train), self.train.targets, tasks, self.recipe, seed=self.seed, troa=troa)

    def measure(self, model: Any, tasks: dict[str, DenseTask]) -> dict[str, float]:
        """Metrics on the scenes for the test."""
        return evaluate_dense(model, inputs(self.test), self.test.targets, tasks)


def inputs(scenes: Scenes) -> torch.Tensor:
    """Images as backbones see them, about centred and scaled."""
    return (scenes.images - 0.2) / 0.2


def data(folder: Path) -> tuple[Scenes, Scenes, tuple[Scenes, Scenes]]:
    """Scenes for training and test; those for pretraining and its test, of one garment each."""
    images = load_images("fashion-mnist", folder=folder)
    train, test = (images.train[:, 0] + 1) / 2, (images.validation[:, 0] + 1) / 2
    return (
        compose_scenes(train, images.train_labels, TRAIN, seed=0, classes=CLASSES),
        compose_scenes(test, images.validation_labels, TEST, seed=1, classes=CLASSES),
        (
            compose_scenes(train, images.train_labels, PRETRAIN, seed=2, classes=CLASSES, objects=(1, 1)),
            compose_scenes(test, images.validation_labels, TEST, seed=3, classes=CLASSES, objects=(1, 1)),
        ),
    )


def accuracy(predicted: torch.Tensor, present: torch.Tensor) -> float:
    """Share of scenes of one garment whose class is found; a scene that hardly shows it counts as wrong."""
    return float(((predicted.argmax(1) == present.argmax(1)) & present.any(1)).float().mean())


def pretrain(folder: Path, seed: int, steps: int, both: tuple[Scenes, Scenes]) -> dict[str, Any]:
    """A Swin that tells which classes a scene shows, on disk."""
    scenes, test = both
    config = transformers.SwinConfig(
        image_size=56,
        patch_size=2,
        num_channels=1,
        embed_dim=32,
        depths=[2, 2, 2],
        num_heads=[2, 4, 8],
        window_size=7,
        drop_path_rate=0.0,
        initializer_range=0.1,  # 0.02, which is made for ten times the width, learns nothing in this many steps
    )
    torch.manual_seed(seed)
    swin = transformers.SwinModel(config, add_pooling_layer=False)
    # with biases of 0, the norm behind the patches would take the brightness away
    swin.embeddings.patch_embeddings.projection.reset_parameters()
    task = DenseTask("presence", Image(CLASSES), cross_entropy, accuracy, "accuracy", True)
    model = PlainModel(swin, {"present": task.head}, frozen=False, seed=seed)
    recipe = DenseRecipe(steps=steps, batch_size=16)
    done = train_dense(model, inputs(scenes), {"present": scenes.present}, {"present": task}, recipe, seed=seed)
    score = evaluate_dense(model, inputs(test), {"present": test.present}, {"present": task})
    swin.save_pretrained(folder / "backbone")
    return {"metrics": score, "seconds": done.seconds, "chance": 1 / CLASSES}


def described(bench: Bench, model: Any, tasks: dict[str, DenseTask], done: Any, name: str) -> dict[str, Any]:
    """What is kept of a training."""
    shown = predict_dense(model, inputs(bench.test)[:SHOWN], tasks)
    np.savez_compressed(bench.folder / f"{name}.npz", **{task: values.numpy() for task, values in shown.items()})
    found = {"metrics": bench.measure(model, tasks), "seconds": done.seconds, "trainable": done.trainable}
    if done.omega is not None:
        found["omega"] = done.omega[-1].tolist()
    return {**found, "bytes": done.bytes, "last losses": done.losses[-20:].mean(0).tolist()}


def single(bench: Bench) -> dict[str, Any]:
    parts = {}
    for name, task in TASKS.items():
        model = bench.plain({name: task}, frozen=False)
        done = bench.fit(model, {name: task})
        parts[name] = described(bench, model, {name: task}, done, f"single {name}")
    total = {key: sum(part[key] for part in parts.values()) for key in ("seconds", "trainable", "bytes")}
    return {"metrics": {name: part["metrics"][name] for name, part in parts.items()}, **total}


def plain(bench: Bench, name: str, frozen: bool) -> dict[str, Any]:
    model = bench.plain(TASKS, frozen=frozen)
    return described(bench, model, TASKS, bench.fit(model, TASKS), name)


def adapters(bench: Bench, name: str, troa: bool) -> dict[str, Any]:
    model = bench.adapted(TASKS)
    done = bench.fit(model, TASKS, Troa(list(TASKS)) if troa else None)
    save(model, bench.folder / name)
    return described(bench, model, TASKS, done, name)


def later_plain(bench: Bench, name: str, decoder: bool) -> dict[str, Any]:
    """A head on the backbone; `decoder`: with a decoder of its own, or that of three tasks, frozen."""
    task = {LATER: TASKS[LATER]}
    model = bench.plain(task, frozen=True)
    if not decoder:
        known = bench.plain(KNOWN, frozen=True)
        bench.fit(known, KNOWN)
        model.decoder.load_state_dict(known.decoder.state_dict())
        model.decoder.requires_grad_(False)
    return described(bench, model, task, bench.fit(model, task), name)


def later_adapters(bench: Bench, name: str, with_troa: bool) -> dict[str, Any]:
    """A head, an embedding and a column of Omega, in adapters of three tasks."""
    model = bench.adapted(KNOWN)
    troa = Troa(list(KNOWN)) if with_troa else None
    bench.fit(model, KNOWN, troa)
    before = bench.measure(model, KNOWN)
    save(model, bench.folder / f"{name} before")
    similarities = similar(bench, troa, bench.folder / f"{name} before") if troa else dict.fromkeys(KNOWN, 1.0)
    grow(model, LATER, TASKS[LATER].head, similarities=similarities, neighbours=len(KNOWN), seed=bench.seed)
    task = {LATER: TASKS[LATER]}
    found = described(bench, model, task, bench.fit(model, task), name)
    assert bench.measure(model, KNOWN) == before, "the known tasks changed"
    return {**found, "similarities": similarities, "column": model.embeddings.weights[:, -1].tolist()}


def similar(bench: Bench, troa: Troa, saved: Path) -> dict[str, float]:
    """Similarities of the new task with the known ones, from a head that a tenth of the steps trained in a copy."""
    copy = load(saved, bench.backbone())
    grow(copy, LATER, TASKS[LATER].head, similarities=dict.fromkeys(KNOWN, 1.0), seed=bench.seed)
    short = DenseRecipe(steps=max(1, bench.recipe.steps // 10), batch_size=bench.recipe.batch_size)
    train_dense(copy, inputs(bench.train), bench.train.targets, {LATER: TASKS[LATER]}, short, seed=bench.seed)
    some = bench.train.rows(torch.arange(64))
    found = troa.similarities(shared_gradient(copy, inputs(some), some.targets[LATER], LATER, TASKS[LATER]))
    # no known task may be similar: then all count alike, as without TROA
    return found if any(found.values()) else dict.fromkeys(KNOWN, 1.0)


def run_seed(bench: Bench, pretraining: int, single_scenes: tuple[Scenes, Scenes]) -> dict[str, Any]:
    """All trainings of a seed; those on disk are read."""
    jobs = {
        "pretraining": lambda: pretrain(bench.folder, bench.seed, pretraining, single_scenes),
        "single tasks": lambda: single(bench),
        "heads": lambda: plain(bench, "heads", frozen=True),
        "one backbone": lambda: plain(bench, "one backbone", frozen=False),
        "adapters": lambda: adapters(bench, "adapters", troa=False),
        "troa": lambda: adapters(bench, "troa", troa=True),
        "later heads": lambda: later_plain(bench, "later heads", decoder=False),
        "later decoder": lambda: later_plain(bench, "later decoder", decoder=True),
        "later adapters": lambda: later_adapters(bench, "later adapters", with_troa=False),
        "later troa": lambda: later_adapters(bench, "later troa", with_troa=True),
    }
    bench.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, job in jobs.items():
        path = bench.folder / f"{name}.json"
        if not path.exists():
            path.with_suffix(".part").write_text(json.dumps(job()))
            path.with_suffix(".part").replace(path)
        found[name] = json.loads(path.read_text())
        print(f"seed {bench.seed}, {name}:", found[name]["metrics"], flush=True)
    return found


def compared(seeds: list[dict[str, Any]], method: str, tasks: list[str], base: str) -> dict[str, Any]:
    """Intervals over seeds of the metrics, of the paired differences from `base`, and of Delta m."""
    chosen = {name: TASKS[name] for name in tasks}
    row: dict[str, Any] = {"by_seed": {}, "metrics": {}, "differences": {}}
    for task in tasks:
        values, other = (np.array([seed[name]["metrics"][task] for seed in seeds]) for name in (method, base))
        row["by_seed"][task] = values.round(5).tolist()
        row["metrics"][task] = t_interval(values).to_dict()
        row["differences"][task] = t_interval(values - other).to_dict()
    for reference in dict.fromkeys((base, "single tasks")):
        deltas = [delta_m(seed[method]["metrics"], seed[reference]["metrics"], chosen) for seed in seeds]
        row[f"delta m, {reference}"] = t_interval(np.array(deltas)).to_dict()
    for key in ("trainable", "bytes"):
        row[key] = seeds[0][method][key]
    return row


def step_seconds(bench: Bench) -> dict[str, float]:
    """Seconds of a step: the methods one after the other, a few steps each, in rounds; medians over the rounds."""
    short = replace(bench, recipe=replace(bench.recipe, steps=CLOCK_STEPS))
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(CLOCK_ROUNDS):
        alone = [short.fit(short.plain({name: task}, frozen=False), {name: task}) for name, task in TASKS.items()]
        found["single tasks"].append(sum(done.seconds for done in alone))
        for name, frozen in (("heads", True), ("one backbone", False)):
            found[name].append(short.fit(short.plain(TASKS, frozen=frozen), TASKS).seconds)
        for name, troa in (("adapters", None), ("troa", Troa(list(TASKS)))):
            found[name].append(short.fit(short.adapted(TASKS), TASKS, troa).seconds)
    return {name: float(np.median(values)) for name, values in found.items()}


def troa_bytes(bench: Bench) -> int:
    """Memory of TROA's mean gradients, one of the shared parameters a task; trainings keep the rest in `bytes`."""
    shared = bench.adapted(TASKS).shared_parameters()
    return len(TASKS) * sum(parameter.numel() * parameter.element_size() for parameter in shared)


def text(interval: dict[str, Any], digits: int = 3, sign: bool = False) -> str:
    numbers = [interval[key] for key in ("mean", "low", "high")]
    shown = [f"{x:+.{digits}f}" if sign else f"{x:.{digits}f}" for x in numbers if x is not None]
    return f"{shown[0]} ({shown[1]} to {shown[2]})" if len(shown) == 3 else shown[0]


def measures(task: str) -> str:
    return f"{task}: {TASKS[task].measures}, {'higher' if TASKS[task].higher_is_better else 'lower'} is better"


def tables(result: dict[str, Any]) -> str:
    """Markdown of the results; * marks differences whose interval leaves out 0."""

    def cell(row: dict[str, Any], task: str) -> str:
        low, high = row["differences"][task]["low"], row["differences"][task]["high"]
        return text(row["metrics"][task]) + ("*" if low is not None and (low > 0 or high < 0) else "")

    def costs(row: dict[str, Any]) -> str:
        return f"{row['trainable']:,} | {row['bytes'] / 2**20:.1f}"

    lines = [
        "| | " + " | ".join(measures(task) for task in TASKS) + " | Δm against heads, % | Δm against single tasks, % |",
        "|---" * (len(TASKS) + 3) + "|",
    ]
    for name, title in METHODS.items():
        row = result["methods"][name]
        deltas = [text(row[f"delta m, {base}"], 1, sign=True) for base in ("heads", "single tasks")]
        lines.append(f"| {title} | " + " | ".join([cell(row, task) for task in TASKS] + deltas) + " |")
    lines += ["", f"| | trained parameters | {MEMORY} | seconds a step |", "|---|---|---|---|"]
    clock = result["step seconds"]
    lines += [f"| {title} | {costs(result['methods'][name])} | {clock[name]:.3f} |" for name, title in METHODS.items()]
    lines += ["", *NOTE, ""]
    lines += [f"| {LATER} added later | {measures(LATER)} | difference | trained parameters | {MEMORY} |"]
    lines += ["|---|---|---|---|---|"]
    for name, title in LATER_METHODS.items():
        row = result["later"][name]
        difference = text(row["differences"][LATER], sign=True)
        lines.append(f"| {title} | {text(row['metrics'][LATER])} | {difference} | {costs(row)} |")
    lines += ["", *LATER_NOTE]
    lines += ["", "| Omega: source, target | " + " | ".join(TASKS) + " |", "|---" * (len(TASKS) + 1) + "|"]
    lines += [
        f"| {task} | " + " | ".join(f"{value:.2f}" for value in row) + " |"
        for task, row in zip(TASKS, result["omega"], strict=True)
    ]
    return "\n".join(lines)


def draw(folder: Path, test: Scenes) -> None:
    """Truth, heads and adapters with TROA, for some scenes of the test and the first seed."""
    titles = {"heads": "heads", "troa": "adapters\nwith TROA"}
    predicted = {
        title: {task: torch.from_numpy(values) for task, values in np.load(folder / f"{name}.npz").items()}
        for name, title in titles.items()
    }
    some = test.rows(torch.arange(SHOWN))
    FIGURE.parent.mkdir(exist_ok=True)
    draw_predictions(some.images, some.targets, predicted, TASKS).savefig(FIGURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fashion", type=Path, default=FOLDER)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--pretraining", type=int, default=1200)
    parser.add_argument("--work", type=Path, default=Path("runs/adapters"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, test, single_scenes = data(arguments.fashion)
    recipe = DenseRecipe(steps=arguments.steps, batch_size=8)
    # other numbers of steps are other trainings
    work = arguments.work / f"{arguments.pretraining}-{arguments.steps}"
    benches = [Bench(seed, recipe, train, test, work / f"seed-{seed}") for seed in range(arguments.seeds)]
    seeds = [run_seed(bench, arguments.pretraining, single_scenes) for bench in benches]
    result = {
        "steps": arguments.steps,
        "pretraining steps": arguments.pretraining,
        "pretraining": [seed["pretraining"] for seed in seeds],
        "methods": {name: compared(seeds, name, list(TASKS), "heads") for name in METHODS},
        "later": {name: compared(seeds, name, [LATER], "later heads") for name in LATER_METHODS},
        "omega": np.mean([seed["troa"]["omega"] for seed in seeds], 0).round(4).tolist(),
        "later columns": [seed["later troa"]["column"] for seed in seeds],
        "later similarities": [seed["later troa"]["similarities"] for seed in seeds],
    }
    result["step seconds"] = step_seconds(benches[0])
    result["troa bytes"] = troa_bytes(benches[0])
    result["methods"]["troa"]["bytes"] += result["troa bytes"]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))
    draw(benches[0].folder, test)


if __name__ == "__main__":
    main()
