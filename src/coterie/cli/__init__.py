"""The command line, one verb a file.

Nothing heavy is imported before a verb needs it, so that ``--help`` is instant.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the program ``coterie``."""
    try:
        from coterie.cli.streams import prepare_streams, quiet_interrupts

        quiet_interrupts()
        prepare_streams()
        from coterie.cli.app import app

        app(prog_name="coterie")
    except KeyboardInterrupt:  # while the program was still being read
        raise SystemExit(130) from None
