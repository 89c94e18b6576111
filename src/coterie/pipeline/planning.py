"""What a run would do, and what it would take, before it is begun."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from coterie._check import whole_number
from coterie._process_lock import process_lock
from coterie._progress import Progress, silent
from coterie._show import html_table
from coterie._surface import known_arguments
from coterie.affinity import Estimator
from coterie.affinity.estimator import estimator_of
from coterie.balancing import Balancing
from coterie.balancing.methods import as_balancing
from coterie.errors import SettingError
from coterie.pipeline.candidates import group_counts, has_overlapping, typical_size
from coterie.pipeline.check import as_workload, check_settings
from coterie.pipeline.planning_measurements import Measurements, PlanRequest
from coterie.pipeline.planning_rows import notes, rows_of, totals
from coterie.report.formats import DASH, duration, flops, size
from coterie.workload import Workload, validate

_HEAD = ("stage", "what", "memory", "FLOPs", "time", "disk")


class Plan(dict[str, Any]):
    """The answer of :func:`coterie.plan`, JSON-ready; at a prompt and in a notebook it is a table.

    Example:
        >>> Plan(rows=[{"stage": "base models", "what": "2 trainings", "seconds": 3.0}], totals={"seconds": 3.0})
        Plan: 3.00 s expected
          base models  2 trainings  –  –  3.00 s  –
    """

    def _rows(self) -> list[tuple[str, ...]]:
        return [_cells(row) for row in self.get("rows", ())]

    def _total(self) -> str:
        total: Mapping[str, Any] = self.get("totals", {})
        most, peak, disk = (total.get(name) for name in ("seconds_at_most", "peak_memory_bytes", "disk_bytes"))
        said = [f"{duration(total.get('seconds'))} expected"]
        said += [f"{duration(most)} at most"] if most is not None else []
        said += [f"peak memory {size(peak)}"] if peak is not None else []
        said += [f"disk {size(disk)}"] if disk is not None else []
        return "Plan: " + ", ".join(said)

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))] if rows else []
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self._total(), *(f"  {line.rstrip()}" for line in lines)]).replace("\u00a0", " ")

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return html_table(_HEAD, self._rows(), f"{self._total()}. {' '.join(self.get('notes', ()))}".strip(), left=2)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (size(row.get("memory_bytes")), flops(row.get("flops")), duration(row.get("seconds")))
    return (str(row.get("stage", DASH)), str(row.get("what", "")), *numbers, size(row.get("disk_bytes")))


#: what the numbers do not cover
NOTES = (
    "Expected values; those at most count every training to the last epoch. Seconds are those of run() on this machine "
    "as it is now, without the start of Python and the loading of data.",
    "Memory is that of this process with everything loaded that a run needs, and what the run adds to it.",
)


@known_arguments
def plan(
    workload: Workload | str,
    *,
    method: str | Estimator = "fused",
    groups: int | None = None,
    budget: int | None = None,
    seeds: int = 5,
    compare_runs: int | None = None,
    balancing: Balancing | str | None = None,
    memory: int = 2**30,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Predict the peak memory, the time and the disk of a run, stage by stage; say which backend runs where and why.

    A pilot trains a few of the models for real, one alone and some together, with the recipe's early stopping, and
    says what a step takes; the estimate is rehearsed on a few hundred examples, the search for groups on a random
    matrix, and the page on random losses. Nothing is kept.

    Args:
        workload: as for :func:`coterie.run`, like everything else.
        method: affinity estimator, built on base models.
        groups: number of groups.
        budget: largest number of models that may be served.
        seeds: trainings of every candidate model.
        compare_runs: largest number of real trainings of the comparison.
        balancing: of the models that are compared and served.
        memory: working memory in bytes.
        progress: called as ``progress(stage, done, total)``.
        options: settings of the estimator.

    Returns:
        ``{"rows": [{"stage", "what", "why", "memory_bytes", "flops", "seconds", "cpu_seconds", "disk_bytes",
        "flops_at_most", "seconds_at_most"}], "totals": {"peak_memory_bytes", "disk_bytes", "seconds", "cpu_seconds",
        "seconds_at_most", "memory": {...}, "disk": {...}}, "notes": [...]}``. Rows have the working memory of a stage;
        the peak has the process and what is kept, too. It is None where the system does not tell. It is shown as a
        table.

    Raises:
        ResourceError: what the estimate would refuse; before the pilot, unless a budget decides on base models.
        SettingError: a method that is not built on base models, and what :func:`coterie.run` refuses.

    Cost: about five to fifteen seconds of small models, up to eight of them in the pilot; where a step takes seconds,
    some dozens of steps.
    """
    tell = progress or silent
    tell("plan", 0, 4)
    estimator = estimator_of(plan, method, options)
    balancing = as_balancing(balancing)
    workload = as_workload(workload)
    groups, budget, seeds, _, memory = check_settings(workload, groups, budget, seeds, 0, memory)
    check_runs(workload.n_tasks, groups, budget, seeds, compare_runs)
    validate(workload)
    counts = group_counts(workload.n_tasks, groups, budget)
    models = sum(_proper(workload.n_tasks, counts)) + (budget or 0) * has_overlapping(workload.n_tasks, groups, budget)
    most = min(seeds * (1 + workload.n_tasks + models), compare_runs or sys.maxsize)
    with process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run will say them
        request = PlanRequest(
            workload, estimator, groups, budget, counts, seeds, most, balancing, memory,
            typical_size(workload.n_tasks, groups),
        )  # fmt: skip
        measured = Measurements.make(request, tell)
        gc.collect()
        rows = rows_of(measured)
        total = totals(measured, rows)
        found = Plan(rows=rows, totals=total, notes=[*notes(measured, total), *NOTES])
    tell("plan", 4, 4)
    return found


def check_runs(n_tasks: int, groups: int | None, budget: int | None, seeds: int, runs: int | None) -> None:
    """Refuse a budget of the comparison that is too small, before anything was estimated.

    Raises:
        SettingError: with the smallest useful budget.
    """
    if runs is None:
        return
    whole_number(runs, "compare_runs", low=1)
    counts, simple = _proper(n_tasks, group_counts(n_tasks, groups, budget)), 1 + n_tasks
    final = min(2, seeds)
    least = final * (simple + max(counts, default=0)) + (sum(counts) if len(counts) > 1 else 0)
    least = min(least, final * (simple + sum(counts)))  # nothing needs to be chosen where all can be in the final
    if runs < least:
        choosing = f"groupings into {counts} groups: each of them trained once, and " if len(counts) > 1 else ""
        raise SettingError(
            f"Parameter `compare_runs` should be at least {least} for {choosing}a final with {final} seeds beside "
            f"all-in-one and single-task models, which take {simple} a seed. Found {runs}. Allow more runs, or name "
            "one number of groups with `groups`."
        )


def _proper(n_tasks: int, counts: list[int]) -> list[int]:
    """Without one group and one group a task, which every comparison has already."""
    return [count for count in counts if 1 < count < n_tasks]
