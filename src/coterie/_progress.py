"""How long work tells how far it is: a callable, silent by default."""

from __future__ import annotations

from collections.abc import Callable

#: called as ``progress(stage, done, total)``
Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Say nothing."""
    del stage, done, total
