"""What a study reports: affinity against gaps, intervals, and a row of numbers for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coterie._units import Payload
from coterie.diffusion.affinity import StepAffinity, average
from coterie.diffusion.evaluate import mean_difference
from coterie.diffusion.quality import QualityEvaluator
from coterie.diffusion.schedule import NoiseSchedule
from coterie.diffusion.train import Trained
from coterie.evaluation.intervals import t_interval
from coterie.grouping.intervals.programme import Intervals

Floats = NDArray[np.float64]


def summarise(
    judge: QualityEvaluator,
    maps: Sequence[StepAffinity],
    trained: Mapping[str, Sequence[Trained]],
    found: Mapping[str, Sequence[Payload]],
) -> dict[str, Any]:
    """The JSON-ready result of a study.

    Args:
        judge: of the denoisers, with configuration, images, schedule and intervals.
        maps: affinity of each seed.
        trained: method -> its trainings, one a seed; the first method is vanilla.
        found: method -> what the judge found about each training.

    Returns:
        `methods` has a row each: `loss` (k intervals), `change` (of the loss, relative to vanilla with the same seed;
        below 0 is better), `overall` and `overall_change` (mean over all time steps), `frechet` (lower is better),
        `frechet_change` (relative to vanilla with the same seed), `seconds_per_step`. Means have 95 % intervals over
        seeds, changes of losses over seeds and images; null with one seed.
    """
    config, images = judge.config, judge.images
    return {
        "config": config.to_dict(),
        "seeds": list(range(len(maps))),
        "torch": torch.__version__,
        "data": {
            "name": images.name,
            "shape": list(images.shape),
            "train": len(images.train),
            "validation": len(images.validation),
            "measured": min(len(images.validation), config.evaluation.images),
        },
        "affinity": affinity_facts(maps, judge.schedule, config.affinity.stride),
        "intervals": interval_facts(judge.intervals, judge.schedule),
        "methods": method_rows(judge.intervals, trained, found),
        "frechet": {
            "real": judge.real(),
            "accuracy": judge.extractor.accuracy,
            "features": judge.extractor.width,
            "count": config.samples.count,
        },
    }


def affinity_facts(maps: Sequence[StepAffinity], schedule: NoiseSchedule, stride: int) -> dict[str, Any]:
    """The mean map, its curve against the gap for all seeds and each, and how it falls (Spearman)."""
    mean = average(maps)
    gaps, curve = against_gap(mean, stride)
    return {
        "steps": mean.steps.tolist(),
        "values": mean.values.tolist(),
        "n_steps": mean.n_steps,
        "kind": mean.kind,
        "facts": dict(mean.facts),
        "gaps": gaps.tolist(),
        "curve": curve.tolist(),
        "curves": [against_gap(one, stride)[1].tolist() for one in maps],
        "snr_gaps": [part.tolist() for part in mean.against_snr_gap(schedule)],
        "falling": t_interval(np.array([one.falling() for one in maps])).to_dict(),
    }


def against_gap(found: StepAffinity, stride: int) -> tuple[Floats, Floats]:
    """Mean gap and mean affinity of pairs whose gap rounds to the same multiple of the stride.

    The last step is probed, too, off the stride: without rounding its few pairs would make the curve a zigzag.
    """
    gap = np.abs(found.steps[:, None] - found.steps[None, :]).ravel().astype(float)
    group = np.where(gap > 0, np.maximum(np.rint(gap / stride), 1), 0)
    _, where = np.unique(group, return_inverse=True)
    count = np.bincount(where)
    return np.bincount(where, weights=gap) / count, np.bincount(where, weights=found.values.ravel()) / count


def interval_facts(intervals: Intervals, schedule: NoiseSchedule) -> dict[str, Any]:
    """Where the intervals lie, in time steps and in log SNR."""
    log_snr = schedule.log_snr.numpy()
    return {
        "starts": list(intervals.starts),
        "n": intervals.n,
        "cost": intervals.cost,
        "spans": [list(span) for span in intervals.spans],
        "log_snr": [[float(log_snr[first]), float(log_snr[last])] for first, last in intervals.spans],
    }


def method_rows(
    intervals: Intervals, trained: Mapping[str, Sequence[Trained]], found: Mapping[str, Sequence[Payload]]
) -> list[dict[str, Any]]:
    """A row a method; changes are against the first one."""
    share = np.diff([*intervals.starts, intervals.n]) / intervals.n
    reference = next(iter(found))
    losses = {name: np.stack([np.asarray(one.arrays["losses"]) for one in own]) for name, own in found.items()}
    frechet = {name: np.array([float(one.meta["frechet"]) for one in own]) for name, own in found.items()}
    base, far = losses[reference], frechet[reference]
    rows: list[dict[str, Any]] = []
    for name, own in losses.items():
        by_seed, plain = own.mean(1), name == reference
        rows.append(
            {
                "name": name,
                "loss": [t_interval(column).to_dict() for column in by_seed.T],
                "change": None if plain else _changes(own, base),
                "overall": t_interval(by_seed @ share).to_dict(),
                "overall_change": None if plain else _changes(own @ share[:, None], base @ share[:, None])[0],
                "frechet": t_interval(frechet[name]).to_dict(),
                "frechet_change": None if plain else t_interval((frechet[name] - far) / far).to_dict(),
                "seconds_per_step": float(np.mean([one.seconds / one.steps for one in trained[name]])),
                "by_seed": {"loss": by_seed.tolist(), "frechet": frechet[name].tolist()},
            }
        )
    return rows


def _changes(own: Floats, base: Floats) -> list[dict[str, float | None]]:
    """Relative change in each column of (seeds, images, columns) losses, with intervals from two seeds on.

    That of the images of one seed would say nothing about another training.
    """
    changes = mean_difference(own, base, relative=True)
    return [(one if len(own) > 1 else t_interval(np.array([one.mean]))).to_dict() for one in changes]
