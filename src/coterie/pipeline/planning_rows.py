"""The rows and totals of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coterie.affinity.grad_tae import LONG_FORKS
from coterie.affinity.linearize import KEEP_BYTES
from coterie.affinity.secants import secant_flops
from coterie.affinity.surrogates.fused import MATRICES, Fused
from coterie.affinity.surrogates.real_runs import BLOCK
from coterie.features.plan import plan_features
from coterie.pipeline.planning_estimate import asked_before
from coterie.pipeline.planning_measurements import Measurements
from coterie.pipeline.planning_memory import COPIES, FIXED, resident, trainings_unit, write_seconds
from coterie.pipeline.planning_split import reference_size
from coterie.pipeline.planning_time import Timing
from coterie.training.stack import is_stackable

Row = dict[str, Any]
#: seconds of imports below which these are the noise of the clock
NOTICED = 0.05


def rows_of(measured: Measurements) -> list[Row]:
    """All stages, in order."""
    found = [
        *_bases(measured),
        *_features(measured),
        *_runs(measured),
        _search(measured),
        _comparison(measured),
        _end(measured),
    ]
    return (
        [_row("imports", "modules that a run needs", "", measured.started), *found]
        if measured.started.cpu > NOTICED
        else found
    )


def totals(measured: Measurements, rows: Sequence[Row]) -> Row:
    """Sums, and the peak of the process with what they are made of."""
    disk = {row["stage"]: row["disk_bytes"] for row in rows if row["disk_bytes"]}
    # what is kept of the estimate is there in every stage; what the comparison keeps, only at its end
    estimate, compared = (
        int(measured.planned.bases * measured.cost.kept) if measured.cost else 0,
        int(measured.sizes.held),
    )
    stages = {row["stage"]: row["memory_bytes"] for row in rows if row["stage"] != "report"}
    stages["report"] = compared + sum(row["memory_bytes"] for row in rows if row["stage"] == "report")
    largest = max(stages, key=lambda stage: stages[stage])
    now = resident()
    peak = None
    if measured.before is not None and now is not None:
        peak = max(now[1], measured.before[0] + estimate + stages[largest])
    return {
        "peak_memory_bytes": peak,
        "disk_bytes": sum(disk.values()),
        "seconds": sum(row["seconds"] for row in rows),
        "cpu_seconds": sum(row["cpu_seconds"] for row in rows),
        "seconds_at_most": sum(row["seconds_at_most"] for row in rows),
        "memory": {
            "process": None if measured.before is None else measured.before[0],
            "kept of the estimate": estimate,
            f"largest stage: {largest}": stages[largest],
        },
        "disk": disk,
    }


def notes(measured: Measurements, total: Row) -> list[str]:
    """What is worth knowing about this plan."""
    pilot, structure = measured.pilot, measured.prepared.structure
    longest = max(done.steps for done in pilot.fits)
    peak = total["peak_memory_bytes"]
    memory = "" if peak is None else f"a peak of {peak / 2**20:,.0f} MiB of memory and "
    found = [
        f"Expected: {_spoken(total['seconds'])} (at most {_spoken(total['seconds_at_most'])}), {memory}"
        f"{total['disk_bytes'] / 2**20:,.1f} MiB on disk."
    ]
    found.append(f"Pilot: {len(pilot.fits)} real trainings in {pilot.timing.wall:.1f} s, {longest} steps at most.")
    if pilot.limit is not None:
        found.append(
            f"The pilot was cut off at {pilot.limit} steps, before early stopping: trainings are expected to take as "
            "long as the geometric mean of the soonest early stop and the last epoch, and may well take another time."
        )
    linear = sum(head.linear for head in structure.heads)
    n = measured.request.workload.n_tasks
    found.append(f"trunk: {len(structure.trunk)} parameter tensors; heads: {linear} linear of {n}")
    return found


def _bases(measured: Measurements) -> list[Row]:
    request, planned, n = measured.request, measured.planned, measured.request.workload.n_tasks
    if not planned.bases:
        return []
    why, sizes, early = _why(measured), measured.sizes, request.base.share > 0
    full = [n] if early else [n] * planned.bases
    once = measured.trained(full)
    timing = once + measured.step_cost.trainings([planned.steps] * planned.bases) if early else once
    flops = measured.flops(full) + early * _steps_flops(measured, (n,), planned.bases * planned.steps)
    disk = trainings_unit(sizes.state, sizes.tensors, n, planned.bases, 0) if early else 0.0
    disk += trainings_unit(sizes.state, sizes.tensors, n, len(full), measured.checks(n))
    rows = [
        _row("base models", f"{planned.bases + early} trainings on all tasks", why, timing, flops=flops, disk=disk,
             memory=_population(measured),
             most=(measured.trained(full, most=True), measured.flops(full, most=True)))
    ]  # fmt: skip
    if request.base.directions in ("secants", "task-vectors"):
        rows.append(_forks(measured, "task vectors", n, planned.bases, planned.fork))
    if request.base.ridge == "matched" and early:
        rows.append(_forks(measured, "choice of the ridge", min(LONG_FORKS, n), 1, 3 * planned.fork))
    return rows


def _forks(measured: Measurements, stage: str, tasks: int, bases: int, steps: int) -> Row:
    """Short trainings on single tasks from each base."""
    timing = measured.step_cost.trainings([steps] * tasks) * bases
    disk = bases * trainings_unit(
        measured.sizes.state, measured.sizes.tensors, measured.request.workload.n_tasks, tasks, 0
    )
    flops = bases * _steps_flops(measured, (1,), tasks * steps)
    what = f"{bases * tasks} short trainings of {steps} steps"
    # the ends, and where they have gone from the base in double precision
    memory = _population(measured) + 3 * tasks * measured.sizes.state
    return _row(stage, what, _why(measured), timing, flops=flops, disk=disk, memory=memory)


def _features(measured: Measurements) -> list[Row]:
    cost, request, bases = measured.cost, measured.request, measured.planned.bases
    if cost is None:
        return []
    workload, unit, n = request.workload, measured.prepared.costs.unit, request.workload.n_tasks
    stored = sum(cost.stored[min(number, 1)] for number in range(bases))
    stored = stored if cost.features_bytes <= KEEP_BYTES else 0.0
    held = cost.features_bytes + (COPIES - 1) * cost.stored[0] * (stored > 0)
    if request.base.directions == "secants":
        what, why, flops = f"margins at {n} ends, d = {n}", "forward passes only", secant_flops(workload, n, unit)
        stage, working = "secant features", 0.0
    else:
        count = request.base.count if request.base.directions == "random" else n
        features = plan_features(workload, measured.prepared.structure, count, request.memory)
        rows = len(workload.split.train) + len(workload.split.validation)
        flops = rows * (unit.forward + count * (unit.jvp - unit.forward))
        stage, what, why = "gradient features", f"{features.mode} mode, d = {count}", features.reason
        working = features.bytes
    return [
        _row(stage, what, why, cost.features * bases, flops=bases * flops, disk=stored, memory=held + working)
    ]  # fmt: skip


def _runs(measured: Measurements) -> list[Row]:
    request, runs = measured.request, measured.planned.runs
    if not runs:
        return []
    sizes = [min(max(2, request.size), request.workload.n_tasks)] * min(runs, BLOCK)
    blocks = runs / len(sizes)
    return [
        _row("real trainings of subsets", f"{runs} ordinary trainings", _why(measured),
             measured.trained(sizes) * blocks, flops=measured.flops(sizes) * blocks,
             disk=runs * (8 * request.workload.n_tasks + 60) + 900, memory=_population(measured),
             most=(measured.trained(sizes, most=True) * blocks, measured.flops(sizes, most=True) * blocks))
    ]  # fmt: skip


def _search(measured: Measurements) -> Row:
    """Everything that asks the model, and the search itself."""
    request, n, cost = measured.request, measured.request.workload.n_tasks, measured.cost
    calls, subsets = asked_before(n, request.size, request.base.ridge == "stopped", reference_size(request.estimator))
    calls, subsets = calls + measured.search.calls, subsets + measured.search.subsets
    timing = measured.search.own + measured.process
    if cost is not None:
        timing += (cost.call * calls + cost.subset * subsets) * measured.planned.bases
    observed = measured.planned.runs * max(2, request.size) if isinstance(request.estimator, Fused) else 0
    counts = ", ".join(str(count) for count in request.counts) or "no"
    return _row(
        "search for groups", f"{counts} groups", f"about {subsets:.0f} subsets asked in {calls:.0f} calls", timing,
        disk=22 * n * n + 120 * n, memory=8 * MATRICES * observed**2,
    )  # fmt: skip


def _comparison(measured: Measurements) -> Row:
    request, sizes, n = measured.request, measured.sizes, measured.request.workload.n_tasks
    members, seeds = measured.members, measured.runs / len(measured.members)
    # an upper bound has groups that all differ
    most_members = [n, *[1] * n, *[size for k in request.counts for size in [-(-n // k)] * k]]
    grow = request.most / len(most_members)
    timing = _compared(measured, members) * seeds + measured.losses * (seeds * len(members))
    most = _compared(measured, most_members, most=True) * grow + measured.losses * request.most
    why = _why(measured)
    if request.balancing is not None:
        alone = "" if request.balancing.stackable else ", which trains groups one by one"
        why = f"{why}; balancing: {request.balancing}{alone}"
    return _row(
        "comparison", f"{request.most} real trainings", f"{why}; {measured.runs} are expected to differ", timing,
        flops=_compared_flops(measured, members) * seeds, disk=sizes.units,
        most=(most, _compared_flops(measured, most_members, most=True) * grow),
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


def _steps_flops(measured: Measurements, like: tuple[int, ...], steps: float) -> float:
    """FLOPs of so many steps."""
    workload = measured.request.workload
    rows = np.mean([len(workload.rows_of(f.job.subset, "train")) for size in like for f in measured.like(size)])
    batch = workload.recipe.batch_size
    return float(steps * rows / max(1.0, np.ceil(rows / batch)) * measured.prepared.costs.unit.training)


def _balanced(measured: Measurements, size: int) -> float:
    """How many times the FLOPs of a plain training a balanced one on so many tasks takes; 1 for a single task."""
    balancing, unit = measured.request.balancing, measured.prepared.costs.unit
    if balancing is None or size < 2:
        return 1.0
    return unit.step(balancing.passes(size)) / max(unit.step(), 1.0)


def _compared_flops(measured: Measurements, sizes: Sequence[int], *, most: bool = False) -> float:
    """FLOPs of the comparison's trainings with one seed."""
    return sum(measured.flops([size], most=most) * _balanced(measured, size) for size in sizes)


def _compared(measured: Measurements, sizes: Sequence[int], *, most: bool = False) -> Timing:
    """Time of the comparison's trainings with one seed, where methods that combine gradients train one by one."""
    balancing = measured.request.balancing
    if balancing is None or balancing.stackable:
        plain = measured.flops(sizes, most=most)
        factor = _compared_flops(measured, sizes, most=most) / plain if plain else 1.0
        return measured.trained(sizes, 0.5, most=most) * factor
    timing = measured.trained([size for size in sizes if size == 1], 0.5, most=most)
    for size in {size for size in sizes if size > 1}:
        own = [one for one in sizes if one == size]
        timing += measured.trained(own, 0.5, most=most, stacked=False) * _balanced(measured, size)
    return timing


def _population(measured: Measurements) -> float:
    """Bytes of the pilot's largest population, or its model, checks included.

    At least by shapes: how far the process grew leaves out what fits into memory that it had freed but not given back.
    Where its peak stayed where it was, by work of others, its growth says nothing.
    """
    shapes = float(min(len(measured.members), measured.step_cost.at_once) * measured.footprint.member)
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
