"""``coterie run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coterie._bars import shown
from coterie.cli.options import (
    GIBIBYTE,
    Balancing,
    Bases,
    Budget,
    DecideBy,
    Groups,
    Memory,
    Method,
    Metrics,
    Runs,
    SearchLimit,
    Seed,
    Seeds,
    Workload,
    Worthwhile,
    given,
    run_directory,
)
from coterie.cli.session import Session, in_session


@in_session("workers", "dask", "overwrite")
def run(
    s: Session,
    workload: Workload,
    groups: Groups = None,
    budget: Budget = None,
    seeds: Seeds = 5,
    runs: Runs = None,
    worthwhile: Worthwhile = 0.01,
    method: Method = "fused",
    balancing: Balancing = None,
    metrics: Metrics = None,
    decide_by: DecideBy = None,
    search_limit: SearchLimit = None,
    bases: Bases = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory.", show_default="runs/NAME", file_okay=False)
    ] = None,
    memory: Memory = GIBIBYTE,  # pyright: ignore[reportArgumentType]  # the parser turns it into bytes
    seed: Seed = 0,
) -> None:
    """Find groups, train and compare them, say what to do.

    A run that was stopped goes on where it was when the same command is given again.

    Example: [bold]coterie run file.py:workload --budget 3 --out runs/mine[/bold]
    """
    from coterie import pipeline

    with s.executor() as executor:
        result = pipeline.run(
            workload,
            method=method,
            groups=groups,
            budget=budget,
            seeds=seeds,
            worthwhile=worthwhile,
            out=out or run_directory(workload),
            memory=memory,
            overwrite=s.overwrite,
            seed=seed,
            progress=s.progress,
            executor=executor,
            **given(
                bases=bases,
                compare_runs=runs,
                balancing=balancing,
                search_limit=search_limit,
                metrics=metrics or None,
                decide_by=decide_by,
            ),
        )
    finish(s, result)


def finish(s: Session, result: Any) -> None:
    """Print what a run found and where its page is."""
    report = None if result.report is None else str(result.report)
    if s.as_json:
        s.emit({**result.to_dict(), "path": None if result.path is None else str(result.path), "report": report})
        return
    from coterie.report.console import print_summary

    s.progress.stop()
    print_summary(result.to_dict(), s.console, paths={} if report is None else {"report": shown(report)})
