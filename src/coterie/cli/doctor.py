"""``coterie doctor``: versions, devices, and what optional packages are there or would bring."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from coterie.cli.session import Session, in_session

#: optional part -> what it brings, in a few words; parts that are for whoever changes the library are not in it
BRINGS = {
    "data": "built-in workloads yeast, water and chemicals",
    "plot": "figures with matplotlib",
    "table": "results as data frames",
    "leiden": "grouping by communities (method 'leiden')",
    "balancing": "aggregators of gradients while training",
    "diffusion": "time steps of a diffusion model as tasks",
    "adapters": "adapters in a frozen vision transformer",
    "graphs": "tasks on a graph",
    "language": "adapters in frozen language models",
    "cluster": "trainings on a Dask cluster (--dask)",
    "study": "studies of your own training code, on many machines",
    "serve": "the models of a run over HTTP",
    "onnx": "the models of a run as one ONNX file",
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?>=([0-9.]+)(?:; extra == '([a-z]+)')?")


@in_session()
def doctor(s: Session) -> None:
    """Print versions, devices, and which optional parts are there; exit code 1 when a needed package is missing.

    Example: [bold]coterie doctor --json[/bold]
    """
    from coterie.cli.tables import print_table
    from coterie.report.formats import size

    found = diagnosis()
    if s.as_json:
        s.emit(found)
    else:
        shown = {**found, "memory": size(found["memory"]) if found["memory"] else "unknown"}
        rows = [(name, shown[name]) for name in ("coterie", "python", "system", "processors", "memory")]
        print_table(s.console, ("what", "found"), [*rows, *found["devices"].items()])
        s.say("")
        needed = [(p["package"], p["found"] or "missing", p["needs"], p["state"]) for p in found["needed"]]
        print_table(s.console, ("needed", "version", "at least", ""), needed)
        s.say("")
        parts = [(name, part["state"], part["brings"], part["way"]) for name, part in found["parts"].items()]
        print_table(s.console, ("optional", "", "brings", "how to get it"), parts)
    if any(package["state"] != "ok" for package in found["needed"]):
        raise typer.Exit(1)


def diagnosis(requirements: Iterable[str] | None = None) -> dict[str, Any]:
    """Versions, devices and optional parts, JSON-ready.

    Args:
        requirements: of the package, as its metadata has them; None for those of the package that is installed.

    Example:
        >>> found = diagnosis()
        >>> found["devices"]["cpu"], found["parts"]["plot"]["brings"]
        ('ready', 'figures with matplotlib')
    """
    import coterie

    needed: list[dict[str, Any]] = []
    parts: dict[str, list[dict[str, Any]]] = {}
    for text in requirements if requirements is not None else importlib.metadata.requires("coterie") or ():
        matched = _REQUIREMENT.fullmatch(text)
        if matched is None:  # a form that the library does not use
            continue
        name, least, extra = matched.groups()
        (needed if extra is None else parts.setdefault(extra, [])).append(_package(name, least))
    return {
        "coterie": coterie.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _memory(),
        "devices": _devices(),
        "needed": needed,
        "parts": {name: _part(name, brings, parts.get(name, [])) for name, brings in BRINGS.items()},
    }


def _package(name: str, least: str) -> dict[str, Any]:
    """Which version of a package there is, and whether it is new enough."""
    try:
        version: str | None = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    state = "missing" if version is None else "ok" if _numbers(version) >= _numbers(least) else "too old"
    return {"package": name, "found": version, "needs": least, "state": state}


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, for comparisons; what stands behind it does not count.

    Example:
        >>> _numbers("2.13.0+cpu") >= _numbers("2.5"), _numbers("2.5.0") == _numbers("2.5")
        (True, True)
    """
    matched = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    numbers = [int(part) for part in matched[0].split(".")] if matched else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _part(name: str, brings: str, packages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an optional part brings, and what it lacks."""
    lacking = [f"{package['package']} {package['state']}" for package in packages if package["state"] != "ok"]
    state = "ready" if packages and not lacking else ", ".join(lacking) or "unknown to this installation"
    way = "" if state == "ready" else f"pip install 'coterie[{name}]'"
    return {"state": state, "brings": brings, "way": way, "packages": packages}


def _memory() -> int | None:
    """Bytes of the machine's memory; None on a system that does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _devices() -> dict[str, str]:
    """Devices that torch can use here, and whether it can compute on them."""
    import torch

    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return {name: _tried(name) for name in names}


def _tried(name: str) -> str:
    """Whether a sum comes out right on a device; the error otherwise."""
    import torch

    try:
        total = float(torch.ones(8, device=name).sum())
    except RuntimeError as error:
        return f"fails: {error}"
    shown = f", {torch.cuda.get_device_name(name)}" if name.startswith("cuda") else ""
    return f"ready{shown}" if total == 8 else f"computes wrong numbers{shown}"
