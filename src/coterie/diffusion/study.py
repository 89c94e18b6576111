"""A study of time steps as tasks: their affinity, intervals from it or from the schedule, and what balancing is worth.

Vanilla training with checkpoints -> affinity map -> intervals -> training on the intervals with each method ->
validation losses, Frechet distances, samples. Every part is a unit of a run directory: a study that was stopped goes
on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._context import Context
from coterie._files import user_path
from coterie._progress import Progress, silent
from coterie._random import random_numbers
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie._units import Payload
from coterie.balancing import get_balancer
from coterie.datasets.images import Images, load_images
from coterie.diffusion.affinity import StepAffinity, average, check_steps, step_affinity
from coterie.diffusion.config import DiffusionConfig
from coterie.diffusion.gradients import ProbeSettings
from coterie.diffusion.intervals import step_intervals
from coterie.diffusion.lookahead import lookahead_affinity
from coterie.diffusion.quality import QualityEvaluator
from coterie.diffusion.schedule import NoiseSchedule
from coterie.diffusion.summary import summarise
from coterie.diffusion.tasks import IntervalTasks
from coterie.diffusion.train import DenoiserRecipe, Trained, train_denoiser
from coterie.diffusion.unet import make_unet
from coterie.errors import StoreError
from coterie.grouping.intervals.programme import Intervals
from coterie.store import MemoryRun, RunDirectory, open_run
from coterie.store.arrays import decode, encode
from coterie.store.files import read_bytes, read_json, reading, text, to_plain
from coterie.workload.checks import as_device

#: how the training without intervals is called
VANILLA = "vanilla"
#: version of ``result.json``
FORMAT = 1
#: where shown images lie in the run directory
SAMPLES = "samples.safetensors"


@short_repr
@dataclass(frozen=True, eq=False)
class StepStudy:
    """What a study found.

    Attributes:
        facts: the mapping of ``result.json``: configuration, affinity, intervals, a row a method.
        samples: name -> (n, H, W) uint8 images; ``"data"`` are real ones, the others come from models of seed 0 and
            start from the same noise.
    """

    facts: Mapping[str, Any]
    samples: Mapping[str, NDArray[np.uint8]]

    @property
    def affinity(self) -> StepAffinity:
        """The affinity map, mean over checkpoints and seeds."""
        found = self.facts["affinity"]
        steps, values = np.asarray(found["steps"], dtype=np.int64), np.asarray(found["values"], dtype=np.float64)
        return StepAffinity(steps, values, found["n_steps"], found["kind"], dict(found["facts"]))

    @property
    def intervals(self) -> Intervals:
        """The intervals that were trained."""
        found = self.facts["intervals"]
        return Intervals(tuple(found["starts"]), found["n"], found["cost"])

    @classmethod
    def load(cls, path: str | Path) -> StepStudy:
        """The study of a run directory.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        path = user_path(path)
        facts = read_json(path / "result.json")
        if not isinstance(facts, dict) or facts.get("diffusion") != FORMAT:
            raise StoreError(f"{str(path)!r} holds no result of `coterie diffusion`, or one of another version.")
        with reading(path / SAMPLES, "the samples of this study"):
            names = dict.fromkeys((text(name) for name in facts["samples"]["names"]), "numpy")
            arrays = decode(read_bytes(path / SAMPLES), names)
        from coterie.diffusion.page import render

        study = cls(facts, {name: np.asarray(array, dtype=np.uint8) for name, array in arrays.items()})
        with reading(path / "result.json", "a result of `coterie diffusion`"):
            check_steps(facts["affinity"]["n_steps"])
            render(study)  # whatever is shown of it later is tried now
        return study


@dataclass(frozen=True, eq=False)
class _Bench:
    """What every part of a study works with."""

    config: DiffusionConfig
    images: Images
    schedule: NoiseSchedule
    device: torch.device
    run: RunDirectory | MemoryRun
    progress: Progress

    def model(self, seed: int) -> nn.Module:
        """The denoiser as every training with this seed starts from."""
        with random_numbers(seed=seed):
            return make_unet(self.config.model.channels, self.images.shape[0], self.images.shape[-1]).to(self.device)

    def load(self, state: Mapping[str, Tensor], seed: int = 0) -> nn.Module:
        """The denoiser with given weights, for evaluation."""
        model = self.model(seed)
        model.load_state_dict(dict(state))
        return model.eval()

    def say(self, what: str) -> Progress:
        """Progress of one part under a name of its own."""
        return lambda stage, done, total: self.progress(what, done, total)


@known_arguments
def run_study(
    config: DiffusionConfig,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> StepStudy:
    """Do a study; one that was stopped goes on where it was, with the same numbers.

    Seeds are 0, 1, ...; the same seed means the same start for every method. Methods may be added to the configuration
    of a finished study: the trainings that are there are found again.

    Args:
        config: what to do.
        out: the run directory, which then holds ``result.json``, ``report.html``, ``samples.safetensors`` and, with
            matplotlib, ``affinity.png`` and ``samples.png``; None keeps everything in memory.
        overwrite: replace another run in that directory.
        progress: called as ``progress(stage, done, total)``.

    Raises:
        SettingError: a setting that cannot be used.
        StoreError: the directory holds another run, or cannot be written.
        MissingDependencyError: diffusers is not installed.

    Cost: (methods + 1) x (seeds) trainings; of the rest, most is drawing samples.

    Source: the steps are those of Go et al., "Addressing Negative Transfer in Diffusion Models", NeurIPS 2023
        (arXiv 2306.00354), at a small scale.
    """
    progress, device = progress or silent, as_device(config.training.device)
    part = config.data
    images = load_images(part.name, part.folder, part.size)
    schedule = make_schedule(config)
    make_unet(config.model.channels, images.shape[0], images.shape[-1])  # refuses before there is a directory
    for name in config.balancing.methods:
        get_balancer(name, config.intervals.k)
    settings = {f"{a}.{b}": value for a, keys in config.to_dict().items() for b, value in keys.items()}
    for name in ("data.folder", "balancing.methods"):  # where, not what; and what may be added to
        settings.pop(name)
    with open_run(
        out, fingerprint=_fingerprint(images), settings={"verb": "diffusion", **settings}, overwrite=overwrite
    ) as run:
        study = _study(_Bench(config, images, schedule, device, run, progress))
        run.write_result(study.facts)
        if isinstance(run, RunDirectory):
            from coterie.diffusion.figures import figures
            from coterie.diffusion.page import render
            from coterie.report.html import page_bytes

            run.write(SAMPLES, encode(dict(study.samples)))
            run.write(run.report_path.name, page_bytes(render(study)))
            for name, data in figures(study).items():
                run.write(name, data)
    return study


def make_schedule(config: DiffusionConfig) -> NoiseSchedule:
    """The noise schedule of a configuration."""
    make = {"cosine": NoiseSchedule.cosine, "linear": NoiseSchedule.linear}[config.schedule.kind]
    return make(config.schedule.steps, prediction=config.schedule.prediction)


def _fingerprint(images: Images) -> str:
    found = hashlib.sha256()
    for part in (images.train, images.validation):
        found.update(str(tuple(part.shape)).encode())
        found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()


def _study(bench: _Bench) -> StepStudy:
    config, seeds = bench.config, range(bench.config.training.seeds)
    trained = {VANILLA: [_train(bench, VANILLA, seed, None) for seed in seeds]}
    maps = [_affinity(bench, trained[VANILLA][seed], seed) for seed in seeds]
    cut = config.intervals
    intervals = step_intervals(
        bench.schedule, cut.k, cut.criterion, affinity=average(maps) if cut.criterion == "gradient" else None,
        snr=cut.snr,
    )  # fmt: skip
    for method in config.balancing.methods:
        trained[method] = [_train(bench, method, seed, intervals) for seed in seeds]
    judge = QualityEvaluator.of(config, bench.images, bench.schedule, intervals, bench.run)
    found: dict[str, list[Payload]] = {}
    for name, runs in trained.items():
        found[name] = [_judge(bench, judge, name, seed, done) for seed, done in enumerate(runs)]
    samples = {"data": judge.shown(), **{name: np.asarray(own[0].arrays["shown"]) for name, own in found.items()}}
    facts = {"diffusion": FORMAT, **summarise(judge, maps, trained, found), "samples": {"names": list(samples)}}
    return StepStudy(to_plain(facts), samples)


def _train(bench: _Bench, name: str, seed: int, intervals: Intervals | None) -> Trained:
    """One training: vanilla with checkpoints, or on intervals with a method."""
    part, total = bench.config.training, bench.config.affinity.checkpoints
    kept = [round(part.steps * (i + 1) / total) for i in range(total)] if intervals is None else []
    recipe = DenoiserRecipe(part.steps, part.batch, part.learning_rate, ema=part.ema, checkpoints=tuple(kept))
    context = Context(seed=seed, store=bench.run, progress=bench.say(f"training, {name}, seed {seed}"))
    tasks = None if intervals is None else IntervalTasks(intervals, balancing=name)
    return train_denoiser(bench.model(seed), bench.images.train, bench.schedule, recipe, context, tasks=tasks)


def _affinity(bench: _Bench, vanilla: Trained, seed: int) -> StepAffinity:
    """The map of one seed: mean over the checkpoints of its training."""
    part = bench.config.affinity
    maps: list[StepAffinity] = []
    for step, state in sorted(vanilla.checkpoints.items()):
        maps.append(_one_map(bench, state, {"seed": seed, "step": step, "kind": part.kind}))
    return average(maps)


def _one_map(bench: _Bench, state: Mapping[str, Tensor], key: Mapping[str, Any]) -> StepAffinity:
    part, seed = bench.config.affinity, int(key["seed"])

    def compute() -> Payload:
        model, images = bench.load(state), bench.images.train.to(bench.device)
        say = bench.say(f"affinity, seed {seed}, after {key['step']} steps")
        how = ProbeSettings(stride=part.stride, examples=part.examples), Context(seed=seed, progress=say)
        if part.kind == "lookahead":
            rate = bench.config.training.learning_rate
            found = lookahead_affinity(model, images, bench.schedule, *how, learning_rate=rate)
        else:
            found = step_affinity(model, images, bench.schedule, *how, sketch=part.sketch or None)
        return Payload({"steps": found.steps, "values": found.values}, {"facts": dict(found.facts)})

    payload = bench.run.unit("affinity of time steps", key, compute)
    steps, values = np.asarray(payload.arrays["steps"]), np.asarray(payload.arrays["values"])
    return StepAffinity(steps, values, bench.schedule.n_steps, part.kind, payload.meta["facts"])


def _judge(bench: _Bench, judge: QualityEvaluator, name: str, seed: int, done: Trained) -> Payload:
    key = {"name": name, "seed": seed, "starts": list(judge.intervals.starts)}
    stage = f"evaluation, {name}, seed {seed}"
    bench.progress(stage, 0, 1)
    payload = bench.run.unit("evaluation of a denoiser", key, lambda: judge(bench.load(done.state), seed))
    bench.progress(stage, 1, 1)
    return payload
