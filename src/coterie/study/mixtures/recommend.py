"""The mixture to train on after some runs, and whether it is known to be better than the natural proportions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie._show import html_table, short_repr
from coterie._surface import known_arguments
from coterie.errors import require
from coterie.study.confirmation import ERROR
from coterie.study.mixtures.confirmation import SAME, MixtureConfirmation, MixtureRun
from coterie.study.mixtures.groups import MixtureGroups, mixture_groups
from coterie.study.mixtures.objective import MixtureAim
from coterie.study.mixtures.results import MixturePredictor, MixtureResults, check_told
from coterie.study.mixtures.sizes import SizeEvidence, size_evidence
from coterie.study.mixtures.steering import Steering, steering
from coterie.study.mixtures.view import DRAWS, MixtureView
from coterie.study.results import Floats
from coterie.study.sequential import GainInterval
from coterie.study.study_view import NO, UNDECIDED, YES

if TYPE_CHECKING:
    import pandas

#: names of candidates that come of runs
RECOMMENDED, BEST_RUN = "recommended", "best run"
#: a source may be dropped when that costs at most this share of the spread of the objective over runs
FREE = 0.1
#: runs below which nothing is said of gains: one run has no spread to judge them by
_FEWEST = 2
#: normal quantile of 95 % intervals
_WIDE = 1.96


@dataclass(frozen=True, eq=False)
class MixtureCandidate:
    """A mixture that could be trained on.

    Attributes:
        name: ``"natural"``, ``"uniform"``, ``"best run"`` or ``"recommended"``.
        mixture: source -> share.
        objective: expected, in the direction of losses: lower is better.
        error: standard error of it.
        gain: of the recommended mixture over this one, as a share, with the 95 % interval of the predictor; None for
            the recommended one itself, and after a single run.
        measured: the same of fresh seeds, with an interval that may be looked at after every run; None without any.
        seeds: number of those.
    """

    name: str
    mixture: dict[str, float]
    objective: float
    error: float
    gain: GainInterval | None
    measured: GainInterval | None
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        gains = {"gain": self.gain, "measured": self.measured}
        return {
            "name": self.name,
            "mixture": dict(self.mixture),
            "objective": self.objective,
            "error": self.error,
            **{key: (None if value is None else value.to_dict()) for key, value in gains.items()},
            "seeds": self.seeds,
        }


@dataclass(frozen=True, eq=False)
class TargetForecast:
    """What the recommended mixture brings for a target, and what the target pays for the others; user's direction.

    Attributes:
        target: its name.
        value, low, high: expected, with a 95 % interval.
        rivals: name of a mixture that needs no study -> value that is expected of it.
        alone: value of the mixture that is best for this target alone.
        price: what the objective would lose by that mixture, as a share.
        skill: share of the variance of runs that is predicted when they are left out.
        p: how often shuffled runs are predicted as well.
        steerable: whether proportions steer the target at all.
    """

    target: str
    value: float
    low: float
    high: float
    rivals: dict[str, float]
    alone: float
    price: float
    skill: float
    p: float
    steerable: bool

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        found = {**vars(self), "rivals": dict(self.rivals)}
        return {key: (None if isinstance(one, float) and not np.isfinite(one) else one) for key, one in found.items()}


@dataclass(frozen=True, eq=False)
class SourceVerdict:
    """What a source is worth in the recommended mixture.

    Attributes:
        source: its name.
        share: in the recommended mixture.
        cost: what leaving it out is expected to cost, as a share of the objective, with a 95 % interval: above 0, it
            is missed.
        drop: whether it can be left out.
    """

    source: str
    share: float
    cost: GainInterval
    drop: bool

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {"source": self.source, "share": self.share, "cost": self.cost.to_dict(), "drop": self.drop}


@short_repr
@dataclass(frozen=True, eq=False)
class MixtureRecommendation:
    """What to train on.

    Attributes:
        text: one line, the first thing to read.
        verdict: whether the mixture is better than the natural and the uniform one: ``"yes"`` (confirmed with fresh
            seeds), ``"no"`` (do not bother) or ``"undecided"`` (not yet).
        recommended: name of the candidate to train on now.
        mixture: source -> share, of the best mixture that was found.
        sources: names of all sources.
        targets: one forecast a target.
        candidates: mixtures that need no study, the best run, and the recommended one.
        drop: one verdict a source, those that can be left out first.
        groups: several mixtures, where more than one model may be served; None else.
        sizes: what runs of other sizes tell.
        confirm: runs with fresh seeds that would confirm the choice.
        confirmation: what was written down for them; keep it, and give it to the next call.
        regret: what is expected to be missed by choosing now, as a share of the objective.
    """

    text: str
    verdict: str
    recommended: str
    mixture: dict[str, float]
    sources: tuple[str, ...]
    targets: tuple[TargetForecast, ...]
    candidates: tuple[MixtureCandidate, ...]
    drop: tuple[SourceVerdict, ...]
    groups: MixtureGroups | None
    sizes: tuple[SizeEvidence, ...]
    confirm: tuple[MixtureRun, ...]
    confirmation: MixtureConfirmation | None
    regret: float

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the sources that can be left out."""
        return tuple(one.source for one in self.drop if one.drop)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "text": self.text,
            "verdict": self.verdict,
            "recommended": self.recommended,
            "mixture": dict(self.mixture),
            "sources": list(self.sources),
            "targets": [one.to_dict() for one in self.targets],
            "candidates": [one.to_dict() for one in self.candidates],
            "drop": [one.to_dict() for one in self.drop],
            "groups": None if self.groups is None else self.groups.to_dict(),
            "sizes": [one.to_dict() for one in self.sizes],
            "confirm": [run.to_dict(self.sources) for run in self.confirm],
            "confirmation": None if self.confirmation is None else self.confirmation.to_dict(),
            "regret": self.regret,
        }

    def to_frame(self) -> pandas.DataFrame:
        """One row a target: what is expected, what it pays, whether it can be steered (needs pandas)."""
        frames: Any = require("pandas", extra="table", purpose="MixtureRecommendation.to_frame()")
        rows = [one.to_dict() for one in self.targets]
        return frames.DataFrame([{**{k: v for k, v in row.items() if k != "rivals"}, **row["rivals"]} for row in rows])

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        head = ("mixture", "expected objective", "gain of the recommended one", "measured", "seeds")
        rows = [
            (one.name, f"{one.objective:.4g}", one.gain or "", one.measured or "", one.seeds) for one in self.candidates
        ]
        return html_table(head, rows, self.text, left=1)


@known_arguments
def recommend_mixture(
    results: MixtureResults,
    aim: MixtureAim,
    *,
    predictor: MixturePredictor | None = None,
    confirmation: MixtureConfirmation | None = None,
    signs: Floats | None = None,
) -> MixtureRecommendation:
    """Choose a mixture, and say whether it is known to be better than the natural and the uniform one.

    The mixture is the one whose expected objective, with half its standard error added, is best within the limits.
    "Yes" is said only of a choice that was written down before (`confirmation`), on fresh seeds of it and of both
    rivals, by an e-process (:mod:`coterie.study.sequential`) for each rival: in error in at most 5 % of studies,
    however often somebody looks.

    Args:
        results: runs so far.
        aim: what is to be decided.
        predictor: of values; None for the usual one.
        confirmation: what the last call returned.
        signs: (targets,) -1 where the user's numbers are better when larger; None: nowhere.

    Raises:
        WorkloadError: no run, or a target that no run measured.

    Cost: a fit of the predictor, 20 fits of its shared part for the null of what can be steered, and searches: 5 to 20
        seconds with 60 runs and 100 targets.
    """
    check_told(results)
    view = MixtureView.of(results, aim, predictor)
    written = view.written(confirmation)
    steer = steering(view.own)
    confirmed = written is not None and written.is_better(results) and _matters(view, written)
    chosen = written.shares if written is not None and (confirmed or written.begun(results)) else view.best
    few = len(view.own.losses) < _FEWEST
    verdict = YES if confirmed else NO if not few and _excluded(view, written) else UNDECIDED
    candidates = _candidates(view, chosen, written)
    guess = (
        RECOMMENDED
        if verdict == YES or (verdict == UNDECIDED and not few and _is_guess(candidates))
        else candidates[0].name
    )
    sizes = size_evidence(results, view.posterior, view.weights)
    unknown = "" if "" in results.sizes else next(f" {one.text}" for one in sizes if one.size == view.own.sizes[0])
    return MixtureRecommendation(
        text=_text(view, candidates, verdict, written) + unknown,
        verdict=verdict,
        recommended=guess,
        mixture=_named(view, chosen),
        sources=results.sources,
        targets=_forecasts(view, chosen, steer, np.ones(len(results.targets)) if signs is None else signs),
        candidates=candidates,
        drop=_drop(view, chosen),
        groups=mixture_groups(view, aim.models) if aim.models > 1 else None,
        sizes=sizes,
        confirm=written.wanted(results) if written is not None and verdict == UNDECIDED else (),
        confirmation=written,
        regret=view.regret,
    )


def _matters(view: MixtureView, written: MixtureConfirmation) -> bool:
    """Whether the gain over each rival is as large as matters."""
    return all(written.interval(view.results, rival).mean >= view.aim.matters for rival in written.rivals)


def _excluded(view: MixtureView, written: MixtureConfirmation | None) -> bool:
    """Whether a gain over the better of the rivals that matters is excluded."""
    if written is not None and written.begun(view.results):
        return any(written.interval(view.results, rival).high < view.aim.matters for rival in written.rivals)
    gains = np.stack(list(view.gains.values())).min(0)
    return bool((gains <= view.aim.matters).mean() >= 1 - ERROR)


def _candidates(view: MixtureView, chosen: Floats, written: MixtureConfirmation | None) -> tuple[MixtureCandidate, ...]:
    """The natural and the even mixture, the best run, and the recommended one."""
    told = view.own.losses @ view.weights
    rows = dict(view.rivals)
    if np.isfinite(told).any():
        rows[BEST_RUN] = view.own.shares[int(np.nanargmin(told))]
    rows[RECOMMENDED] = chosen
    shares = np.stack(list(rows.values()))
    mean, error = view.posterior.total(shares, view.weights[None])
    drawn = view.draws(shares, DRAWS)
    found: list[MixtureCandidate] = []
    for place, name in enumerate(rows):
        gains = (drawn[:, place] - drawn[:, -1]) / view.reference
        low, high = np.quantile(gains, [0.025, 0.975])
        expected = float(mean[place, 0] - mean[-1, 0]) / view.reference
        gain = (
            None
            if name == RECOMMENDED or len(view.own.losses) < _FEWEST
            else GainInterval(expected, float(low), float(high))
        )
        fresh = np.array([])
        if written is not None and name in written.rivals and np.abs(written.shares - chosen).max() < SAME:
            fresh = written.gains(view.results, name)
        measured = written.interval(view.results, name) if written is not None and len(fresh) else None
        numbers = float(mean[place, 0]), float(error[place, 0])
        found.append(MixtureCandidate(name, _named(view, shares[place]), *numbers, gain, measured, len(fresh)))
    return tuple(found)


def _is_guess(candidates: tuple[MixtureCandidate, ...]) -> bool:
    """Whether the recommended mixture is a better guess than every rival."""
    return all(one.gain is None or one.gain.mean > 0 for one in candidates if one.name != BEST_RUN)


def _forecasts(view: MixtureView, chosen: Floats, steer: Steering, signs: Floats) -> tuple[TargetForecast, ...]:
    """One a target."""
    values, errors = view.posterior.predict(np.stack([chosen, *view.rivals.values()]))
    spread = np.concatenate([view.pool, chosen[None]])
    means = np.concatenate([view.means, values[:1]])
    objectives = means @ view.weights
    found: list[TargetForecast] = []
    for target, name in enumerate(view.results.targets):
        best = int(np.argmin(means[:, target]))
        alone = spread[[best]]
        sign, value, wide = signs[target], values[0, target], _WIDE * errors[0, target]
        low, high = sorted((sign * (value - wide), sign * (value + wide)))
        found.append(
            TargetForecast(
                name, float(sign * value), float(low), float(high),
                {rival: float(sign * values[1 + place, target]) for place, rival in enumerate(view.rivals)},
                float(sign * view.posterior.mean(alone)[0, target]),
                float(objectives[best] - objectives[-1]) / view.reference,
                float(steer.skill[target]), float(steer.p[target]), bool(steer.steerable[target]),
            )
        )  # fmt: skip
    return tuple(found)


def _drop(view: MixtureView, chosen: Floats) -> tuple[SourceVerdict, ...]:
    """What leaving a source out costs, with its share given to the others or the best that there is without it."""
    tolerated = max(view.aim.matters, FREE * float(np.nanstd(view.own.losses @ view.weights)) / view.reference)
    rows, numbers = [chosen], list[int]()
    for source in np.flatnonzero((view.aim.low <= 0) & (chosen > 1e-4)):
        rest = view.pool[view.pool[:, source] <= 0]
        given = _without(chosen, int(source), view.aim)
        options = rest if given is None else np.concatenate([given[None], rest])
        if len(options):
            rows.append(
                options[int(np.argmin(view.objective(options[:40]) if len(options) > 40 else view.objective(options)))]
            )
            numbers.append(int(source))
    drawn = view.draws(np.stack(rows), DRAWS, seed=4)
    costs = (drawn[:, 1:] - drawn[:, :1]) / view.reference
    found: list[SourceVerdict] = []
    for source, name in enumerate(view.results.sources):
        if source in numbers and len(view.own.losses) >= _FEWEST:
            one = costs[:, numbers.index(source)]
            low, high = np.quantile(one, [0.025, 0.975])
            cost = GainInterval(float(one.mean()), float(low), float(high))
        else:
            cost = GainInterval(0.0, 0.0, 0.0) if chosen[source] <= 1e-4 else GainInterval(np.nan, -np.inf, np.inf)
        drop = bool(cost.mean <= tolerated and view.aim.low[source] <= 0)
        found.append(SourceVerdict(name, float(chosen[source]), cost, drop))
    return tuple(sorted(found, key=lambda one: (not one.drop, one.cost.mean)))


def _without(chosen: Floats, source: int, aim: MixtureAim) -> Floats | None:
    """The mixture with a source's share given to the others in proportion; None where they have no room."""
    from coterie.study.mixtures.limits import inside

    high = aim.high.copy()
    high[source] = 0.0
    if high.sum() < 1:
        return None
    rest = chosen.copy()
    rest[source] = 0.0
    return inside(rest[None] if rest.any() else high[None], aim.low, high)[0]


def _text(
    view: MixtureView, candidates: tuple[MixtureCandidate, ...], verdict: str, written: MixtureConfirmation | None
) -> str:
    """The first thing to read."""
    runs, first = len(view.own.losses), candidates[0].name
    rivals = [one for one in candidates if one.name in view.rivals]
    if runs < _FEWEST:
        return "Not yet: one run tells too little of any gain."
    gains = " and ".join(f"{one.gain} over the {one.name} mixture" for one in rivals)
    if verdict == YES:
        shown = " and ".join(f"{one.measured} over the {one.name} mixture" for one in rivals)
        return f"Train on this mixture: fresh seeds confirm it, {shown}."
    if verdict == NO:
        return f"Do not bother: after {runs} runs no mixture is expected to beat the {first} one by what matters."
    if written is None:
        return f"Not yet: after {runs} runs the best mixture is expected to gain {gains}, which is within the error."
    return (
        f"Not yet: after {runs} runs this mixture is expected to gain {gains}. Runs with fresh seeds of it and of its "
        "rivals would confirm that."
    )


def _named(view: MixtureView, shares: Floats) -> dict[str, float]:
    pairs = zip(view.results.sources, shares, strict=True)
    return {name: round(float(share), 6) for name, share in pairs if share > 1e-4}
