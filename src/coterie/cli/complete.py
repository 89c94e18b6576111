"""What the shell offers after TAB: names of methods and of workloads, and Python files. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

#: as in coterie.affinity, coterie.balancing and coterie.grouping, whose import would take seconds at every TAB
AFFINITY = (
    "attribution", "cosine", "etap", "fused", "grad-tag", "grad-tag-blocks", "grad-tag-released", "kernel-surrogate",
    "label-correlation", "label-injection", "landscape", "landscape-spectral", "linear-surrogate", "rsa", "secants",
    "tag", "task-vectors", "taxonomy",
)  # fmt: skip
BALANCING = (
    "aligned-mtl", "cagrad", "config", "dualproj", "dwa", "equal", "excess-mtl", "fairgrad", "famo", "graddrop",
    "gradvac", "imtl-g", "krum", "marigold", "marigold-next", "marigold-same", "mgda", "nash-mtl", "pcd", "pcgrad",
    "rlw", "trimmed-mean", "uncertainty", "upgrad",
)  # fmt: skip
GROUPING = (
    "agglomerative", "all-in-one", "exhaustive", "intervals", "leiden", "random", "sdp", "sdp-penalty", "single-task",
    "spectral",
)  # fmt: skip


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Completion from a list of names."""
    known = tuple(names)

    def complete(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return complete


def several_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Completion of the last of several names with commas between them.

    Example:
        >>> several_of(["tag", "task-vectors"])("cosine,ta")
        ['cosine,tag', 'cosine,task-vectors']
    """
    known = tuple(names)

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in known if name.startswith(last)]

    return complete


def workloads(incomplete: str) -> list[str]:
    """Built-in workloads, folders, and Python files."""
    from coterie import datasets

    return [*one_of(datasets.names())(incomplete), *_files(incomplete)]


def _files(incomplete: str) -> Iterator[str]:
    folder, beginning = os.path.split(incomplete)
    try:
        entries = sorted(Path(folder or ".").expanduser().iterdir())
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(beginning) or (entry.name.startswith(".") and not beginning):
            continue
        if entry.is_dir():
            yield os.path.join(folder, entry.name) + "/"
        elif entry.suffix == ".py":
            yield os.path.join(folder, entry.name)
