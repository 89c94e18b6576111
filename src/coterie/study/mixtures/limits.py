"""Which mixtures may be trained: least and largest shares, and how often the data of a source may be gone over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np

from coterie._check import is_number, positive
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.study.results import Floats

#: times that a run may go over the same data: more are worth little (Muennighoff et al. 2023, "Scaling data-constrained
#: language models": up to four are nearly as good as new data)
EPOCHS = 4.0
#: shares add up to 1 within this
ROUNDING = 1e-6
#: concentrations of the mixtures that a design draws from: from nearly one source to nearly the natural mixture
CONCENTRATIONS = (0.3, 1.0, 3.0, 10.0)


@known_arguments
@dataclass(frozen=True)
class MixtureLimits:
    """Which mixtures may be trained.

    Args:
        least: source -> smallest share, 0 where it is not named.
        most: source -> largest share, 1 where it is not named.
        available: source -> how much data of it there is, in tokens or rows. Proportions of these are the natural
            mixture, where no other is given.
        run: tokens or rows that a run takes, in the same unit; with it, `available` limits shares.
        epochs: times that a run may go over the data of a source.

    Raises:
        SettingError: a number out of range, or limits that no mixture keeps.

    Example:
        >>> limits = MixtureLimits(available={"web": 1000.0, "code": 50.0}, run=400.0, epochs=2)
        >>> limits.bounds(("web", "code"))[1]
        array([1.  , 0.25])
    """

    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)
    available: Mapping[str, float] = field(default_factory=dict)
    run: float | None = None
    epochs: float = EPOCHS

    def __post_init__(self) -> None:
        for name in ("least", "most"):
            for source, share in self._mapping(name).items():
                if not (is_number(share) and 0 <= share <= 1):
                    raise SettingError(
                        f"Parameter `{name}` should map sources to shares from 0 to 1. Found {source!r}: {share!r}."
                    )
        for source, amount in self._mapping("available").items():
            positive(amount, f"available[{source!r}]")
        positive(self.epochs, "epochs")
        if self.run is not None:
            positive(self.run, "run")

    @staticmethod
    def of(given: object) -> MixtureLimits:
        """Limits as they are, or made of a mapping of their fields; None: no limits.

        Raises:
            SettingError: for anything else.
        """
        if given is None or isinstance(given, MixtureLimits):
            return given or MixtureLimits()
        if not isinstance(given, Mapping):
            raise SettingError(
                "Parameter `limits` should be MixtureLimits(...), or a mapping of its fields such as "
                f"{{'most': {{'web': 0.5}}}}. Found {given!r:.80}."
            )
        return MixtureLimits(**{str(name): value for name, value in cast("Mapping[Any, Any]", given).items()})

    def _mapping(self, name: str) -> Mapping[str, Any]:
        """A field that maps sources to numbers."""
        found = getattr(self, name)
        if not isinstance(found, Mapping):
            raise SettingError(
                f"Parameter `{name}` should map sources to numbers, such as {{'web': 0.5}}. Found {found!r:.80}."
            )
        return cast("Mapping[str, Any]", found)

    def bounds(self, sources: Sequence[str]) -> tuple[Floats, Floats]:
        """(sources,) smallest and largest shares.

        Raises:
            SettingError: a name that is no source, or limits that no mixture keeps.
        """
        for name in ("least", "most", "available"):
            odd = [source for source in getattr(self, name) if source not in sources]
            if odd:
                raise SettingError(f"Parameter `{name}` names {odd[0]!r}, which is no source of {list(sources)!r:.80}.")
        low = np.array([float(self.least.get(source, 0.0)) for source in sources])
        high = np.array([float(self.most.get(source, 1.0)) for source in sources])
        if self.run is not None:
            reach = [self.epochs * float(self.available.get(source, math.inf)) / self.run for source in sources]
            high = np.minimum(high, reach)
        if (low > high + ROUNDING).any() or low.sum() > 1 + ROUNDING or high.sum() < 1 - ROUNDING:
            where = [source for source, a, b in zip(sources, low, high, strict=True) if a > b + ROUNDING]
            what = f"{where[0]!r} has a least share above its largest" if where else (
                f"the least shares add up to {low.sum():.3g} and the largest to {high.sum():.3g}"
            )  # fmt: skip
            raise SettingError(
                f"The limits on shares allow no mixture: {what}. Data that are too few for the run are a likely cause: "
                "loosen `least`, `most` or `epochs`, or make the run shorter."
            )
        return low, high

    def natural(self, sources: Sequence[str]) -> Floats:
        """(sources,) the natural mixture: in proportion to the data that there are; even where that is not known."""
        if set(self.available) != set(sources):
            return np.full(len(sources), 1 / len(sources))
        amounts = np.array([float(self.available[source]) for source in sources])
        return amounts / amounts.sum()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)


def inside(shares: Floats, low: Floats, high: Floats) -> Floats:
    """Mixtures within bounds: shares are scaled by one factor and cut off, row by row.

    Where what is trained on has no room, the others get the rest, as far as they may.

    Args:
        shares: (mixtures, sources), not negative.
        low: (sources,) smallest shares.
        high: (sources,) largest shares.

    Example:
        >>> inside(np.array([[0.9, 0.1, 0.0]]), np.zeros(3), np.array([0.5, 1.0, 1.0]))
        array([[0.5, 0.5, 0. ]])
    """
    shares = np.maximum(np.asarray(shares, dtype=np.float64), 0.0)
    room = np.where(shares > 0, high, low).sum(1)
    shares = np.where((room < 1)[:, None], shares + ROUNDING, shares)
    floor, ceiling = np.zeros(len(shares)), np.full(len(shares), 1.0)
    for _ in range(60):  # a factor that is too large
        small = np.clip(shares * ceiling[:, None], low, high).sum(1) < 1
        if not small.any():
            break
        ceiling[small] *= 4
    for _ in range(80):
        middle = (floor + ceiling) / 2
        large = np.clip(shares * middle[:, None], low, high).sum(1) > 1
        ceiling, floor = np.where(large, middle, ceiling), np.where(large, floor, middle)
    found = np.clip(shares * ceiling[:, None], low, high)
    return found / found.sum(1, keepdims=True)


def drawn(natural: Floats, low: Floats, high: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Random mixtures within bounds: around the natural one or the even one, wide and narrow, with sources left out.

    Args:
        natural: (sources,) shares.
        low: (sources,) smallest shares.
        high: (sources,) largest shares.
        count: of mixtures.
        rng: of random numbers.
    """
    sources = len(natural)
    even = np.full(sources, 1 / sources)
    rows = np.empty((count, sources))
    for number in range(count):
        middle = (natural + even) / 2 if number % 2 else even
        alpha = middle * sources * CONCENTRATIONS[number // 2 % len(CONCENTRATIONS)]
        kept = np.ones(sources, dtype=bool)
        if number % 3:  # two thirds leave sources out, half of them in the mean
            kept = rng.random(sources) < rng.random()
            kept[rng.integers(sources)] = True
        row = rng.gamma(np.maximum(alpha, 1e-3)) * kept
        rows[number] = row / row.sum() if row.sum() > 0 else kept / kept.sum()
    return inside(rows, low, high)
