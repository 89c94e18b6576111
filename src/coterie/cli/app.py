"""The program: the options that stand before its verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from coterie.cli.verbs import Verbs

app = typer.Typer(
    cls=Verbs,
    name="coterie",
    help="Which of your tasks should be trained together? Affinities, groups and an honest comparison.",
    epilog="Start with: coterie demo      Exit codes: 0 done, 1 a mistake in the input, 2 usage, 130 interrupted, "
    "141 closed pipe.",
    no_args_is_help=True,
    # tracebacks are for --debug, and then plain ones
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        import coterie

        typer.echo(f"coterie {coterie.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Which of your tasks should be trained together? Affinities, groups and an honest comparison."""
    del version
