"""Names that a package loads when they are first used, so that importing it stays cheap."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def load_on_first_use(
    package: str, homes: Mapping[str, str], renamed: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """A package's ``__getattr__`` (PEP 562) that imports the module of a name and keeps what it finds.

    Args:
        package: the package's ``__name__``.
        homes: name -> module, in full or relative to the package.
        renamed: earlier name -> ``"package.module:name"`` of today, which is given with a DeprecationWarning.

    Example:
        >>> load_on_first_use("coterie", {"Task": "workload"})("Task").__name__
        'Task'
    """

    def get(name: str) -> Any:
        if renamed and name in renamed:
            today = renamed[name].replace(":", ".")
            warnings.warn(f"{package}.{name} is now {today}; the earlier name goes away.", DeprecationWarning, 2)
            return named(renamed[name])
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        value = getattr(import_module(home if home.startswith("coterie.") else f"{package}.{home}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get


def named(reference: str) -> Any:
    """What ``"package.module:name"`` names, or the module itself without a name, imported now.

    Example:
        >>> named("coterie.errors:SettingError").__name__
        'SettingError'
    """
    module, _, name = reference.partition(":")
    found = import_module(module)
    return getattr(found, name) if name else found
