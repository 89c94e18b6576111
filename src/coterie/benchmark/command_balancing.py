"""``coterie benchmark balancing``: what methods of balancing are worth on real data."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from rich.console import Console

from coterie.cli.options import run_directory
from coterie.cli.session import Session

#: the word that takes the place of the first workload
WORD = "balancing"
DATA_SETS = ("yeast", "chemicals", "mhc")


def run_balancing(
    s: Session,
    workloads: Sequence[str],
    methods: Sequence[str] | None,
    seeds: Sequence[int],
    out: Path | None,
    memory: int,
    executor: Executor | None = None,
) -> None:
    """Compare methods on every workload and print a table each; a comparison that was stopped goes on where it was."""
    from coterie._context import Context
    from coterie.benchmark.balancing import choose_methods, compare_balancing
    from coterie.benchmark.run import find_data
    from coterie.errors import SettingError
    from coterie.store import open_run
    from coterie.workload import validate
    from coterie.workload.fingerprint import fingerprint

    chosen = list(choose_methods(methods))
    if len(seeds) < 2:
        raise SettingError(
            f"Parameter `replicates` should be at least 2 for intervals over trainings. Found {len(seeds)}."
        )
    references = list(workloads or DATA_SETS)
    names = [f"benchmark-balancing-{run_directory(reference).name}" for reference in references]
    if len(set(names)) < len(names):
        raise SettingError(f"Parameter `workloads` should name different workloads. Found {references}.")
    data_sets = [find_data(reference).make() for reference in references]  # all, before the first takes its time
    results: list[dict[str, Any]] = []
    for work, name in zip(data_sets, names, strict=True):
        validate(work)
        path = (out or Path("runs")) / name if out is None or len(data_sets) > 1 else out
        settings = {"verb": "benchmark balancing", "methods": chosen, "seeds": list(seeds)}
        with open_run(
            path, fingerprint=fingerprint(work), settings=settings, overwrite=s.overwrite, workload=work
        ) as run:
            context = Context(memory=memory, store=run, progress=s.progress, executor=executor)
            found = compare_balancing(work, methods, context, seeds=seeds)
            run.write_result(found)
        results.append(found)
    s.progress.stop()
    for found in () if s.as_json else results:
        print_balancing(s.console, found)
    if s.as_json:
        s.emit({"benchmarks": results})


def print_balancing(console: Console, found: dict[str, Any]) -> None:
    """A table of one workload, the best method first."""
    from coterie.cli.tables import print_table

    console.print(
        f"{found['workload']}: {found['tasks']} tasks in one model, {len(found['seeds'])} seeds. "
        "Mean relative change of the loss, lower is better.",
        markup=False,
    )
    rows = sorted(found["methods"], key=lambda row: row["delta"]["mean"])
    cells = [
        (
            row["name"],
            _percent(row["delta"]),
            "" if row["against_equal"] is None else _percent(row["against_equal"]),
            f"{row['better']:.0%}",
            "" if row["score"]["mean"] is None else f"{row['score']['mean']:.4f}",
        )
        for row in rows
    ]
    columns = ("method", "against alone, %", "against equal", "better", found["score"] or "score")
    print_table(console, columns, cells, right=1)


def _percent(interval: dict[str, float]) -> str:
    mean, low, high = (100 * interval[name] for name in ("mean", "low", "high"))
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
