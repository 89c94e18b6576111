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
from coterie.features import plan_features
from coterie.pipeline.planning_draft import Draft
from coterie.pipeline.planning_estimate import asked_before
from coterie.pipeline.planning_memory import COPIES, FIXED, resident, trainings_unit, write_seconds
from coterie.pipeline.planning_split import reference_size
from coterie.pipeline.planning_time import Took
from coterie.training import is_stackable

Row = dict[str, Any]
#: seconds of imports below which these are the noise of the clock
NOTICED = 0.05


def rows_of(draft: Draft) -> list[Row]:
    """All stages, in order."""
    found = [*_bases(draft), *_features(draft), *_runs(draft), _search(draft), _comparison(draft), _end(draft)]
    return (
        [_row("imports", "modules that a run needs", "", draft.started), *found]
        if draft.started.cpu > NOTICED
        else found
    )


def totals(draft: Draft, rows: Sequence[Row]) -> Row:
    """Sums, and the peak of the process with what they are made of."""
    disk = {row["stage"]: row["disk_bytes"] for row in rows if row["disk_bytes"]}
    # what is kept of the estimate is there in every stage; what the comparison keeps, only at its end
    estimate, compared = int(draft.shares.bases * draft.cost.kept) if draft.cost else 0, int(draft.sizes.held)
    stages = {row["stage"]: row["memory_bytes"] for row in rows if row["stage"] != "report"}
    stages["report"] = compared + sum(row["memory_bytes"] for row in rows if row["stage"] == "report")
    largest = max(stages, key=lambda stage: stages[stage])
    now = resident()
    peak = None
    if draft.before is not None and now is not None:
        peak = max(now[1], draft.before[0] + estimate + stages[largest])
    return {
        "peak_memory_bytes": peak,
        "disk_bytes": sum(disk.values()),
        "seconds": sum(row["seconds"] for row in rows),
        "cpu_seconds": sum(row["cpu_seconds"] for row in rows),
        "seconds_at_most": sum(row["seconds_at_most"] for row in rows),
        "memory": {
            "process": None if draft.before is None else draft.before[0],
            "kept of the estimate": estimate,
            f"largest stage: {largest}": stages[largest],
        },
        "disk": disk,
    }


def notes(draft: Draft, total: Row) -> list[str]:
    """What is worth knowing about this plan."""
    pilot, structure = draft.pilot, draft.context.structure
    longest = max(done.steps for done in pilot.fits)
    peak = total["peak_memory_bytes"]
    memory = "" if peak is None else f"a peak of {peak / 2**20:,.0f} MiB of memory and "
    found = [
        f"Expected: {_spoken(total['seconds'])} (at most {_spoken(total['seconds_at_most'])}), {memory}"
        f"{total['disk_bytes'] / 2**20:,.1f} MiB on disk."
    ]
    found.append(f"Pilot: {len(pilot.fits)} real trainings in {pilot.took.wall:.1f} s, {longest} steps at most.")
    if pilot.limit is not None:
        found.append(
            f"The pilot was cut off at {pilot.limit} steps, before early stopping: trainings are expected to take as "
            "long as the geometric mean of the soonest early stop and the last epoch, and may well take another time."
        )
    linear = sum(head.linear for head in structure.heads)
    n = draft.wish.workload.n_tasks
    found.append(f"trunk: {len(structure.trunk)} parameter tensors; heads: {linear} linear of {n}")
    return found


def _bases(draft: Draft) -> list[Row]:
    wish, shares, n = draft.wish, draft.shares, draft.wish.workload.n_tasks
    if not shares.bases:
        return []
    why, sizes, early = _why(draft), draft.sizes, wish.base.share > 0
    full = [n] if early else [n] * shares.bases
    once = draft.trained(full)
    took = once + draft.prices.trainings([shares.steps] * shares.bases) if early else once
    flops = draft.flops(full) + early * _steps_flops(draft, (n,), shares.bases * shares.steps)
    disk = trainings_unit(sizes.state, sizes.tensors, n, shares.bases, 0) if early else 0.0
    disk += trainings_unit(sizes.state, sizes.tensors, n, len(full), draft.checks(n))
    rows = [
        _row("base models", f"{shares.bases + early} trainings on all tasks", why, took, flops=flops, disk=disk,
             memory=_population(draft), most=draft.trained(full, most=True),
             flops_at_most=draft.flops(full, most=True))
    ]  # fmt: skip
    if wish.base.directions in ("secants", "task-vectors"):
        rows.append(_forks(draft, "task vectors", n, shares.bases, shares.fork))
    if wish.base.ridge == "matched" and early:
        rows.append(_forks(draft, "choice of the ridge", min(LONG_FORKS, n), 1, 3 * shares.fork))
    return rows


def _forks(draft: Draft, stage: str, tasks: int, bases: int, steps: int) -> Row:
    """Short trainings on single tasks from each base."""
    took = draft.prices.trainings([steps] * tasks) * bases
    disk = bases * trainings_unit(draft.sizes.state, draft.sizes.tensors, draft.wish.workload.n_tasks, tasks, 0)
    flops = bases * _steps_flops(draft, (1,), tasks * steps)
    what = f"{bases * tasks} short trainings of {steps} steps"
    # the ends, and where they have gone from the base in double precision
    memory = _population(draft) + 3 * tasks * draft.sizes.state
    return _row(stage, what, _why(draft), took, flops=flops, disk=disk, memory=memory)


def _features(draft: Draft) -> list[Row]:
    cost, wish, bases = draft.cost, draft.wish, draft.shares.bases
    if cost is None:
        return []
    workload, unit, n = wish.workload, draft.context.costs.unit, wish.workload.n_tasks
    stored = sum(cost.stored[min(number, 1)] for number in range(bases))
    stored = stored if cost.features_bytes <= KEEP_BYTES else 0.0
    held = cost.features_bytes + (COPIES - 1) * cost.stored[0] * (stored > 0)
    if wish.base.directions == "secants":
        what, why, flops = f"margins at {n} ends, d = {n}", "forward passes only", secant_flops(workload, n, unit)
        stage, working = "secant features", 0.0
    else:
        count = wish.base.count if wish.base.directions == "random" else n
        features = plan_features(workload, draft.context.structure, count, wish.memory)
        rows = len(workload.split.train) + len(workload.split.validation)
        flops = rows * (unit.forward + count * (unit.jvp - unit.forward))
        stage, what, why = "gradient features", f"{features.mode} mode, d = {count}", features.reason
        working = features.bytes
    return [
        _row(stage, what, why, cost.features * bases, flops=bases * flops, disk=stored, memory=held + working)
    ]  # fmt: skip


def _runs(draft: Draft) -> list[Row]:
    wish, runs = draft.wish, draft.shares.runs
    if not runs:
        return []
    sizes = [min(max(2, wish.size), wish.workload.n_tasks)] * min(runs, BLOCK)
    blocks = runs / len(sizes)
    return [
        _row("real trainings of subsets", f"{runs} ordinary trainings", _why(draft), draft.trained(sizes) * blocks,
             flops=draft.flops(sizes) * blocks, disk=runs * (8 * wish.workload.n_tasks + 60) + 900,
             memory=_population(draft), most=draft.trained(sizes, most=True) * blocks,
             flops_at_most=draft.flops(sizes, most=True) * blocks)
    ]  # fmt: skip


def _search(draft: Draft) -> Row:
    """Everything that asks the model, and the search itself."""
    wish, n, cost = draft.wish, draft.wish.workload.n_tasks, draft.cost
    calls, subsets = asked_before(n, wish.size, wish.base.ridge == "stopped", reference_size(wish.estimator))
    calls, subsets = calls + draft.search.calls, subsets + draft.search.subsets
    took = draft.search.own + draft.process
    if cost is not None:
        took += (cost.call * calls + cost.subset * subsets) * draft.shares.bases
    observed = draft.shares.runs * max(2, wish.size) if isinstance(wish.estimator, Fused) else 0
    counts = ", ".join(str(count) for count in wish.counts) or "no"
    return _row(
        "search for groups", f"{counts} groups", f"about {subsets:.0f} subsets asked in {calls:.0f} calls", took,
        disk=22 * n * n + 120 * n, memory=8 * MATRICES * observed**2,
    )  # fmt: skip


def _comparison(draft: Draft) -> Row:
    wish, sizes, n = draft.wish, draft.sizes, draft.wish.workload.n_tasks
    members, seeds = draft.members, draft.runs / len(draft.members)
    # an upper bound has groups that all differ
    most_members = [n, *[1] * n, *[size for k in wish.counts for size in [-(-n // k)] * k]]
    grow = wish.most / len(most_members)
    took = _compared(draft, members) * seeds + draft.losses * (seeds * len(members))
    most = _compared(draft, most_members, most=True) * grow + draft.losses * wish.most
    why = _why(draft)
    if wish.balancing is not None:
        alone = "" if wish.balancing.stackable else ", which trains groups one by one"
        why = f"{why}; balancing: {wish.balancing}{alone}"
    return _row(
        "comparison", f"{wish.most} real trainings", f"{why}; {draft.runs} are expected to differ", took,
        flops=_compared_flops(draft, members) * seeds, disk=sizes.units, most=most,
        flops_at_most=_compared_flops(draft, most_members, most=True) * grow,
        memory=max(_population(draft), COPIES * sizes.unit) + sizes.states * (1 - 1 / sizes.seeds),
    )  # fmt: skip


def _end(draft: Draft) -> Row:
    """Intervals, the served models, the page and all other files."""
    sizes, page = draft.sizes, draft.page
    served = float(np.mean([1, *draft.wish.counts])) * (sizes.state + 90 * sizes.tensors)
    disk = page.result + page.report + sizes.table + served + FIXED + 400 * sizes.n_tasks
    written = write_seconds() * (sizes.units + sizes.table)
    return _row("report", "intervals, served models, page", "", page.took + Took(written, written), disk=disk,
                memory=sizes.table)  # fmt: skip


def _steps_flops(draft: Draft, like: tuple[int, ...], steps: float) -> float:
    """FLOPs of so many steps."""
    workload = draft.wish.workload
    rows = np.mean([len(workload.rows_of(f.job.subset, "train")) for size in like for f in draft.like(size)])
    batch = workload.recipe.batch_size
    return float(steps * rows / max(1.0, np.ceil(rows / batch)) * draft.context.costs.unit.training)


def _balanced(draft: Draft, size: int) -> float:
    """How many times the FLOPs of a plain training a balanced one on so many tasks takes; 1 for a single task."""
    balancing, unit = draft.wish.balancing, draft.context.costs.unit
    if balancing is None or size < 2:
        return 1.0
    return unit.step(balancing.passes(size)) / max(unit.step(), 1.0)


def _compared_flops(draft: Draft, sizes: Sequence[int], *, most: bool = False) -> float:
    """FLOPs of the comparison's trainings with one seed."""
    return sum(draft.flops([size], most=most) * _balanced(draft, size) for size in sizes)


def _compared(draft: Draft, sizes: Sequence[int], *, most: bool = False) -> Took:
    """Time of the comparison's trainings with one seed, where methods that combine gradients train one by one."""
    balancing = draft.wish.balancing
    if balancing is None or balancing.stackable:
        plain = draft.flops(sizes, most=most)
        factor = _compared_flops(draft, sizes, most=most) / plain if plain else 1.0
        return draft.trained(sizes, 0.5, most=most) * factor
    took = draft.trained([size for size in sizes if size == 1], 0.5, most=most)
    for size in {size for size in sizes if size > 1}:
        own = [one for one in sizes if one == size]
        took += draft.trained(own, 0.5, most=most, stacked=False) * _balanced(draft, size)
    return took


def _population(draft: Draft) -> float:
    """Bytes of the pilot's largest population, or its model, checks included.

    At least by shapes: how far the process grew leaves out what fits into memory that it had freed but not given back.
    Where its peak stayed where it was, by work of others, its growth says nothing.
    """
    shapes = float(min(len(draft.members), draft.prices.at_once) * draft.footprint.member)
    if draft.before is None or draft.after is None or draft.after[1] <= draft.before[1]:
        return shapes
    return max(shapes, float(draft.after[1] - draft.before[0]))


def _why(draft: Draft) -> str:
    stackable, why = is_stackable(draft.wish.workload)
    return "population training: all at once" if stackable else f"one model after the other: {why}"


def _spoken(seconds: float) -> str:
    """A time in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _row(
    stage: str, what: str, why: str, took: Took, *, flops: float = 0.0, disk: float = 0.0, memory: float = 0.0,
    most: Took | None = None, flops_at_most: float | None = None,
) -> Row:  # fmt: skip
    return {
        "stage": stage,
        "what": what,
        "why": why,
        "memory_bytes": int(memory),
        "flops": float(flops),
        "seconds": took.wall,
        "cpu_seconds": took.cpu,
        "disk_bytes": int(disk),
        "flops_at_most": float(max(flops, flops_at_most or 0.0)),
        "seconds_at_most": max(took.wall, most.wall if most else 0.0),
    }
