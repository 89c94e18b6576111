"""A workload by its reference: a built-in name, or an attribute of a user's Python file."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from coterie import datasets
from coterie._surface import known_arguments
from coterie.errors import CoterieError, WorkloadError
from coterie.workload.workload import Workload


@known_arguments
def load_workload(reference: str) -> Workload:
    """The workload that a reference names, with `reference` set so that it can be found again.

    Args:
        reference: a built-in name (``"digits"``, ``"yeast"``, ``"water"``, ``"chemicals"``, ``"mhc"``, ``"umls"``,
            ``"texts"``) or ``"path/file.py:attribute"``, where the attribute is a :class:`Workload` or a function
            without arguments that returns one. Without ``:attribute`` it is ``workload``. The file is run anew at each
            call; files beside it can be imported by it.

    Raises:
        WorkloadError: no such name, file or attribute; the file fails (the message has the line); or it is no workload.
        MissingDependencyError: a built-in workload needs a package that is not installed.

    Example:
        >>> load_workload("digits").n_tasks
        10
    """
    given: Any = reference
    if not isinstance(given, str):
        raise WorkloadError(
            "Parameter `workload` should be a text: a built-in name or 'path/file.py:attribute'. Found "
            f"{type(given).__name__}. The likely cause is an option that was not set; a Workload object needs no "
            "loading. Built-in are " + ", ".join(datasets.names()) + "."
        )
    if reference in datasets.names():
        return datasets.load(reference)
    path, attribute = _parse(reference)
    try:
        value: Any = getattr(_run_file(path), attribute, None)
        if callable(value) and not isinstance(value, type):
            value = value()
    except (Exception, SystemExit) as error:
        _explain(path, error)
    if not isinstance(value, Workload):
        raise WorkloadError(_wrong_value(path, attribute, value))
    return replace(value, reference=f"{path}:{attribute}")


def _parse(reference: str) -> tuple[Path, str]:
    head, colon, tail = reference.rpartition(":")
    # a colon inside a path (a drive letter) is none in front of an attribute
    name, attribute = (head, tail) if colon and tail.isidentifier() else (reference, "workload")
    path = Path(name).expanduser()
    if path.suffix != ".py":
        near = difflib.get_close_matches(reference, datasets.names(), n=1, cutoff=0.7)
        raise WorkloadError(
            f"Parameter `workload`: {reference!r} is no built-in workload ({', '.join(datasets.names())}) and no "
            "Python file. "
            + (f"Did you mean {near[0]!r}? " if near else "")
            + "A workload of your own is given as 'path/file.py:attribute'."
        )
    if not path.is_file():
        raise WorkloadError(
            f"Parameter `workload`: the file {str(path)!r} does not exist (looked from {str(Path.cwd())!r}). Check "
            "the spelling, or give an absolute path."
        )
    return path.resolve(), attribute


class FreshLoader(SourceFileLoader):
    """Loads a file as it is now.

    Python's own loader takes compiled code that it has kept where the file has the same size and the same second of
    change, and so may run what stood in the file before an edit.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Nothing: without a time of change no compiled code is looked for or kept."""
        raise OSError(f"the compiled code of {path} is not kept")


def _run_file(path: Path) -> ModuleType:
    """Run a file as a module of its own name, so that its classes can be pickled and it can import its neighbours."""
    name = f"coterie_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=FreshLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise WorkloadError(f"Parameter `workload`: {str(path)!r} cannot be read as a Python file.")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent)
    if folder not in sys.path:  # stays there: functions of the file may import later
        sys.path.append(folder)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _explain(path: Path, error: BaseException) -> NoReturn:
    """Raise the user's error again with the line of their file; errors that are not Coterie's become WorkloadError."""
    where = _line_of(path, error)
    if isinstance(error, CoterieError):
        build: Callable[[str], CoterieError] = type(error)
        raise build(f"{error} [{where}]") from error
    reason = (
        "the file ended the program (SystemExit)"
        if isinstance(error, SystemExit)
        else f"{type(error).__name__}: {error}"
    )
    raise WorkloadError(
        f"Parameter `workload`: running {where} failed with {reason}. Try it alone with `python {path.name}` to see "
        "the whole traceback."
    ) from error


def _line_of(path: Path, error: BaseException) -> str:
    """`file, line n: code` of the last place in the user's file that the error passed through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path.name}, line {error.lineno}: {(error.text or '').strip()}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path.name}, line {frames[-1].lineno}: {frames[-1].line}" if frames else path.name


def _wrong_value(path: Path, attribute: str, value: Any) -> str:
    if value is None:
        module = sys.modules.get(f"coterie_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}")
        there = sorted(name for name, found in vars(module).items() if isinstance(found, Workload)) if module else []
        known = f"Workloads in the file: {', '.join(there)}. " if there else ""
        return (
            f"Parameter `workload`: {path.name} has no `{attribute}`, or it is a function that returned None. "
            f"{known}Write `{attribute} = coterie.workload.from_arrays(...)`, or a function that returns one, or name "
            "another attribute."
        )
    return (
        f"Parameter `workload`: `{attribute}` of {path.name} should be a Workload or a function without arguments "
        f"that returns one. Found {type(value).__name__}. Make one with coterie.workload.from_arrays."
    )
