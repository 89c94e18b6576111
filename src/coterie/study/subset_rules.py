"""Which subsets a study may train, and which targets a subset can serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie._check import named_choice, whole_number
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.study.results import Floats, Mask, Results


@known_arguments
@dataclass(frozen=True, eq=False)
class SubsetRules:
    """Subsets that may be trained.

    Attributes:
        sizes: smallest and largest number of tasks in a subset; None for any.
        together: sets of names that a subset holds all of or none of.
        apart: sets of names of which a subset holds one at most.
        among: subsets, as tuples of names, that alone may be trained; None for any.

    Example:
        >>> rules = SubsetRules(sizes=(1, 2), apart=[("a", "b")])
        >>> rules.allowed(("a", "b", "c"), np.array([[True, True, False], [True, False, True]]))
        array([False,  True])
    """

    sizes: tuple[int, int] | None = None
    together: Sequence[Sequence[str]] = ()
    apart: Sequence[Sequence[str]] = ()
    among: Sequence[Sequence[str]] | None = None

    def allowed(self, sources: tuple[str, ...], trained: Mask) -> Mask:
        """(subsets,) whether each subset (subsets, sources) may be trained; the empty one never.

        Raises:
            SettingError: for sizes out of order, or a name that is no source.
        """
        count = trained.sum(axis=1)
        found = np.asarray(count > 0)
        if self.sizes is not None:
            low = whole_number(self.sizes[0], "sizes", low=1)
            high = whole_number(self.sizes[1], "sizes", low=low)
            found &= (low <= count) & (count <= high)
        for name, sets in (("together", self.together), ("apart", self.apart)):
            for members in sets:
                inside = trained[:, _places(sources, members, name)].sum(axis=1)
                found &= (inside == 0) | (inside == len(members)) if name == "together" else inside <= 1
        if self.among is not None:
            listed = {row.tobytes() for row in self.listed(sources)}
            found &= np.array([row.tobytes() in listed for row in trained], dtype=bool)
        return found

    def listed(self, sources: tuple[str, ...]) -> Mask:
        """(subsets, sources) the subsets of `among`; no row where it is None."""
        rows = np.zeros((len(self.among or ()), len(sources)), dtype=bool)
        for row, members in zip(rows, self.among or (), strict=True):
            row[_places(sources, members, "among")] = True
        return rows


def _places(sources: tuple[str, ...], members: Sequence[str], name: str) -> list[int]:
    if isinstance(members, str):
        raise SettingError(
            f"Parameter `{name}` should be a list of lists of task names. Found {members!r} in place of a list. Write "
            f"{name}=[[{members!r}, ...]]."
        )
    for member in members:
        named_choice(member, name, sources)
    return [sources.index(member) for member in members]


def servable(results: Results, trained: Mask) -> Mask:
    """(subsets, targets) which targets a model trained on each subset can serve.

    A target that is also a source has to be trained on, unless some run measured it without: then models that were not
    trained on it are known to do something sensible for it. Other targets can be served by every model.
    """
    found = np.ones((len(trained), len(results.targets)), dtype=bool)
    for place, target in enumerate(results.targets):
        if target in results.sources:
            source = results.sources.index(target)
            elsewhere = np.isfinite(results.losses[:, place]) & ~results.trained[:, source]
            if not elsewhere.any():
                found[:, place] = trained[:, source]
    return found


def all_subsets(sources: int) -> Mask:
    """(2^sources - 1, sources) every subset but the empty one."""
    return (np.arange(1, 1 << sources)[:, None] >> np.arange(sources)) & 1 > 0


def unique_rows(trained: Mask) -> Mask:
    """Rows in the order in which they first come."""
    seen: dict[bytes, int] = {}
    for index, row in enumerate(trained):
        seen.setdefault(row.tobytes(), index)
    return trained[list(seen.values())]


def run_costs(results: Results, trained: Mask, variant: str) -> Floats:
    """(subsets,) what a model costs: the mean over runs of the subset, else a line through the costs by size.

    The line has no negative slope and goes through the runs of the variant; without such runs, through all.
    """
    own = np.array([name == variant for name in results.variants], dtype=bool)
    own = own if own.any() else np.ones_like(own)
    sizes, costs = results.trained[own].sum(axis=1).astype(np.float64), results.costs[own]
    if not len(costs):
        return np.ones(len(trained))
    centred = sizes - sizes.mean()
    slope = max(0.0, float(centred @ costs) / float(centred @ centred)) if centred.any() else 0.0
    line = float(costs.mean()) + slope * (trained.sum(axis=1) - float(sizes.mean()))
    found = np.maximum(line, float(costs.min()))
    known: dict[bytes, list[float]] = {}
    for row, cost in zip(results.trained[own], costs, strict=True):
        known.setdefault(row.tobytes(), []).append(float(cost))
    for index, row in enumerate(trained):
        if row.tobytes() in known:
            found[index] = float(np.mean(known[row.tobytes()]))
    return found


def names_of_subset(sources: tuple[str, ...], trained: NDArray[np.bool_]) -> tuple[str, ...]:
    """The names in a subset."""
    return tuple(name for name, inside in zip(sources, trained, strict=True) if inside)
