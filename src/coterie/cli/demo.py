"""``coterie demo``: the main job on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.run import finish
from coterie.cli.session import Session, in_session

#: trainings of every candidate: few, but enough for these data
SEEDS = 6


@in_session("overwrite")
def demo(
    s: Session,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory.", file_okay=False)] = Path("coterie-demo"),
) -> None:
    """Run the main job on real data where groups pay, and compare two simple ways on data where they do not.

    Seven tasks on handwritten digits: a recommendation, the groups and the path of a page to read; then a line on yeast
    genes.

    Example: [bold]coterie demo --out demo[/bold]
    """
    from coterie import pipeline
    from coterie.datasets import marks

    found = pipeline.run(
        marks.load(), out=out, overwrite=s.overwrite, progress=s.progress, groups=2, budget=2, seeds=SEEDS, bases=1
    )
    finish(s, found)
    if not s.as_json:
        s.say(_elsewhere(s))


def _elsewhere(s: Session) -> str:
    """What the same question gives on the yeast data, without a search: one model for all against one a task."""
    from coterie.errors import MissingDependencyError
    from coterie.evaluation import compare, recommend
    from coterie.workload import load_workload

    try:
        workload = load_workload("yeast")
    except MissingDependencyError:
        return "The same question on yeast genes takes an optional package: pip install 'coterie[data]'."
    trained = compare(workload, {}, seeds=SEEDS, progress=s.progress)
    return f"It is not always so. Yeast genes, 14 tasks: {recommend(trained.comparison).text}"
