"""Settings of a run that cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coterie.errors import SettingError
from coterie.workload import Workload, load_workload


def as_workload(workload: Workload | str) -> Workload:
    """The workload itself, or the one that a text names.

    Raises:
        SettingError: for anything else.
    """
    if isinstance(workload, str):
        return load_workload(workload)
    if not isinstance(workload, Workload):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(
            "Parameter `workload` should be a Workload, a built-in name or 'file.py:name'. "
            f"Found {type(workload).__name__}. Make one from arrays with coterie.from_arrays(x, y)."
        )
    return workload


def whole(name: str, value: Any, low: int, high: int | None = None, *, optional: bool = False) -> None:
    """A whole number within limits, or None where that is allowed.

    Raises:
        SettingError: otherwise.
    """
    if value is None and optional:
        return
    number = int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None
    if number is None or number < low or (high is not None and number > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise SettingError(f"Parameter `{name}` should be a whole number, {limits}. Found {value!r}.")


def check_settings(
    workload: Workload, groups: int | None, budget: int | None, seeds: int, seed: int = 0, memory: int = 2**30
) -> None:
    """Refuse numbers that are out of range or contradict each other.

    Raises:
        SettingError: naming the parameter.
    """
    whole("groups", groups, 1, workload.n_tasks, optional=True)
    whole("budget", budget, 1, optional=True)
    whole("seeds", seeds, 1)
    whole("seed", seed, 0, 2**31 - 1)
    whole("memory", memory, 1)
    if groups is not None and budget is not None and groups > budget:
        raise SettingError(f"Parameter `groups`={groups} asks for more models than `budget`={budget} allows.")


def check_out(out: object) -> None:
    """A run directory is a path that says something.

    Raises:
        SettingError: otherwise.
    """
    if out is not None and (not isinstance(out, str | Path) or not str(out).strip() or str(out) == "."):
        raise SettingError(f"Parameter `out` should be the path of a run directory, or None. Found {out!r}.")
