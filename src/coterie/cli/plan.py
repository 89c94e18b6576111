"""``coterie plan``: what a run will take, before it is begun."""

from __future__ import annotations

from coterie.cli.options import (
    GIBIBYTE,
    Balancing,
    Bases,
    Budget,
    Groups,
    Memory,
    Method,
    Runs,
    Seeds,
    Workload,
    given,
)
from coterie.cli.session import Session, in_session


@in_session()
def plan(
    s: Session,
    workload: Workload,
    groups: Groups = None,
    budget: Budget = None,
    seeds: Seeds = 5,
    runs: Runs = None,
    method: Method = "fused",
    balancing: Balancing = None,
    bases: Bases = None,
    memory: Memory = GIBIBYTE,  # pyright: ignore[reportArgumentType]  # the parser turns it into bytes
) -> None:
    """Predict the peak memory, the time and the disk of a run; say which backend would run where and why.

    Example: [bold]coterie plan chemicals --seeds 5 --memory 4GiB[/bold]
    """
    from coterie import pipeline

    found = pipeline.plan(
        workload,
        method=method,
        groups=groups,
        budget=budget,
        seeds=seeds,
        memory=memory,
        progress=s.progress,
        **given(bases=bases, compare_runs=runs, balancing=balancing),
    )
    if s.as_json:
        s.emit(found)
        return
    from coterie.cli.tables import print_plan

    s.progress.stop()
    print_plan(s.console, found)
