"""The command line, one verb a file.

Nothing heavy is imported before a verb needs it, so that ``--help`` is instant.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the program ``coterie``."""
    from coterie.cli.app import app

    app(prog_name="coterie")
