"""``coterie group``: groups from an affinity matrix, wherever it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.options import Debug, Groups, Json, OutFile, Quiet, Seed
from coterie.cli.session import session


def group(
    affinity: Annotated[
        Path,
        typer.Option(
            "--affinity", "-a", metavar="A.csv", help="Square CSV with a header: rows are targets, columns sources."
        ),
    ],
    groups: Groups = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="sdp, sdp-penalty, spectral, all-in-one, single-task or exhaustive (up to 12 tasks).",
        ),
    ] = "sdp",
    diagonal: Annotated[
        str, typer.Option("--diagonal", help="What stands on the diagonal: keep, zero or mean (of the other entries).")
    ] = "keep",
    out: OutFile = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Group the tasks of an affinity matrix, each task exactly once.

    With --json, prints one object with `groups` (lists of task names), `serves` (task -> index of its group) and
    `objective`.

    Example: [bold]coterie group --affinity A.csv --groups 3 --json[/bold]
    """
    with session(as_json=as_json, quiet=quiet, debug=debug) as s:
        from coterie.affinity import Affinity
        from coterie.grouping import group as find_groups

        found = find_groups(Affinity.from_csv(affinity), groups, method=method, seed=seed, diagonal=diagonal).to_dict()
        if out is not None:
            from coterie.store.files import write_json

            write_json(out, found)
        if as_json:
            s.emit(found)
            return
        from coterie.cli.tables import print_grouping

        print_grouping(s.console, found)
        if out is not None:
            s.say(f"grouping: {out}")
