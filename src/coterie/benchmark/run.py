"""The benchmark of one workload: its bank, every method on it, what comes of their groups."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any

import coterie
from coterie._check import whole_number
from coterie._context import Context
from coterie._progress import Progress, silent
from coterie._surface import known_arguments
from coterie.benchmark.bank import Bank, make_bank
from coterie.benchmark.entries import ENTRIES, Entry, select
from coterie.benchmark.groups import default_counts, find_grouping, judge
from coterie.benchmark.measure import estimate_entry, measure
from coterie.benchmark.references import SUBSETS, References, references
from coterie.datasets.benchmark_data import BENCHMARK_DATA, BenchmarkData, benchmark_data
from coterie.errors import SettingError, WorkerError
from coterie.evaluation.bank_plan import BankCounts, BankPlan
from coterie.grouping import Grouping
from coterie.pipeline.candidates import typical_size
from coterie.store import RunDirectory, open_run
from coterie.store.files import json_bytes
from coterie.workload import Workload, load_workload, validate
from coterie.workload.fingerprint import fingerprint

FILE = "benchmark.json"
FORMAT = 1


@known_arguments
@dataclass(frozen=True)
class Options(BankCounts):
    """Settings of a benchmark; those of the bank are explained in :class:`coterie.evaluation.bank_plan.BankPlan`.

    Attributes:
        methods: names of entries or methods; None for the whole list.
        subsets: random subsets of the truth.
        replicates: trainings of each.
        common: further trainings of them with common random numbers.
        pool: other subsets, trained once.
        singles: trainings of every task alone and of all together.
        pairs: pairs of tasks.
        pair_replicates: trainings of each pair.
        groups: numbers of groups that are tried; None for a fifth of the tasks (3 to 5), () for no groupings.
        group_replicates: trainings of every group that a method finds.
        draws: random groupings beside them.
        draw_replicates: trainings of each of their groups.
        resamples: of the bootstrap.
        seed: of the methods, the resamples and the random groupings. The bank has its own.
        memory: working memory in bytes.

    Raises:
        SettingError: when a value is out of range.
    """

    methods: tuple[str, ...] | None = None
    _: KW_ONLY
    groups: tuple[int, ...] | None = None
    group_replicates: int = 4
    draws: int = 10
    draw_replicates: int = 2
    resamples: int = 300
    seed: int = 0
    memory: int = 2**30

    def __post_init__(self) -> None:
        self.plan((2,))
        for name, low in (("group_replicates", 1), ("draws", 0), ("draw_replicates", 1), ("resamples", 0)):
            whole_number(getattr(self, name), name, low=low)
        whole_number(self.seed, "seed", low=0, high=2**31 - 1)
        whole_number(self.memory, "memory", low=1)

    def plan(self, sizes: tuple[int, ...]) -> BankPlan:
        """The plan of a bank with subsets of these sizes."""
        return BankPlan(sizes, **{count.name: getattr(self, count.name) for count in fields(BankCounts)})


def find_data(reference: str | Workload) -> BenchmarkData:
    """The benchmark data set of a built-in workload, or of a user's own.

    Args:
        reference: a built-in name, ``"file.py:name"``, or a workload.

    Raises:
        WorkloadError: no such name or file.
        SettingError: a workload of fewer than 3 tasks, which has no different subsets.

    Example:
        >>> find_data("water").sizes
        (5,)
    """
    if isinstance(reference, str) and reference in BENCHMARK_DATA:
        return benchmark_data(reference)
    work = reference if isinstance(reference, Workload) else load_workload(reference)
    if work.n_tasks < 3:
        raise SettingError(
            f"Parameter `workload` should have at least 3 tasks, or there are no subsets to tell apart. "
            f"Found {work.n_tasks}."
        )
    return BenchmarkData(work.name, (typical_size(work.n_tasks),), lambda: work, tuned=False)


def prepare(where: BenchmarkData, options: Options) -> BenchmarkData:
    """The data set, its workload made and checked against the settings: errors show before anything is trained.

    Args:
        where: the benchmark data set.
        options: settings of the benchmark.

    Raises:
        SettingError: more groups than tasks.
        WorkloadError, ModelError, MissingDependencyError: from making the workload and checking it.

    Example:
        >>> prepare(find_data("digits"), Options(groups=(4,))).make().n_tasks
        20
    """
    work = where.make()
    validate(work)
    for k in options.groups or ():
        whole_number(k, "groups", low=1)
        if k > work.n_tasks:
            raise SettingError(
                f"Parameter `groups` should be at most {work.n_tasks}, the number of tasks of {work.name!r}. "
                f"Found {k}. Ask for fewer groups, or leave it out for {default_counts(work.n_tasks)[0]}."
            )
    return replace(where, make=lambda: work)


@known_arguments
def benchmark(
    on: BenchmarkData | Workload | str,
    options: Options | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    entries: Sequence[Entry] = ENTRIES,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Measure methods on a workload: skill, cost, and what their groups are worth.

    A method that fails does not stop the others: the text of its error stands in its row.

    Args:
        on: a benchmark data set, a built-in name, ``"file.py:name"``, or a workload.
        options: settings; the defaults are those of the published tables.
        out: run directory; a benchmark that was stopped goes on there, and one with a larger bank adds to it. None
            keeps everything in memory.
        overwrite: replace another run in that directory.
        entries: what can be measured.
        progress: called as ``progress(stage, done, total)``.
        executor: where trainings run; None is this process. See docs/cluster.md.

    Returns:
        The content of ``benchmark.json`` in the run directory; see docs/benchmark.md.

    Raises:
        SettingError, WorkloadError, ModelError, StoreError: see :mod:`coterie.errors`.

    Cost: about 1,900 trainings with 14 tasks and the default settings, and what the methods cost.
    """
    options, progress = options or Options(), progress or silent
    chosen = select(options.methods, entries)
    where = prepare(on if isinstance(on, BenchmarkData) else find_data(on), options)
    work = where.make()
    plan = options.plan(where.sizes)
    counts = default_counts(work.n_tasks) if options.groups is None else options.groups
    settings = {"benchmark": {"sizes": list(plan.sizes), "seed": plan.seed}}
    with open_run(
        out, fingerprint=fingerprint(work), settings=settings, overwrite=overwrite, workload=work
    ) as directory:
        context = Context(options.seed, options.memory, directory, progress, executor)
        bank = make_bank(work, plan, context)
        found = references(bank, resamples=options.resamples, seed=options.seed)
        rows, groupings = _measure_all(bank, found, chosen, counts, context)
        judged = [_judge(bank, k, groupings[k], options, context) for k in counts]
        result = _describe(where, bank, found, rows, judged, options)
        if isinstance(directory, RunDirectory):
            directory.write(FILE, json_bytes(result))
    return result


def _measure_all(
    bank: Bank,
    found: References,
    chosen: Sequence[Entry],
    counts: Sequence[int],
    context: Context,
) -> tuple[list[dict[str, Any]], dict[int, dict[str, Grouping]]]:
    """A row a method, and the groupings that it leads to; the estimates themselves are dropped."""
    rows: list[dict[str, Any]] = []
    groupings: dict[int, dict[str, Grouping]] = {k: {} for k in counts}
    for number, entry in enumerate(chosen):
        context.progress("methods", number, len(chosen))
        row: dict[str, Any] = {**entry.to_dict(), "error": None, "skipped": None}
        rows.append(row)
        if entry.most_tasks is not None and bank.workload.n_tasks > entry.most_tasks:
            row["skipped"] = f"more than {entry.most_tasks} tasks"
            continue
        try:
            estimate = estimate_entry(bank, entry, context)
            row.update(measure(bank, found, estimate, seed=context.seed))
            for k in counts:
                groupings[k][entry.name] = find_grouping(estimate, k, context.seed)
        except WorkerError:  # no fault of the method
            raise
        except Exception as error:  # one method that fails must not lose the others
            row["error"] = f"{type(error).__name__}: {error}"
    context.progress("methods", len(chosen), len(chosen))
    return rows, groupings


def _judge(bank: Bank, k: int, found: dict[str, Grouping], options: Options, context: Context) -> dict[str, Any]:
    return judge(
        bank,
        k,
        found,
        context,
        replicates=options.group_replicates,
        draws=options.draws,
        draw_replicates=options.draw_replicates,
    )


def _describe(
    where: BenchmarkData,
    bank: Bank,
    found: References,
    rows: list[dict[str, Any]],
    judged: list[dict[str, Any]],
    options: Options,
) -> dict[str, Any]:
    work = bank.workload
    return {
        "benchmark": FORMAT,
        "coterie": coterie.__version__,
        "bed": {
            "name": where.name,
            "tasks": list(work.task_names),
            "kinds": sorted({task.kind for task in work.tasks}),
            "sizes": list(where.sizes),
            "tuned": where.tuned,
            "rows": {part: len(work.split.part(part)) for part in ("train", "validation", "test")},
            "missing": float(1 - work.observed.double().mean()),
        },
        "settings": {
            **{item.name: getattr(options, item.name) for item in fields(options)},
            "reference_subsets": SUBSETS,
        },
        "bank": {
            "subsets": len(bank.test.subsets),
            "replicates": bank.test.replicates,
            "pool": len(bank.pool.subsets),
            "pairs": len(bank.pairs.subsets),
            "trainings": bank.trainings,
            "run_flops": bank.test.run_flops,
            "seconds": bank.seconds,
        },
        "references": found.to_dict(),
        "entries": rows,
        "groupings": judged,
    }
