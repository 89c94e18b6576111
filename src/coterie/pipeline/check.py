"""Settings of a run that cannot be meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coterie._check import is_number, whole_number
from coterie.affinity import Estimator
from coterie.affinity.estimator import estimator_of
from coterie.errors import SettingError
from coterie.training.trainer import Trainer, as_trainer, names_of
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


def as_source(workload: Workload | Trainer | str) -> Workload | Trainer:
    """The workload itself, the one that a text names, or a trainer.

    Raises:
        SettingError: for anything else.
    """
    return as_workload(workload) if isinstance(workload, str | Workload) else as_trainer(workload)


def chosen_method(
    call: Callable[..., Any], source: Workload | Trainer, method: str | Estimator | None, options: Mapping[str, Any]
) -> tuple[str, Estimator]:
    """Name and settings of the method, and of the usual one where none is named; for `call` and its ``**options``.

    Raises:
        SettingError: when there is no such method or option, or the method needs more than `source` can do.
    """
    usual = "fused" if isinstance(source, Workload) else "kernel-surrogate"
    estimator = estimator_of(call, usual if method is None else method, options)
    estimator.check_source(source)
    return (usual if method is None else method if isinstance(method, str) else "custom"), estimator


def check_settings(
    workload: Workload | Trainer,
    groups: int | None,
    budget: int | None,
    seeds: int,
    seed: int = 0,
    memory: int = 2**30,
    search_limit: float | None = None,
) -> tuple[int | None, int | None, int, int, int]:
    """The first five numbers, as Python's own; what is out of range or contradicts another one is refused.

    Raises:
        SettingError: naming the parameter.
    """
    groups = None if groups is None else whole_number(groups, "groups", low=1, high=len(names_of(workload)))
    budget = None if budget is None else whole_number(budget, "budget", low=1)
    seeds, seed = whole_number(seeds, "seeds", low=1), whole_number(seed, "seed", low=0, high=2**31 - 1)
    memory = whole_number(memory, "memory", low=1)
    check_seconds(search_limit, "search_limit")
    if groups is not None and budget is not None and groups > budget:
        raise SettingError(f"Parameter `groups`={groups} asks for more models than `budget`={budget} allows.")
    return groups, budget, seeds, seed, memory


def check_seconds(value: object, name: str) -> None:
    """A limit of time is a positive number of seconds, or None.

    Raises:
        SettingError: naming the parameter.
    """
    if value is None:
        return
    if not is_number(value) or not 0 < value < float("inf"):
        raise SettingError(f"Parameter `{name}` should be a positive number of seconds, or None. Found {value!r}.")


def check_out(out: object) -> None:
    """A run directory is a path that says something.

    Raises:
        SettingError: otherwise.
    """
    if out is not None and (not isinstance(out, str | Path) or not str(out).strip() or str(out) == "."):
        raise SettingError(f"Parameter `out` should be the path of a run directory, or None. Found {out!r}.")
