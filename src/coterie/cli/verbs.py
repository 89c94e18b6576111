"""Where the verbs of the program live: each is imported when it is called, or when its help is asked for.

The verbs of extension rooms stand here by name too, so that no core room imports an extension.
"""

from __future__ import annotations

from collections import UserDict
from typing import Any

import typer

from coterie._lazy import named
from coterie.cli.streams import Streamed

#: verb -> its function, or its program of verbs
VERBS = {
    "demo": "coterie.cli.demo:demo",
    "run": "coterie.cli.run:run",
    "affinity": "coterie.cli.affinity:affinity",
    "group": "coterie.cli.group:group",
    "compare": "coterie.cli.compare:compare",
    "benchmark": "coterie.benchmark.command:benchmark",
    "study": "coterie.study.command:app",
    "diffusion": "coterie.diffusion.command:diffusion",
    "add-task": "coterie.cli.add_task:add_task",
    "report": "coterie.cli.report:report",
    "serve": "coterie.cli.serve:serve",
    "export": "coterie.cli.serve:export",
    "plan": "coterie.cli.plan:plan",
    "doctor": "coterie.cli.doctor:doctor",
}
#: key of a result that an extension wrote -> what writes its page again, called with the run's directory and the page
PAGES = {"diffusion": "coterie.diffusion.command:write_page_again"}


class Commands(UserDict[str, Any]):
    """Verb -> its command, which is made when it is looked up; the names are known before."""

    def __getitem__(self, verb: str) -> Any:
        """The command of a verb."""
        if isinstance(self.data.get(verb), str):
            found = named(self.data[verb])
            if not isinstance(found, typer.Typer):  # else a verb with verbs of its own
                alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
                alone.command(verb)(found)
                found = alone
            self.data[verb] = typer.main.get_command(found)
        return self.data[verb]


class Verbs(Streamed):
    """The verbs of the program, in the order of the table."""

    def __init__(self, **options: Any) -> None:
        """Take the table in place of commands that are imported already."""
        super().__init__(**options)
        self.commands = Commands(VERBS)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the verbs; imports none of them."""
        del ctx
        return list(VERBS)
