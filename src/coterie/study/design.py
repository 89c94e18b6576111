"""Which runs a study should make next: a design at first, then what most helps the choice of models to serve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from coterie._check import whole_number
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.study.confirmation import Confirmation, WantedRun
from coterie.study.decision_draws import DecisionDraws, decision_draws
from coterie.study.recommend import is_excluded, written_choice
from coterie.study.results import Floats, Mask, Results, ValuePredictor
from coterie.study.serving_plan import all_in_one
from coterie.study.study_view import MODELS, Aim, StudyView, fit_values
from coterie.study.subset_rules import SubsetRules, all_subsets, run_costs, servable, unique_rows

#: random subsets that a design chooses from, and that are looked at beside the leading ones later
_CANDIDATES, _OTHERS = 300, 30
#: every second run of the design has at most so many times the mean size of the groups that may be served
_LARGER = 1.5
#: of the additive model behind the first design: variance of a source's effect, that of the noise being 1
_EFFECT = 1.0
#: share of the gain that matters: an expected miss below it is worth no further run
_SMALL = 0.25
#: every so many runs, one tells most about the additive model: what a predictor is wrongly sure of is not asked for by
#: what it believes (benchmarks/study_decisions.py)
_BROAD = 2
#: so many runs of a subset that did not come back, and it is not asked for again
_LOST = 2


@short_repr
@dataclass(frozen=True, eq=False)
class Proposal:
    """What to run next.

    Attributes:
        runs: the runs, most useful first; where there are enough, for whoever goes on.
        enough: whether more runs are not expected to be worth it.
        reason: why, in one sentence.
        confirmation: the choice that runs with fresh seeds judge; keep it for the next call of `recommend`.
        regret: the mean gain that is expected to be missed by deciding now, as a share; NaN in the first design.
    """

    runs: tuple[WantedRun, ...]
    enough: bool
    reason: str
    confirmation: Confirmation | None
    regret: float


@known_arguments
def next_runs(
    results: Results,
    count: int = 1,
    *,
    aim: Aim | None = None,
    predictor: ValuePredictor | None = None,
    seed: int = 0,
    confirmation: Confirmation | None = None,
    taken: Sequence[WantedRun] = (),
) -> Proposal:
    """Return the runs that a study should make next, or say that there are enough.

    First comes a design: all tasks together, then subsets that tell most about which source helps which target. Then
    every run is chosen for what it is expected to add to the gain of the models that will be served, for its cost:
    values of all subsets that may matter are drawn jointly from the predictor, and a run is worth the gain that its
    result lets one choose beyond the choice of now (the knowledge gradient), and what it tells of the differences
    between the choices that may be best. Every second run is one of the first kind, because a predictor can be sure of
    what is wrong. Further seeds of a subset that was run
    compete with new subsets. Runs of a batch are chosen one after the other as if those before had told what is
    expected of them.

    The regret is what is expected to be missed by deciding now; no number of further runs is worth more. When it is
    below a quarter of the gain that matters, runs with fresh seeds confirm the choice, see
    :func:`coterie.study.recommend.recommend`. There are enough when it is confirmed, or when it is not expected to gain
    what matters.

    Args:
        results: runs so far; there may be none.
        count: runs that are wanted at a time.
        aim: models to choose, and subsets that may be trained; None: three models of any subsets.
        predictor: of values; None for the usual one.
        seed: of random numbers.
        confirmation: of the last recommendation or proposal.
        taken: runs that were asked for and are not in the results: they are not proposed again.

    Raises:
        SettingError: a setting out of range, or rules that allow no subset.

    Cost:
        The first design: milliseconds. Then a fit of the predictor and its joint draws, about one second.

    Source:
        Frazier, Powell & Dayanik (2009), "The knowledge-gradient policy for correlated normal beliefs"; applied to
        groups here.

    Example:
        >>> nothing = Results.of(("a", "b", "c"), np.zeros((0, 3), dtype=bool), np.zeros((0, 3)))
        >>> [run.trained.tolist() for run in next_runs(nothing, 2).runs]
        [[True, True, True], [True, True, False]]
    """
    whole_number(count, "count", low=1)
    whole_number(seed, "seed", low=0)
    aim = aim or Aim()
    book = _Book(results, taken)
    first = _first_design(results, aim, book, count, seed)
    if first:
        reason = "These runs tell most about which task helps which."
        return Proposal(first, False, reason, confirmation, float("nan"))
    view = StudyView.of(results, aim, fit_values(results, predictor))
    draws = decision_draws(view, _others(results, aim.rules, seed), seed)
    draws = _as_if_told(draws, book.under_way)
    return _after_design(view, draws, book, count, confirmation)


class _Book:
    """Which runs were made, and which are under way."""

    def __init__(self, results: Results, taken: Iterable[WantedRun]) -> None:
        rows = zip(results.trained, results.seeds, results.variants, strict=True)
        made = {(row.tobytes(), int(seed), variant) for row, seed, variant in rows}
        self.under_way = [run for run in taken if run.key not in made]
        self.used = made | {run.key for run in self.under_way}
        self.counts: dict[tuple[bytes, str], int] = {}
        for row, variant in zip(results.trained, results.variants, strict=True):
            self.counts[row.tobytes(), variant] = self.counts.get((row.tobytes(), variant), 0) + 1

    def is_lost(self, trained: Mask, variant: str) -> bool:
        """Whether runs of a subset do not come back."""
        key = trained.tobytes()
        out = sum(run.key[0] == key and run.variant == variant for run in self.under_way)
        return out >= _LOST and (key, variant) not in self.counts

    def add(self, trained: Mask, variant: str, reason: str) -> WantedRun:
        """A run with the first seed that was not used: seeds that models share make their luck alike."""
        key, seed = trained.tobytes(), self.counts.get((trained.tobytes(), variant), 0)
        while (key, seed, variant) in self.used:
            seed += 1
        run = WantedRun(trained, seed, reason, variant)
        self.used.add(run.key)
        return run


def design_size(sources: int) -> int:
    """Runs of the first design: enough for a first idea of who helps whom."""
    return max(6, sources + 2)


def _first_design(results: Results, aim: Aim, book: _Book, count: int, seed: int) -> tuple[WantedRun, ...]:
    """What is missing from the first design, at most `count` runs.

    All tasks together come first, as the reference of every gain. Then each subset is the one that tells most, for its
    cost, about an additive model of each target that it measures: large subsets measure many targets, and pairs that
    were seldom together tell more. Every second one is not much larger than the groups that will be served, so that the
    effect of the size is known there.
    """
    rules = aim.rules
    told = np.concatenate([results.trained, *(run.trained[None] for run in book.under_way)])
    needed = min(count, design_size(len(results.sources)) - len(told))
    if needed <= 0:
        return ()
    variant = all_in_one(results).variants[0]
    candidates = _candidates(results, rules, seed)
    design = _AdditiveDesign(results, told)
    found: list[WantedRun] = []
    together = np.ones(len(results.sources), dtype=bool)
    if rules.allowed(results.sources, together[None])[0] and not (told.all(axis=1)).any():
        found.append(book.add(together, variant, "all tasks together, the reference"))
        design.add(together)
    costs = run_costs(results, candidates, variant)
    sizes = candidates.sum(axis=1)
    usual = max(2, round(_LARGER * len(results.sources) / (aim.models or MODELS)), int(sizes.min()))
    while len(found) < needed:
        worth = design.worth(candidates) / np.maximum(costs, 1e-12)
        worth = np.where((sizes <= usual) | ((len(told) + len(found)) % 2 == 0), worth, 0.0)
        row = candidates[int(np.argmax(worth))]
        found.append(book.add(row, variant, "first design"))
        design.add(row)
    return tuple(found[:needed])


class _AdditiveDesign:
    """What runs tell about an additive model of each target, of the same variances for all."""

    def __init__(self, results: Results, told: Mask) -> None:
        self.results = results
        features = len(results.sources) + 1
        prior = np.diag([1e3, *[_EFFECT] * len(results.sources)])
        self.covariances = np.broadcast_to(prior, (len(results.targets), features, features)).copy()
        for row in told:
            self.add(row)

    def worth(self, trained: Mask) -> Floats:
        """(subsets,) how much a run lowers the logarithm of the volume of what is not known."""
        x = np.concatenate([np.ones((len(trained), 1)), trained], axis=1)
        variances = np.einsum("mi,tij,mj->mt", x, self.covariances, x, optimize=True)
        return np.where(servable(self.results, trained), np.log1p(variances), 0.0).sum(axis=1)

    def add(self, trained: Mask) -> None:
        """A run of a subset."""
        x = np.concatenate([[1.0], trained])
        for target in np.flatnonzero(servable(self.results, trained[None])[0]):
            covariance = self.covariances[target]
            known = covariance @ x
            covariance -= np.outer(known, known) / (1 + x @ known)


def _candidates(results: Results, rules: SubsetRules, seed: int, count: int = _CANDIDATES) -> Mask:
    """Subsets that may be trained, all of them where they are few."""
    sources = len(results.sources)
    if rules.among is not None:
        rows = rules.listed(results.sources)
    elif sources <= 8:
        rows = all_subsets(sources)
    else:
        rng = np.random.default_rng([seed, sources])
        low, high = rules.sizes or (2, sources)
        sizes = rng.integers(low, min(high, sources) + 1, count)
        rows = unique_rows(rng.random((count, sources)).argsort(axis=1).argsort(axis=1) < sizes[:, None])
    rows = rows[rules.allowed(results.sources, rows)]
    if not len(rows):
        raise SettingError(
            "The rules on `sizes`, `together`, `apart` and `among` allow no subset that was tried. Loosen them, or "
            "list subsets in `among`."
        )
    return rows


def _others(results: Results, rules: SubsetRules, seed: int) -> Mask:
    """Some subsets that are no candidates for serving but may tell of those that are."""
    rows = _candidates(results, rules, seed + len(results.losses) + 1)
    rng = np.random.default_rng([seed, len(results.losses)])
    return rows[rng.permutation(len(rows))[:_OTHERS]]


def _as_if_told(draws: DecisionDraws, runs: Sequence[WantedRun]) -> DecisionDraws:
    """The draws after runs that are under way told what is expected of them."""
    for run in runs:
        row = draws.menu.row(run.trained, run.variant)
        if row is not None:
            draws = draws.after(row)
    return draws


def _after_design(
    view: StudyView, draws: DecisionDraws, book: _Book, count: int, confirmation: Confirmation | None
) -> Proposal:
    """Confirm, explore, or stop."""
    written = written_choice(view, confirmation)
    regret, matters = draws.regret(), view.aim.matters
    small = regret < matters * _SMALL
    missed = f"deciding now is expected to miss a gain of {100 * regret:.1f} %"
    if written is not None and small:
        if written.is_better(view.results) and written.interval(view.results).mean >= matters:
            reason = f"Enough: the choice is confirmed, and {missed} beyond it."
            return Proposal(_explore(view, draws, book, count), True, reason, written, regret)
        if not (written.plan == view.plan and is_excluded(view, written)):
            runs = written.wanted(view.results, book.under_way)[:count]
            return Proposal(runs, False, f"Confirm the choice with fresh seeds: {missed}.", written, regret)
    if small:
        reason = f"Enough: {missed}, and more than one model is not expected to gain what matters."
        return Proposal(_explore(view, draws, book, count), True, reason, written, regret)
    return Proposal(_explore(view, draws, book, count), False, f"Explore: {missed}.", written, regret)


def _explore(view: StudyView, draws: DecisionDraws, book: _Book, count: int) -> tuple[WantedRun, ...]:
    """The runs whose results are worth most for their cost."""
    menu, found = draws.menu, list[WantedRun]()
    free = np.array([not book.is_lost(row, v) for row, v in zip(menu.trained, menu.variants, strict=True)])
    free &= view.aim.rules.allowed(view.results.sources, menu.trained)
    costs = np.concatenate(
        [run_costs(view.results, menu.trained[[row]], variant) for row, variant in enumerate(menu.variants)]
    )
    told = np.concatenate([view.results.trained, *(run.trained[None] for run in book.under_way)])
    design = _AdditiveDesign(view.results, told)
    for number in range(len(told), len(told) + count):
        broad = number % _BROAD == 0
        worth = design.worth(menu.trained) / np.sqrt(menu.trained.sum(axis=1)) if broad else draws.worth()
        row = int(np.argmax(np.where(free, worth / np.maximum(costs, 1e-12), -np.inf)))
        design.add(menu.trained[row])
        again = (menu.trained[row].tobytes(), menu.variants[row]) in book.counts
        reason = "a further seed of a subset that decides" if again else "decides which groups are best"
        reason = "keeps the predictor honest: it tells most of what was seldom together" if broad else reason
        found.append(book.add(menu.trained[row], menu.variants[row], reason))
        draws = draws.after(row)
    return tuple(found)
