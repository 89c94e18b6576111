"""What is measured: a list of methods with settings. To measure another one, add it here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.affinity import METHODS, Estimator, get_estimator
from coterie.errors import SettingError


@dataclass(frozen=True)
class Entry:
    """A method with settings.

    Attributes:
        name: unique; how it is asked for.
        method: name of the method, or the settings themselves.
        label: how it is shown; the name when left out.
        options: settings that differ from the method's own.
        budget: its stated cost as a share of 500 trainings, where it has one.
        most_tasks: left out of data sets with more tasks, where it would cost more than it could tell.
    """

    name: str
    method: str | Estimator
    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: float | None = None
    most_tasks: int | None = None

    @property
    def title(self) -> str:
        """How it is shown."""
        return self.label or self.name

    def estimator(self) -> Estimator:
        """The settings, checked.

        Raises:
            SettingError: an unknown method or option.
        """
        return get_estimator(self.method, **self.options)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        method = self.method if isinstance(self.method, str) else self.method.name
        return {
            "name": self.name,
            "label": self.title,
            "method": method,
            "options": {
                name: value.to_dict() if isinstance(value, Estimator) else value for name, value in self.options.items()
            },
            "budget": self.budget,
            "most_tasks": self.most_tasks,
        }


ENTRIES: tuple[Entry, ...] = (
    Entry("label-correlation", "label-correlation", "label correlation"),
    Entry("tag", "tag", "TAG"),
    Entry("tag-pooled", "tag", "TAG, sums over sums", {"average": "pooled"}),
    Entry("cosine", "cosine", "gradient cosine"),
    Entry("etap", "etap", "ETAP"),
    Entry("rsa", "rsa", "RSA"),
    Entry("attribution", "attribution", "attribution similarity"),
    Entry("taxonomy", "taxonomy", "taxonomical distance"),
    Entry("label-injection", "label-injection", "label injection", most_tasks=20),
    Entry("landscape", "landscape", "loss landscape"),
    Entry("landscape-spectral", "landscape-spectral", "loss landscape, spectral"),
    Entry("grad-tag", "grad-tag", "Grad-TAG, as published"),
    Entry("grad-tag-blocks", "grad-tag-blocks", "Grad-TAG, exact heads"),
    Entry("task-vectors-4", "task-vectors", "task vectors, 4 bases", {"bases": 4}),
    Entry("secants-1", "secants", "secants, 1 base", {"bases": 1}),
    Entry("secants-2", "secants", "secants, 2 bases", {"bases": 2}),
    Entry("secants-4", "secants", "secants, 4 bases", {"bases": 4}),
    Entry("secants-8", "secants", "secants, 8 bases", {"bases": 8}),
    Entry("linear-surrogate-15", "linear-surrogate", "linear surrogate, 15 runs", {"runs": 15}, 0.03),
    Entry("linear-surrogate-50", "linear-surrogate", "linear surrogate, 50 runs", {"runs": 50}, 0.1),
    Entry("linear-surrogate-150", "linear-surrogate", "linear surrogate, 150 runs", {"runs": 150}, 0.3),
    Entry("kernel-surrogate-15", "kernel-surrogate", "kernel surrogate, 15 runs", {"runs": 15}, 0.03),
    Entry("kernel-surrogate-50", "kernel-surrogate", "kernel surrogate, 50 runs", {"runs": 50}, 0.1),
    Entry("kernel-surrogate-150", "kernel-surrogate", "kernel surrogate, 150 runs", {"runs": 150}, 0.3),
    Entry("fused-3", "fused", "fused (the default), 15 trainings", {"trainings": 15.0}, 0.03),
    Entry("fused-10", "fused", "fused, 50 trainings", {"trainings": 50.0}, 0.1),
    Entry("fused-30", "fused", "fused, 150 trainings", {"trainings": 150.0}, 0.3),
)


def select(names: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES) -> tuple[Entry, ...]:
    """Entries by name; the name of a method stands for all its entries, or for its own settings where it has none.

    Args:
        names: which ones, in the order of the list; None for all.
        entries: the list.

    Raises:
        SettingError: an unknown name, or no name.

    Example:
        >>> [entry.name for entry in select(["tag", "linear-surrogate"])]
        ['tag', 'linear-surrogate-15', 'linear-surrogate-50', 'linear-surrogate-150']
    """
    if names is None:
        return tuple(entries)
    if not names:
        raise SettingError("Parameter `methods` should name at least one entry. Found none. Leave it out for all.")
    known = {entry.name: [entry] for entry in entries}
    exact = set(known)
    for entry in entries:
        if isinstance(entry.method, str) and entry.method not in exact:
            known.setdefault(entry.method, []).append(entry)
    for method in METHODS:
        known.setdefault(method, [Entry(method, method)])
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SettingError(
                f"Parameter `methods` should be names out of {sorted(known)}. Found {name!r}."
                + (f" Did you mean {near[0]!r}?" if near else "")
            )
    chosen = {entry.name: entry for name in names for entry in known[name]}
    order = [entry.name for entry in entries if entry.name in chosen]
    return tuple(chosen[name] for name in (*order, *(name for name in chosen if name not in order)))
