"""Which mixtures a study would like next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from coterie.errors import CoterieError
from coterie.study.mixtures.limits import drawn
from coterie.study.mixtures.settings import MixtureSettings
from coterie.study.propose import CHOSEN, CONFIRMATION, WISHES_OF_ONE, Advice
from coterie.study.results import Floats
from coterie.study.runs import ASKED, FAILED_STATE, StudyRun, Wish, told_runs

#: decimals of shares that are asked for
DECIMALS = 6


def wish_for(settings: MixtureSettings, shares: Floats, seed: int | None, variant: str = "") -> Wish:
    """The wish for a mixture."""
    rounded = np.round(shares, DECIMALS)
    rounded[int(np.argmax(rounded))] += round(1.0 - float(rounded.sum()), DECIMALS)
    kept = tuple(round(float(share), DECIMALS) for share in rounded)
    return Wish(tuple(map(int, np.flatnonzero(kept))), seed, variant, shares=kept)


def choose_mixtures(study: Any, runs: Sequence[StudyRun], confirmation: Any) -> Advice:
    """What the design of mixtures says.

    Args:
        study: a :class:`coterie.study.mixtures.study.MixtureStudy`.
        runs: all runs so far.
        confirmation: the choice that was written down, as it is stored.
    """
    from coterie.study.mixtures.confirmation import MixtureConfirmation
    from coterie.study.mixtures.design import mixture_design_size, next_mixtures

    settings = cast("MixtureSettings", study.settings)
    under_way = [
        (settings.shares(run.shares or {}, "shares"), run.seed or 0)
        for run in runs
        if run.state in (ASKED, FAILED_STATE) and run.again is None and run.shares and not run.variant
    ]
    if not told_runs(runs) and len(under_way) >= mixture_design_size(len(study.tasks)):
        return Advice((), False, "No run was told yet: these mixtures are random.")
    written = None if confirmation is None else MixtureConfirmation.from_dict(confirmation)
    try:
        found = next_mixtures(
            study.results(), study.aim(), CHOSEN, seed=settings.seed, confirmation=written, taken=under_way
        )
    except CoterieError as error:  # runs that tell too little; random mixtures will tell more
        return Advice((), False, str(error))
    if found.confirmation is not None and found.confirmation is not written:
        study.optuna_study.set_user_attr(CONFIRMATION, found.confirmation.to_dict())
    wishes = tuple(wish_for(settings, run.shares, run.seed) for run in found.runs)
    return Advice(wishes, found.enough, found.reason)


def spare_mixtures(study: Any, runs: Sequence[StudyRun]) -> list[Wish]:
    """Random mixtures within the limits."""
    settings = cast("MixtureSettings", study.settings)
    rng = np.random.default_rng([settings.seed, len(runs), 1])
    rows = drawn(settings.natural_shares, *settings.bounds, WISHES_OF_ONE, rng)
    return [wish_for(settings, row, 0) for row in rows]
