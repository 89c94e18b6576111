"""Which candidates race: not those that take no training of their own, that are the same, or that cannot be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coterie.evaluation.halving import Halving, Prices
from coterie.evaluation.trainings import subsets_of
from coterie.grouping import Grouping


@dataclass(frozen=True)
class RaceEntries:
    """The list of entries.

    Attributes:
        prices: of those that race.
        names: all candidates, in order.
        seeded: those that are in the final without a race: the simple ones, and those made of their groups.
        refused: those with more models than may be served.
        twins: candidate -> another one of the same groups, which races for both.
    """

    prices: Prices
    names: tuple[str, ...]
    seeded: frozenset[str]
    refused: tuple[str, ...]
    twins: Mapping[str, str]

    @staticmethod
    def of(everything: Mapping[str, Grouping], simple: Sequence[str], budget: int | None = None) -> RaceEntries:
        """Sort the candidates.

        Args:
            everything: all candidates, the simple ones included.
            simple: names of those that are always in the final.
            budget: largest number of models that may be served.
        """
        always = frozenset(subsets_of(everything[name] for name in simple))
        seeded, refused, twins, racing = set(simple), list[str](), dict[str, str](), dict[object, str]()
        for name, grouping in everything.items():
            if name in seeded:
                continue
            if budget is not None and len(grouping.groups) > budget:
                refused.append(name)
            elif always.issuperset(subsets_of([grouping])):
                seeded.add(name)
            elif _same(grouping) in racing:
                twins[name] = racing[_same(grouping)]
            else:
                racing[_same(grouping)] = name
        prices = Prices({name: frozenset(subsets_of([everything[name]])) for name in racing.values()}, always)
        return RaceEntries(prices, tuple(everything), frozenset(seeded), tuple(refused), twins)

    def complete(self, halving: Halving) -> Halving:
        """The record of the race with those that did not run in it."""
        through = self.seeded | set(halving.finalists)
        finalists = tuple(name for name in self.names if self.twins.get(name, name) in through)
        return replace(halving, finalists=finalists, refused=self.refused, twins=tuple(self.twins.items()))


def _same(grouping: Grouping) -> object:
    """Equal for groupings that train the same groups and serve each task from the same one."""
    groups = [tuple(sorted(group)) for group in grouping.groups]
    return frozenset(groups), tuple(groups[server] for server in grouping.serves)
