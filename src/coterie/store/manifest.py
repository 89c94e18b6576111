"""What a run directory says about itself, and whether it may be gone on with."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie._files import user_path
from coterie._surface import warn
from coterie.errors import StoreError, StoreWarning
from coterie.store.files import canonical, read_json, to_plain

if TYPE_CHECKING:
    from coterie.workload import Workload

FORMAT = 1
NAME = "manifest.json"
_PACKAGES = ("coterie", "torch", "numpy")


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def describe(workload: Workload) -> dict[str, Any]:
    """The part of the manifest that says what was worked on."""
    return {
        "name": workload.name,
        "reference": workload.reference,
        "model_spec": workload.model_spec,
        "tasks": [task.to_dict() for task in workload.tasks],
    }


def build(fingerprint: str, settings: Mapping[str, Any], workload: Workload | None) -> dict[str, Any]:
    """A new manifest."""
    created = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "platform": platform.platform()}
    manifest = {
        "format": FORMAT,
        "coterie": versions()["coterie"],
        "fingerprint": fingerprint,
        "settings": settings,
        "workload": None if workload is None else describe(workload),
        "created": {**created, "versions": versions()},
    }
    return to_plain(manifest)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a run directory.

    Raises:
        StoreError: when there is no run at this path, or its manifest is damaged or of a newer format.
    """
    path = user_path(path)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise StoreError(f"There is no run directory {str(path)!r}: found {found} there. Check the path.")
    if not (path / NAME).exists():
        raise StoreError(f"The directory {str(path)!r} holds no run: it has no {NAME}. Check the path.")
    manifest = read_json(path / NAME)
    if not isinstance(manifest, dict) or not {"format", "fingerprint", "settings"} <= manifest.keys():
        raise StoreError(
            f"The file {str(path / NAME)!r} is no manifest of a run: it was damaged or changed by hand. "
            "Make the run again in another directory with `out`, or replace it with overwrite=True (--overwrite)."
        )
    if manifest["format"] != FORMAT:
        raise StoreError(
            f"The run {str(path)!r} has format {manifest['format']!r}; this version of coterie reads format {FORMAT}. "
            "Use the version that wrote it (see `coterie` in its manifest), choose another directory with "
            "`out`, or replace the run with overwrite=True (--overwrite)."
        )
    return manifest


def check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], grows: Collection[str] = ()) -> None:
    """Whether a run may be gone on with: same workload, same settings. Other versions are only warned about.

    Args:
        path: the directory, for messages.
        found: its manifest.
        wanted: that of the run that is asked for.
        grows: settings that may be larger than they were.

    Raises:
        StoreError: saying what differs.
    """
    differences = _differences(found["settings"], wanted["settings"], grows)
    if found["fingerprint"] != wanted["fingerprint"]:
        differences.insert(0, _other_workload(found, wanted))
    if differences:
        raise StoreError(
            f"The directory {str(path)!r} holds a run with other content: {'; '.join(differences)}. "
            "Choose another directory with `out`, or replace the old run with overwrite=True (--overwrite)."
        )
    created = found.get("created")
    old: Any = created.get("versions") if isinstance(created, dict) else None
    old = old if isinstance(old, dict) else {}
    now = wanted["created"]["versions"]
    changed = [f"{name} {old[name]} -> {now[name]}" for name in now if name in old and old[name] != now[name]]
    if changed:
        warn(
            f"The run {str(path)!r} was begun with other versions ({', '.join(changed)}). Its finished units are kept; "
            "numbers of new ones may differ in the last digits.",
            StoreWarning,
        )


def _other_workload(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    form, dash, _ = str(wanted["fingerprint"]).partition("-")
    if dash and not str(found["fingerprint"]).startswith(form + dash):
        return (
            "it was begun by an earlier version, which did not look at the code of the model and of `forward`, so it "
            "is not known whether the workload is the same"
        )
    then, now = _python(found), _python(wanted)
    version = "" if then in (None, now) else f", or only its instructions are: Python is {then} there and {now} here"
    return f"the workload (data, tasks, split, recipe, or the model and its code) is another one{version}"


def _python(manifest: Mapping[str, Any]) -> str | None:
    """Major and minor version of Python, where the manifest says it."""
    created: Any = manifest.get("created")
    named: Any = created.get("versions") if isinstance(created, dict) else None
    return ".".join(str(named.get("python")).split(".")[:2]) if isinstance(named, dict) else None


def _differences(found: Any, wanted: Mapping[str, Any], grows: Collection[str]) -> list[str]:
    if not isinstance(found, Mapping):
        return ["its settings cannot be read"]
    lines: list[str] = []
    for name in sorted({*found, *wanted}):
        old, new = (repr(side[name]) if name in side else "not set" for side in (found, wanted))
        if name in found and name in wanted and canonical(found[name]) == canonical(wanted[name]):
            continue
        if name not in grows:
            lines.append(f"setting `{name}` is {old} there and {new} here")
        elif not _larger(name, found.get(name), to_plain(wanted.get(name))):
            lines.append(f"setting `{name}`, which may only grow, is {old} there and {new} here")
    return lines


def _larger(name: str, old: Any, new: Any) -> bool:
    """Whether a setting asks for no less than it did. None is no limit; what is worthwhile is a matter of words."""
    if name == "worthwhile" or new is None:
        return True
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and canonical(new[key]) == canonical(old[key]) for key in old)
    return isinstance(old, int) and isinstance(new, int) and new >= old
