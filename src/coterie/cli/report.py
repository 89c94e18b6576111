"""``coterie report``: the page of a run, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coterie._lazy import named
from coterie.cli.options import Debug, Json, OutFile, Quiet
from coterie.cli.session import session
from coterie.cli.verbs import PAGES


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    out: OutFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write report.html of a run again and print its path.

    Example: [bold]coterie report runs/mine[/bold]
    """
    with session(as_json=as_json, quiet=quiet, debug=debug) as s:
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
        if as_json:
            s.emit({"report": str(path)})
        else:
            s.say(str(path))
