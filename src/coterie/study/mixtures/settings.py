"""What a study of mixtures is about: sources, targets and their weights, limits, the run that is asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

import numpy as np

from coterie._check import choice, is_number
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.study.mixtures.limits import ROUNDING, MixtureLimits, inside
from coterie.study.results import Floats
from coterie.study.settings import StudySettings

#: what a study may be of
MIXTURE, SUBSETS = "mixture", "subsets"
#: shares that add up to 1 within this are taken for rounded
_ROUNDED = 0.02
#: targets count as they are, or in units of how much they differ between runs
UNITS = ("raw", "spread")


@known_arguments
@short_repr
@dataclass(frozen=True)
class MixtureSettings(StudySettings):
    """What a study of mixtures is about; beside what :class:`coterie.study.StudySettings` has, with sources as tasks.

    Args:
        kind: ``"mixture"``.
        weights: target -> weight, 1 where it is not named; None: all alike. They are made to add up to 1.
        limits: what :class:`coterie.study.mixtures.limits.MixtureLimits` takes.
        natural: source -> share of the natural mixture; None: by the data that are available, or all alike.
        size: of the model that is asked about, in your own words.
        units: ``"raw"``: weights are of the numbers as they are; ``"spread"``: of numbers in standard deviations
            over runs. None: raw where all targets have one direction.

    Raises:
        SettingError: when one of them cannot be meant.

    Example:
        >>> MixtureSettings(("web", "code"), ("loss", "bugs"), weights={"bugs": 3}).shares_of_targets
        array([0.25, 0.75])
    """

    kind: str = MIXTURE
    weights: Mapping[str, float] | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    natural: Mapping[str, float] | None = None
    size: str = ""
    units: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(self.kind, "kind", (MIXTURE,))
        if self.units is None:
            object.__setattr__(self, "units", "raw" if len(set(self.signs.tolist())) == 1 else "spread")
        choice(self.units, "units", UNITS)
        for name, weight in (self.weights or {}).items():
            self.check_name(name, self.measured, "weights")
            if not (is_number(weight) and np.isfinite(weight) and weight >= 0):
                raise SettingError(
                    f"Parameter `weights`: {name!r} should have a weight of at least 0. Found {weight!r}."
                )
        if self.weights is not None and not any((self.weights or {}).get(name, 1.0) for name in self.measured):
            raise SettingError("Parameter `weights` should leave one target or more. All weights are 0.")
        _ = self.natural_shares  # refuses limits and shares that cannot be meant

    @property
    def shares_of_targets(self) -> Floats:
        """(targets,) weights that add up to 1."""
        given = np.array([float((self.weights or {}).get(name, 1.0)) for name in self.measured])
        return given / given.sum()

    @property
    def mixture_limits(self) -> MixtureLimits:
        """The limits on shares."""
        return MixtureLimits(**dict(self.limits))

    @property
    def bounds(self) -> tuple[Floats, Floats]:
        """(sources,) smallest and largest shares."""
        return self.mixture_limits.bounds(self.tasks)

    @property
    def natural_shares(self) -> Floats:
        """(sources,) the natural mixture, as far as limits allow."""
        low, high = self.bounds
        if self.natural is not None:
            given = self.shares(self.natural, "natural")
        else:
            given = self.mixture_limits.natural(self.tasks)
        return inside(given[None], low, high)[0]

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> MixtureSettings:
        """The inverse of `to_dict`; what a later version adds is left out."""
        known = {one.name for one in fields(MixtureSettings)}
        return MixtureSettings(**{key: value for key, value in data.items() if key in known})

    def shares(self, mixture: Any, parameter: str) -> Floats:
        """(sources,) the shares of a mixture, which add up to 1.

        Args:
            mixture: source -> share, 0 where it is not named; or one share a source, in their order. Shares that add up
                to 1 but for rounding are made to.
            parameter: for messages.

        Raises:
            SettingError: a name that is no source, a negative share, shares that add up to something else.
        """
        given: Any = mixture.to_dict() if hasattr(mixture, "to_dict") else mixture
        if isinstance(given, Mapping):
            for name in given:
                self.check_name(name, self.tasks, parameter)
            values = [given.get(name, 0.0) for name in self.tasks]
        else:
            values = list(cast("Sequence[Any]", given)) if hasattr(given, "__len__") else [given]
        good = len(values) == len(self.tasks) and all(is_number(v) and np.isfinite(v) and v >= 0 for v in values)
        total = float(sum(values)) if good else 0.0
        if not good or abs(total - 1) > _ROUNDED:
            what = f"they add up to {total:.4g}" if good else f"found {given!r:.80}"
            raise SettingError(
                f"Parameter `{parameter}` should map sources to shares of at least 0 that add up to 1, or hold "
                f"one share for each of the {len(self.tasks)} sources: {what}. Percents and weights are a likely "
                "cause: divide them by their sum."
            )
        return np.asarray(values, dtype=np.float64) / total

    def named(self, shares: Floats) -> dict[str, float]:
        """Source -> share, for those that have one."""
        return {name: float(share) for name, share in zip(self.tasks, shares, strict=True) if share > ROUNDING}
