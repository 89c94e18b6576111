"""``coterie report``: the page of a run, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coterie._lazy import named
from coterie.cli.options import OutFile
from coterie.cli.session import Session, in_session
from coterie.cli.verbs import PAGES


@in_session()
def report(
    s: Session,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    out: OutFile = None,
) -> None:
    """Write report.html of a run again and print its path.

    Example: [bold]coterie report runs/mine[/bold]
    """
    from coterie.report.html import write_report
    from coterie.store.files import need_directory, read_json
    from coterie.store.manifest import read_manifest

    read_manifest(run)
    path = out or run / "report.html"
    need_directory(path)
    result = read_json(run / "result.json")
    extension = next((key for key in PAGES if isinstance(result, dict) and key in result), None)
    if extension is None:
        write_report(result, path)
    else:
        named(PAGES[extension])(run, path)
    if s.as_json:
        s.emit({"report": str(path)})
    else:
        s.say(str(path))
