"""Files inside installed packages, found without importing the package (which can be slow or heavy)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from coterie.errors import MissingDependencyError


def package_file(
    package: str, path: str, *, distribution: str, purpose: str, install: str = "pip install 'coterie[data]'"
) -> Path:
    """A data file of an installed package.

    Args:
        package: the name under which it is imported.
        path: of the file inside the package.
        distribution: the name under which it is installed.
        purpose: what needs the file; begins the message.
        install: the command that brings the package.

    Raises:
        MissingDependencyError: when the package is not installed, or is a version without the file.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise MissingDependencyError(
            f"{purpose} needs the package `{distribution}`, which is not installed. Install it with: {install}"
        )
    file = Path(folders[0]) / path
    if not file.is_file():
        raise MissingDependencyError(
            f"{purpose} needs the file {path!r} of the package `{distribution}`, which the installed version does not "
            f"have. Install it with: {install} --upgrade"
        )
    return file
