"""Do intervals of time steps as tasks help a denoiser? Vanilla training against ANT, with intervals over seeds.

    python benchmarks/diffusion.py [--fashion FOLDER] [--size 16] [--steps 2000] [--seeds 3]
                                   [--methods equal,uncertainty,pcgrad,nash-mtl,marigold-log] [--criterion snr]
                                   [--experts equal-examples,equal-batch]

Data are the images of Fashion-MNIST (Debian's package dataset-fashion-mnist puts its four files where --fashion looks
by default), or with --data digits those of scikit-learn. A small U-Net is trained by

* vanilla: all time steps with the same chance, mean of the losses;
* each method: k intervals as tasks, the same number of examples from each; "equal" is that and nothing else;
* experts: one for each interval, with as many steps of the optimiser as the others.

Vanilla and the methods of a seed see the same images and the same noise, step by step. Of experts there are two kinds,
each with a negative-transfer gap of its own, since the sign of the gap can depend on the kind. "Equal examples" have
the k-th part of the batch, so that all together see as many examples as vanilla; their batches are other ones than
those of vanilla, and their gradients are noisier. "Equal batch" have the whole batch and the images and noise of
vanilla, so that each sees as many examples of its interval as vanilla of all time steps: k times the work. Neither is
the one fair comparison; a sign on which both agree does not depend on it.

Losses are those of the averaged weights on validation images, with time steps and noise that are the same for every
model, relative to vanilla of the same seed; intervals (95 %) cover seeds and images. The Frechet distance is that to
the validation images in the features of a small classifier trained on the data, not FID; its intervals cover seeds
only, as a bootstrap over samples would add its bias a second time. The distance of real training images is for
orientation: the classifier was fitted to them, so it is somewhat too large. The time of a step is measured in blocks of
50 steps of all methods, one after the other; ratios to vanilla are formed within a round, and the median over rounds is
reported. Nash-MTL solves its problem every 25 steps and MARIGOLD probes every 10, so every block has its share of the
expensive steps; in shorter blocks the median would leave them out.

nash-mtl needs the solver ecos, which is under GPL-3 and in no extra of ours (pip install ecos); without it FairGrad
with alpha = 1, which solves the same equation at every step, takes its place and is called so.

Every training is kept under --work, so that a run that was stopped goes on. Writes benchmarks/results/diffusion.json
and docs/figures/diffusion.png, or into the folder --into.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from coterie import Context
from coterie._units import Payload
from coterie.affinity.costs import digest
from coterie.datasets.images import FOLDER, load_images
from coterie.diffusion.affinity import StepAffinity, average, step_affinity
from coterie.diffusion.ema import moving_average
from coterie.diffusion.evaluate import mean_difference, negative_transfer_gap, step_losses
from coterie.diffusion.extractor import train_extractor
from coterie.diffusion.frechet import frechet_distance
from coterie.diffusion.gradients import ProbeSettings
from coterie.diffusion.intervals import step_intervals
from coterie.diffusion.sample import draw_samples
from coterie.diffusion.schedule import NoiseSchedule
from coterie.diffusion.tasks import IntervalTasks
from coterie.diffusion.train import DenoiserRecipe, train_denoiser, training_step
from coterie.diffusion.unet import make_unet
from coterie.errors import MissingDependencyError
from coterie.evaluation.intervals import t_interval
from coterie.store import open_run

HERE = Path(__file__).resolve().parent
METHODS = "equal,uncertainty,pcgrad,nash-mtl,marigold-log"
CHANNELS, LEARNING_RATE, EMA = (16, 32, 32), 2e-3, 0.995
FAIRGRAD = "fairgrad (alpha=1) for nash-mtl"
#: a multiple of the periods of Nash-MTL (25) and MARIGOLD (10), so that all blocks of a method cost the same
BLOCK = 50
EXPERTS = {"equal-examples": "experts, equal examples", "equal-batch": "experts, equal batch"}


class Router(nn.Module):
    """All experts as one denoiser: each is asked about its own time steps."""

    def __init__(self, experts, intervals):
        super().__init__()
        self.experts, self.labels = nn.ModuleList(experts), intervals.labels

    def forward(self, x, t):
        """The expert's answer; all examples have the same time step, as in a sampler."""
        return self.experts[int(self.labels[int(t[0])])](x, t)


class Study:
    """What all parts need: options, data, schedule, intervals and the store of finished work."""

    def __init__(self, options, store, images):
        self.options, self.store, self.images = options, store, images
        self.schedule = NoiseSchedule.cosine(1000, options.prediction)
        self.seeds = range(options.seeds)
        self.checkpoints = tuple(sorted({max(1, options.steps * part // 3) for part in (1, 2, 3)}))
        self.intervals = None

    def model(self, seed):
        """Initial weights of a seed."""
        torch.manual_seed(seed)
        return make_unet(CHANNELS, self.images.shape[0], self.images.shape[1])

    def loaded(self, state):
        """The model with given weights."""
        model = self.model(0)
        model.load_state_dict(state)
        return model.eval()

    def train(self, seed, tasks=None, **how):
        """A training, kept."""
        how = {"steps": self.options.steps, "batch": self.options.batch, **how}
        recipe, context = DenoiserRecipe(learning_rate=LEARNING_RATE, ema=EMA, **how), Context(seed, store=self.store)
        return train_denoiser(self.model(seed), self.images.train, self.schedule, recipe, context, tasks=tasks)

    def vanilla(self, seed):
        """Without tasks."""
        return self.train(seed, checkpoints=self.checkpoints)

    def balanced(self, name, seed):
        """With intervals as tasks."""
        return self.train(seed, tasks=self.tasks(name))

    def experts(self, seed, kind):
        """One for each interval, of a kind of EXPERTS."""
        part = max(1, self.options.batch // self.intervals.k) if kind == "equal-examples" else self.options.batch
        return [self.train(seed, span=span, batch=part) for span in self.intervals.spans]

    def tasks(self, name):
        """Intervals balanced by a method of :func:`available`."""
        return intervals_as_tasks(self.intervals, name)

    def validation(self, state, only=None):
        """(images, k) losses, kept."""
        images, draws = self.images.validation[: self.options.images], self.options.draws
        key = {"state": digest(state), "starts": list(self.intervals.starts), "images": len(images), "draws": draws,
               "only": only, "prediction": self.options.prediction}  # fmt: skip

        def compute():
            model = self.loaded(state)
            found = step_losses(model, images, self.schedule, self.intervals, draws=draws, seed=0, only=only)
            return Payload({"losses": found})

        return self.store.unit("validation", key, compute).arrays["losses"]

    def features(self, states, extractor):
        """(samples, features) of images drawn from a model, or from experts, kept."""
        options = self.options
        key = {"states": [digest(state) for state in states], "count": options.samples, "steps": options.sampling_steps,
               "starts": list(self.intervals.starts) if len(states) > 1 else None, "prediction": options.prediction,
               "extractor": digest(extractor.model.state_dict())}  # fmt: skip

        def compute():
            models = [self.loaded(state) for state in states]
            model = models[0] if len(models) == 1 else Router(models, self.intervals)
            drawn = draw_samples(
                model, self.schedule, options.samples, self.images.shape, steps=options.sampling_steps, seed=1
            )
            return Payload({"features": extractor.features(drawn)})

        return self.store.unit("features", key, compute).arrays["features"]

    def affinities(self, seed):
        """One affinity of time steps a checkpoint of vanilla training, kept."""
        found, options = [], self.options
        for step, state in self.vanilla(seed).checkpoints.items():
            key = {"state": digest(state), "stride": options.stride, "examples": options.affinity_images}

            def compute(state=state):
                probe = ProbeSettings(stride=options.stride, examples=options.affinity_images)
                made = step_affinity(self.loaded(state), self.images.train, self.schedule, probe)
                return Payload({"steps": made.steps, "values": made.values}, {"kind": made.kind})

            payload = self.store.unit("affinity", key, compute)
            made = StepAffinity(
                payload.arrays["steps"], payload.arrays["values"], self.schedule.n_steps, payload.meta["kind"], {}
            )
            found.append((step, made))
        return found


def intervals_as_tasks(intervals, name):
    """Intervals balanced by a method of `METHODS`, or by FairGrad."""
    if name == FAIRGRAD:
        return IntervalTasks(intervals, "fairgrad", alpha=1.0)
    if name == "marigold-log":
        return IntervalTasks(intervals, "marigold", phi="log")
    return IntervalTasks(intervals, name)


def available(names):
    """The methods that can be run, with FairGrad in place of NashMTL where its solver is missing."""
    found, probe = [], step_intervals(NoiseSchedule.cosine(10), 2)
    for name in names:
        try:
            intervals_as_tasks(probe, name)
        except MissingDependencyError as error:
            if name != "nash-mtl":
                raise
            print(f"{name}: {error}")
            name = FAIRGRAD
        found.append(name)
    return found


def measure_losses(study, methods):
    """Validation loss of each interval, and over all time steps, for every model."""
    share = np.diff([*study.intervals.starts, study.intervals.n]) / study.intervals.n

    def with_all(losses):
        return np.concatenate([losses, (losses @ share)[..., None]], -1)

    losses = {"vanilla": np.stack([study.validation(study.vanilla(seed).state) for seed in study.seeds])}
    for name in methods:
        losses[name] = np.stack([study.validation(study.balanced(name, seed).state) for seed in study.seeds])
    experts = study.options.experts
    for kind in experts:
        losses[EXPERTS[kind]] = np.stack([experts_losses(study, seed, kind) for seed in study.seeds])
    losses = {name: with_all(value) for name, value in losses.items()}
    rows = {}
    for name, value in losses.items():
        change = mean_difference(value, losses["vanilla"], relative=True)
        row = {"loss": value.mean((0, 1)).tolist(), "against_vanilla": [found.to_dict() for found in change]}
        if name not in EXPERTS.values():
            gaps = {kind: negative_transfer_gap(losses[EXPERTS[kind]], value) for kind in experts}
            relative = {kind: mean_difference(losses[EXPERTS[kind]], value, relative=True) for kind in experts}
            row["gap"] = {kind: [found.to_dict() for found in gap] for kind, gap in gaps.items()}
            row["gap_relative"] = {kind: [found.to_dict() for found in gap] for kind, gap in relative.items()}
        rows[name] = row
    return rows


def experts_losses(study, seed, kind):
    """(images, k) losses, each column from the expert of that interval."""
    parts = [study.validation(one.state, only=[i]) for i, one in enumerate(study.experts(seed, kind))]
    return np.stack([part[:, i] for i, part in enumerate(parts)], 1)


def measure_samples(study, methods):
    """Frechet distances to the validation images, and between real images for orientation."""
    extractor = train_extractor(study.images, store=study.store)
    real = extractor.features(study.images.validation)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(study.images.train))[: study.options.samples]
    order = rng.permutation(len(real))
    trained = {"vanilla": lambda seed: [study.vanilla(seed)]}
    trained |= {name: lambda seed, name=name: [study.balanced(name, seed)] for name in methods}
    trained |= {EXPERTS[kind]: lambda seed, kind=kind: study.experts(seed, kind) for kind in study.options.experts}
    by_seed = {}
    for name, states in trained.items():
        drawn = [study.features([one.state for one in states(seed)], extractor) for seed in study.seeds]
        by_seed[name] = np.array([frechet_distance(features, real) for features in drawn])
    return {
        "accuracy of the classifier": extractor.accuracy,
        "features": extractor.width,
        "samples": study.options.samples,
        "training images used": len(rows),
        "training images": frechet_distance(extractor.features(study.images.train[torch.from_numpy(rows)]), real),
        "two halves": frechet_distance(real[order[::2]], real[order[1::2]]),
        "distances": {
            name: {
                "distance": t_interval(values).to_dict(),
                "against_vanilla": t_interval(values - by_seed["vanilla"]).to_dict(),
                "by_seed": values.tolist(),
            }
            for name, values in by_seed.items()
        },
    }


class Timed:
    """A model under training, as :func:`train_denoiser` trains it."""

    def __init__(self, study, name):
        self.model, self.study = study.model(0), study
        self.tasks = None if name == "vanilla" else study.tasks(name)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        self.average, self.generator = moving_average(self.model, EMA), torch.Generator().manual_seed(0)

    def seconds(self):
        """Processor time of a step, over a block."""
        start, batch = time.process_time(), self.study.options.batch
        for _ in range(BLOCK):
            clean = self.study.images.train[
                torch.randint(len(self.study.images.train), (batch,), generator=self.generator)
            ]
            noise = torch.randn(clean.shape, generator=self.generator)
            if self.tasks is None:
                t = torch.randint(0, 1000, (batch,), generator=self.generator)
            else:
                t = self.tasks.sample(batch, self.generator)
            pair = self.study.schedule, (clean, noise, t)
            training_step(self.model, self.optimizer, *pair, tasks=self.tasks, max_norm=1.0)
            self.average.update_parameters(self.model)
        return (time.process_time() - start) / BLOCK


def measure_time(study, methods):
    """Time of a step over that of vanilla, in interleaved blocks."""
    runs = {name: Timed(study, name) for name in ("vanilla", *methods)}
    for run in runs.values():
        run.seconds()
    seconds = {name: [] for name in runs}
    for number in range(study.options.rounds):
        names = list(runs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(runs[name].seconds())
    rows = {}
    for name, values in seconds.items():
        ratios = np.array(values) / np.array(seconds["vanilla"])
        low, high = np.quantile(ratios, [0.25, 0.75])
        rows[name] = {"seconds": float(np.median(values)), "ratio": float(np.median(ratios)),
                      "quartiles": [float(low), float(high)]}  # fmt: skip
    return rows


def measure_affinity(study):
    """Spearman correlation of affinity with the gap of time steps, by checkpoint and seed; mean affinity by gap."""
    rows, maps = [], []
    for seed in study.seeds:
        for step, made in study.affinities(seed):
            maps.append(made)
            rows.append({"seed": seed, "step": step, "falling": float(made.falling())})
    mean = average(maps)
    gap = np.abs(np.subtract.outer(mean.steps, mean.steps))
    part = np.round(gap / study.options.stride).astype(int)  # the last step is no multiple of the stride
    by_gap = [float(mean.values[part == number].mean()) for number in np.unique(part)]
    return {
        "checkpoints": rows,
        "falling": float(mean.falling()),
        "falling with the gap of log SNR": float(spearmanr(*mean.against_snr_gap(study.schedule)).statistic),
        "gaps": (np.unique(part) * study.options.stride).tolist(),
        "by_gap": np.round(by_gap, 4).tolist(),
    }


def percent(found):
    if found["low"] is None:
        return f"{100 * found['mean']:+.1f} %"
    return f"{100 * found['mean']:+.1f} % ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def table(title, head, rows):
    lines = [f"\n{title}\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def spread(found, form="{mean:.3f} ({low:.3f} to {high:.3f})"):
    return form.format(**{key: float("nan") if value is None else value for key, value in found.items()})


def show(found):
    """The tables, in Markdown."""
    spans = [*(f"{first}-{last}" for first, last in found["intervals"]["spans"]), "all steps"]
    losses, frechet = found["losses"], found["frechet"]
    rows = [[name, *map(percent, row["against_vanilla"])] for name, row in losses.items() if name != "vanilla"]
    print(table("Validation loss relative to vanilla (below 0 is better)", ["method", *spans], rows))
    for kind in found["settings"]["experts"]:
        rows = [[name, *map(percent, row["gap_relative"][kind])] for name, row in losses.items() if "gap" in row]
        title = f"Negative-transfer gap, {EXPERTS[kind]}: loss relative to the model's (below 0: negative transfer)"
        print(table(title, ["method", *spans], rows))
    rows = [[name, *(f"{value:.4f}" for value in row["loss"])] for name, row in losses.items()]
    print(table("Mean validation loss", ["method", *spans], rows))
    rows = [
        [name, spread(row["distance"]), spread(row["against_vanilla"])] for name, row in frechet["distances"].items()
    ]
    print(table("Frechet distance (lower is better)", ["method", "distance", "less that of vanilla"], rows))
    print(
        f"\nfor orientation: {frechet['training images']:.3f} from {frechet['training images used']} training images "
        "(the classifier knows these, so it is somewhat too large), "
        f"{frechet['two halves']:.3f} between the halves of the validation images; the classifier is right on "
        f"{frechet['accuracy of the classifier']:.1%}"
    )
    rows = [
        [name, f"{1e3 * row['seconds']:.1f}", "{:.3f} ({:.3f} to {:.3f})".format(row["ratio"], *row["quartiles"])]
        for name, row in found["time"].items()
    ]
    print(table("Time of a step", ["method", "ms", "over vanilla (quartiles)"], rows))
    print(
        f"\naffinity against gap of steps, Spearman: {found['affinity']['falling']:+.3f}; of log SNR: "
        f"{found['affinity']['falling with the gap of log SNR']:+.3f}; of steps, by checkpoint:"
    )
    for row in found["affinity"]["checkpoints"]:
        print(f"  seed {row['seed']}, after {row['step']} steps: {row['falling']:+.3f}")


def draw(found, path):
    """Losses by interval, and affinity by gap."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=(3, 2))
    spans = [*(f"{first}-{last}" for first, last in found["intervals"]["spans"]), "all"]
    names = [name for name in found["losses"] if name != "vanilla"]
    for number, name in enumerate(names):
        values = found["losses"][name]["against_vanilla"]
        x = np.arange(len(spans)) + (number - (len(names) - 1) / 2) * 0.8 / len(names)
        mean = np.array([100 * value["mean"] for value in values])
        known = all(value["low"] is not None for value in values)
        ends = [np.array([100 * value[end] for value in values]) if known else mean for end in ("low", "high")]
        error = [mean - ends[0], ends[1] - mean]
        left.errorbar(x, mean, error, fmt="o", markersize=4, capsize=2, label=name)
    left.axhline(0, color="#888888", linewidth=1)
    left.set_xticks(range(len(spans)), spans)
    left.set(xlabel="time steps", ylabel="validation loss against vanilla, %")
    left.legend(frameon=False, fontsize=8)
    right.plot(found["affinity"]["gaps"], found["affinity"]["by_gap"], color="#2f6db5")
    right.set(xlabel="gap of time steps", ylabel="mean affinity (cosine)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("fashion-mnist", "digits"), default="fashion-mnist")
    parser.add_argument("--fashion", type=Path, default=FOLDER)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--experts", default=",".join(EXPERTS), help="kinds of experts, or nothing")
    parser.add_argument("--criterion", choices=("snr", "time", "gradient"), default="snr")
    parser.add_argument("--prediction", choices=("epsilon", "v", "sample"), default="epsilon")
    parser.add_argument("--work", type=Path, default=Path("runs/diffusion-benchmark"))
    parser.add_argument("--into", type=Path, help="folder for result and figure")
    numbers = {"size": 16, "steps": 2000, "batch": 40, "k": 5, "seeds": 3, "images": 1000, "draws": 4, "samples": 1000,
               "sampling-steps": 25, "stride": 25, "affinity-images": 256, "rounds": 9}  # fmt: skip
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    options.experts = [kind for kind in options.experts.split(",") if kind]
    if not set(options.experts) <= set(EXPERTS):
        parser.error(f"--experts takes {', '.join(EXPERTS)}; found {', '.join(options.experts)}")
    return options


def main():
    options = read_options()
    torch.set_num_threads(1)
    if options.data == "fashion-mnist" and not options.fashion.is_dir():
        print(f"no files in {options.fashion}, left out; --data digits --size 8 needs none")
        return
    images = load_images(options.data, options.fashion, options.size)
    methods = available(options.methods.split(","))
    work = options.work / f"{options.data}-{options.size}"
    with open_run(work, fingerprint=f"{options.data}-{options.size}", settings={"benchmark": "diffusion"}) as store:
        study = Study(options, store, images)
        affinity = average([made for _, made in study.affinities(0)]) if options.criterion == "gradient" else None
        study.intervals = step_intervals(study.schedule, options.k, options.criterion, affinity=affinity)
        spans = [list(span) for span in study.intervals.spans]
        settings = {name: value for name, value in vars(options).items() if name not in ("work", "into", "fashion")}
        settings |= {"channels": CHANNELS, "learning_rate": LEARNING_RATE, "ema": EMA, "schedule": "cosine"}
        settings |= {"parameters": sum(p.numel() for p in study.model(0).parameters()), "threads": 1}
        found = {
            "settings": settings,
            "intervals": {"criterion": options.criterion, "spans": spans},
            "losses": measure_losses(study, methods),
            "frechet": measure_samples(study, methods),
            "affinity": measure_affinity(study),
            "time": measure_time(study, methods),
        }
    result = (options.into or HERE / "results") / "diffusion.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    draw(found, (options.into or HERE.parent / "docs" / "figures") / "diffusion.png")


if __name__ == "__main__":
    main()
