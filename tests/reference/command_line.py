"""The program, called in this process."""

from typer.testing import CliRunner, Result

from coterie.cli.app import app


def coterie(*arguments: object) -> Result:
    """What a command does; arguments are made text."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
