"""``coterie add-task``: the group that should serve a task that arrived after a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.options import GIBIBYTE, Memory, Seed, Workload
from coterie.cli.session import Session, in_session


@in_session("workers", "dask")
def add_task(
    s: Session,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)],
    workload: Workload,
    task: Annotated[
        str | None, typer.Option("--task", help="Name of the new task, where WORKLOAD has several new ones.")
    ] = None,
    share: Annotated[float, typer.Option(help="Largest cost, as a share of that of the run.")] = 0.05,
    seeds: Annotated[int, typer.Option(min=1, help="Largest number of trainings of a candidate.")] = 3,
    memory: Memory = GIBIBYTE,  # pyright: ignore[reportArgumentType]  # the parser turns it into bytes
    seed: Seed = 0,
) -> None:
    """Say which group of a run should serve a new task, from a few trainings; the run stays as it is.

    WORKLOAD has the tasks of the run and the new one.

    Example: [bold]coterie add-task runs/mine file.py:with_one_more[/bold]
    """
    from coterie import pipeline
    from coterie.cli.tables import print_table

    with s.executor() as executor:
        found = pipeline.add_task(
            run, workload, task=task, share=share, seeds=seeds, seed=seed, memory=memory, progress=s.progress,
            executor=executor,
        )  # fmt: skip
    if s.as_json:
        s.emit(found.to_dict())
        return
    s.say(found.text)
    print_table(s.console, ("candidate", "tasks", "seeds", "validation loss"), found.rows(), right=2)
