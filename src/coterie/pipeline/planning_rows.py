"""The rows and totals of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from coterie.affinity.estimator import TrainingCall, TrainingStage
from coterie.affinity.linearize import KEEP_BYTES
from coterie.pipeline.planning_measurements import COPIES, FIXED, Measurements, resident, trainings_unit, write_seconds
from coterie.pipeline.planning_time import Timing
from coterie.training.stackable import is_stackable

Row = dict[str, Any]
#: seconds of imports below which these are the noise of the clock
NOTICED = 0.05


def rows_of(measured: Measurements) -> list[Row]:
    """All stages, in order."""
    trained = [_trained(measured, stage) for stage in measured.planned.stages]
    kept = [row for row, stage in zip(trained, measured.planned.stages, strict=True) if stage.trainings[0].kept]
    found = [*kept, *_features(measured), *(row for row in trained if row not in kept), _search(measured)]
    found += [_comparison(measured), _end(measured)]
    if measured.started.cpu > NOTICED:
        found.insert(0, _row("imports", "modules that a run needs", "", measured.started))
    return found


def totals(measured: Measurements, rows: Sequence[Row]) -> Row:
    """Sums, and the peak of the process with what they are made of."""
    disk = {row["stage"]: row["disk_bytes"] for row in rows if row["disk_bytes"]}
    # what is kept of the estimate is there in every stage; what the comparison keeps, only at its end
    estimate = int(measured.planned.bases * measured.cost.stored[-1]) if measured.cost else 0
    stages = {row["stage"]: row["memory_bytes"] for row in rows}
    stages["report"] += int(measured.sizes.held)
    largest = max(stages, key=lambda stage: stages[stage])
    now, before = resident(), measured.before
    peak = None if before is None or now is None else max(now[1], before[0] + estimate + stages[largest])
    return {
        "peak_memory_bytes": peak,
        "disk_bytes": sum(disk.values()),
        **{name: sum(row[name] for row in rows) for name in ("seconds", "cpu_seconds", "seconds_at_most")},
        "memory": {
            "process": None if before is None else before[0],
            "kept of the estimate": estimate,
            f"largest stage: {largest}": stages[largest],
        },
        "disk": disk,
    }


def notes(measured: Measurements, total: Row) -> list[str]:
    """What is worth knowing about this plan."""
    pilot, structure, peak = measured.pilot, measured.prepared.structure, total["peak_memory_bytes"]
    memory = "" if peak is None else f"a peak of {peak / 2**20:,.0f} MiB of memory and "
    found = [
        f"Expected: {_spoken(total['seconds'])} (at most {_spoken(total['seconds_at_most'])}), {memory}"
        f"{total['disk_bytes'] / 2**20:,.1f} MiB on disk.",
        f"Pilot: {len(pilot.fits)} real trainings in {pilot.timing.wall:.1f} s, "
        f"{max(done.steps for done in pilot.fits)} steps at most.",
    ]
    if pilot.limit is not None:
        found.append(
            f"The pilot was cut off at {pilot.limit} steps, before early stopping: trainings are expected to take as "
            "long as the geometric mean of the soonest early stop and the last epoch, and may well take another time."
        )
    linear = sum(head.linear for head in structure.heads)
    heads = f"heads: {linear} linear of {measured.request.workload.n_tasks}"
    return [*found, f"trunk: {len(structure.trunk)} parameter tensors; {heads}"]


def _trained(measured: Measurements, stage: TrainingStage) -> Row:
    """A stage of the estimate that trains models."""
    sizes, n, disk = measured.sizes, measured.request.workload.n_tasks, 0.0
    for one in stage.trainings:
        count = len(one.sizes)
        checks = measured.checks(one.sizes[0]) if one.steps is None else 0.0
        unit = trainings_unit(sizes.state, sizes.tensors, n, count, checks)
        disk += one.calls * (unit if one.kept else count * (8 * n + 60)) + (not one.kept) * 900
    timings = [sum((measured.trained(one, most=most) for one in stage.trainings), Timing()) for most in (False, True)]
    flops = [sum(measured.flops(one, most=most) for one in stage.trainings) for most in (False, True)]
    return _row(
        stage.stage, stage.what, _why(measured), timings[0], flops=flops[0], disk=disk, most=(timings[1], flops[1]),
        memory=_population(measured) + stage.states * sizes.state,
    )  # fmt: skip


def _features(measured: Measurements) -> list[Row]:
    cost, features, bases = measured.cost, measured.planned.features, measured.planned.bases
    if cost is None or features is None:
        return []
    stored = sum(cost.stored[min(number, len(cost.stored) - 1)] for number in range(bases))
    stored = stored if cost.features_bytes <= KEEP_BYTES else 0.0
    held = cost.features_bytes + (COPIES - 1) * cost.stored[0] * (stored > 0) + features.bytes
    timing, flops = cost.features * bases, bases * features.flops
    return [_row(features.stage, features.what, features.why, timing, flops=flops, disk=stored, memory=held)]


def _search(measured: Measurements) -> Row:
    """Everything that asks the model, and the search itself."""
    n, search, cost = measured.request.workload.n_tasks, measured.search, measured.cost
    asked = cost.call * (search.calls * measured.planned.bases) if cost else Timing()
    counts = ", ".join(str(count) for count in measured.request.counts) or "no"
    why = f"about {search.subsets:.0f} subsets asked in {search.calls:.0f} calls"
    return _row("search for groups", f"{counts} groups", why, search.own + measured.solve + asked,
                disk=22 * n * n + 120 * n, memory=measured.planned.solve_bytes)  # fmt: skip


def _comparison(measured: Measurements) -> Row:
    request, sizes, n = measured.request, measured.sizes, measured.request.workload.n_tasks
    members, seeds = measured.members, measured.runs / len(measured.members)
    # an upper bound has groups that all differ
    most_members = [n, *[1] * n, *[size for k in request.counts for size in [-(-n // k)] * k]]
    grow = request.most / len(most_members)
    timing, flops = _compared(measured, members)
    most, most_flops = _compared(measured, most_members, most=True)
    why = _why(measured)
    if request.balancing is not None:
        alone = "" if request.balancing.stackable else ", which trains groups one by one"
        why = f"{why}; balancing: {request.balancing}{alone}"
    return _row(
        "comparison", f"{request.most} real trainings", f"{why}; {measured.runs} are expected to differ",
        timing * seeds + measured.losses * (seeds * len(members)), flops=flops * seeds, disk=sizes.units,
        most=(most * grow + measured.losses * request.most, most_flops * grow),
        memory=max(_population(measured), COPIES * sizes.unit) + sizes.states * (1 - 1 / sizes.seeds),
    )  # fmt: skip


def _end(measured: Measurements) -> Row:
    """Intervals, the served models, the page and all other files."""
    sizes, page = measured.sizes, measured.page
    served = float(np.mean([1, *measured.request.counts])) * (sizes.state + 90 * sizes.tensors)
    disk = page.result + page.report + sizes.table + served + FIXED + 400 * sizes.n_tasks
    written = write_seconds() * (sizes.units + sizes.table)
    return _row("report", "intervals, served models, page", "", page.timing + Timing(written, written), disk=disk,
                memory=sizes.table)  # fmt: skip


def _compared(measured: Measurements, sizes: Sequence[int], *, most: bool = False) -> tuple[Timing, float]:
    """Time and FLOPs of the comparison's trainings with one seed; methods that combine gradients train one by one."""
    balancing, unit = measured.request.balancing, measured.prepared.costs.unit
    what = TrainingCall(tuple(sizes))
    plain = measured.flops(what, most=most)
    if balancing is None:
        return measured.trained(what, most=most), plain
    passes = {size: unit.step(balancing.passes(size)) / max(unit.step(), 1.0) if size > 1 else 1.0 for size in {*sizes}}
    flops = sum(measured.flops(TrainingCall((size,)), most=most) * passes[size] for size in sizes)
    if balancing.stackable:
        return measured.trained(what, most=most) * (flops / max(plain, 1.0)), flops
    timing = measured.trained(TrainingCall((1,) * sum(size == 1 for size in sizes)), most=most)
    for size in {*sizes} - {1}:
        own = replace(what, sizes=tuple(one for one in sizes if one == size))
        timing += measured.trained(own, most=most, stacked=False) * passes[size]
    return timing, flops


def _population(measured: Measurements) -> float:
    """Bytes of the pilot's largest population, or its model, checks included.

    At least by shapes: how far the process grew leaves out what fits into memory that it had freed but not given back.
    Where its peak stayed where it was, by work of others, its growth says nothing.
    """
    shapes = float(min(len(measured.members), measured.pilot.cost.at_once) * measured.footprint.member)
    if measured.before is None or measured.after is None or measured.after[1] <= measured.before[1]:
        return shapes
    return max(shapes, float(measured.after[1] - measured.before[0]))


def _why(measured: Measurements) -> str:
    stackable, why = is_stackable(measured.request.workload)
    return "population training: all at once" if stackable else f"one model after the other: {why}"


def _spoken(seconds: float) -> str:
    """A time in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _row(
    stage: str, what: str, why: str, timing: Timing, *, flops: float = 0.0, disk: float = 0.0, memory: float = 0.0,
    most: tuple[Timing, float] | None = None,
) -> Row:  # fmt: skip
    """A row; `most` has the time and the FLOPs that it may take at most, where they differ."""
    timing_at_most, flops_at_most = most or (timing, flops)
    return {
        "stage": stage,
        "what": what,
        "why": why,
        "memory_bytes": int(memory),
        "flops": float(flops),
        "seconds": timing.wall,
        "cpu_seconds": timing.cpu,
        "disk_bytes": int(disk),
        "flops_at_most": float(max(flops, flops_at_most)),
        "seconds_at_most": max(timing.wall, timing_at_most.wall),
    }
