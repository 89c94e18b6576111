"""The models that could be served, and what each would give its targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.study.results import Floats, Mask, Posterior, Results
from coterie.study.served_models import ServedModels, ServingLimits, choose_models
from coterie.study.subset_rules import SubsetRules, all_subsets, run_costs, servable, unique_rows

#: up to so many sources every subset is on the menu
EVERY_SUBSET = 10
#: subsets that are asked for at a time
_BATCH = 4096
#: random subsets that a search starts from, and its rounds at most
_RANDOM, _ROUNDS = 200, 40


@dataclass(frozen=True, eq=False)
class ModelMenu:
    """Models: subsets, each trained in one way.

    Attributes:
        trained: (models, sources).
        variants: name of the way in which each would be trained.
        values: (models, targets) expected losses; NaN where a model cannot serve a target.
        costs: (models,) cost of each.
        errors: (models, targets) standard errors of the values; NaN where they are not known.
    """

    trained: Mask
    variants: tuple[str, ...]
    values: Floats
    costs: Floats
    errors: Floats

    def row(self, trained: Mask, variant: str = "") -> int | None:
        """The row of a subset (sources,), if it is on the menu."""
        same = np.flatnonzero((self.trained == trained).all(axis=1))
        return next((int(row) for row in same if self.variants[row] == variant), None)

    def choose(self, weights: Floats, limits: ServingLimits, *, search: bool = False) -> ServedModels:
        """The models with the lowest total; weights (targets,)."""
        return choose_models(self.values * weights, self.costs, limits, search=search)

    def first(self, most: int) -> ModelMenu:
        """The first rows."""
        return self.only(np.arange(min(most, len(self.costs))))

    def together(self, other: ModelMenu) -> ModelMenu:
        """Both menus as one."""
        return ModelMenu(
            np.concatenate([self.trained, other.trained]),
            (*self.variants, *other.variants),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.costs, other.costs]),
            np.concatenate([self.errors, other.errors]),
        )

    def only(self, rows: Mask | NDArray[np.int64]) -> ModelMenu:
        """Some of the rows, by their numbers or by whether they are kept."""
        kept = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        variants = tuple(self.variants[int(row)] for row in kept)
        return ModelMenu(self.trained[kept], variants, self.values[kept], self.costs[kept], self.errors[kept])


def variants_of(results: Results) -> tuple[str, ...]:
    """Names of the ways of training, in the order in which they first come; the usual one where there is no run."""
    return tuple(dict.fromkeys(results.variants)) or ("",)


def measured_menu(results: Results) -> ModelMenu:
    """What was trained, with the mean over the runs of each subset and variant."""
    place: dict[tuple[bytes, str], list[int]] = {}
    for run, variant in enumerate(results.variants):
        place.setdefault((results.trained[run].tobytes(), variant), []).append(run)
    values = np.full((len(place), len(results.targets)), np.nan)
    costs = np.zeros(len(place))
    for row, runs in enumerate(place.values()):
        losses = results.losses[runs]
        known = np.isfinite(losses)
        measured = known.any(axis=0)
        values[row, measured] = np.where(known, losses, 0.0).sum(axis=0)[measured] / known.sum(axis=0)[measured]
        costs[row] = results.costs[runs].mean()
    trained = results.trained[[runs[0] for runs in place.values()]]
    variants = tuple(variant for _, variant in place)
    return ModelMenu(trained.reshape(len(place), -1), variants, values, costs, np.full_like(values, np.nan))


def predicted_menu(
    results: Results, posterior: Posterior, trained: Mask, variants: Sequence[str] | None = None
) -> ModelMenu:
    """What is expected of subsets, in some ways of training; None: in every way that some run used."""
    menus: list[ModelMenu] = []
    possible = servable(results, trained)
    for variant in variants_of(results) if variants is None else variants:
        parts = [posterior.predict(trained[i : i + _BATCH], variant) for i in range(0, len(trained), _BATCH)]
        values, errors = (np.where(possible, np.concatenate(found), np.nan) for found in zip(*parts, strict=True))
        costs = run_costs(results, trained, variant)
        menus.append(ModelMenu(trained, (variant,) * len(trained), values, costs, errors))
    found = menus[0]
    for menu in menus[1:]:
        found = found.together(menu)
    return found


def searched_menu(
    results: Results, posterior: Posterior, rules: SubsetRules, weights: Floats, limits: ServingLimits
) -> ModelMenu:
    """The subsets that may be worth serving, with what is expected of them.

    Up to ten sources these are all that are allowed, and those of `among` where it is given. With more, the menu grows:
    the best models of the menu so far, each with one source more or less, and unions and differences of two, are added
    until the choice does not change.
    """
    sources = len(results.sources)
    if rules.among is not None or sources <= EVERY_SUBSET:
        rows = rules.listed(results.sources) if rules.among is not None else all_subsets(sources)
        return predicted_menu(results, posterior, _allowed(results, rules, rows))
    menu = predicted_menu(results, posterior, _allowed(results, rules, _first_rows(results)))
    known = {row.tobytes() for row in menu.trained}
    for _ in range(_ROUNDS):
        chosen = menu.choose(weights, limits, search=True)
        near = _allowed(results, rules, _neighbours(menu.trained[list(chosen.models)]))
        fresh = near[[row.tobytes() not in known for row in near]] if len(near) else near
        if not len(fresh):
            break
        known |= {row.tobytes() for row in fresh}
        menu = menu.together(predicted_menu(results, posterior, fresh))
    return menu


def _allowed(results: Results, rules: SubsetRules, rows: Mask) -> Mask:
    return rows[rules.allowed(results.sources, rows)]


def _first_rows(results: Results) -> Mask:
    sources = len(results.sources)
    rng = np.random.default_rng(0)
    random = rng.random((_RANDOM, sources)) < rng.uniform(0.05, 0.95, (_RANDOM, 1))
    one = np.eye(sources, dtype=bool)
    return unique_rows(np.concatenate([np.ones((1, sources), dtype=bool), one, results.trained, random]))


def _neighbours(groups: Mask) -> Mask:
    """One source more or less; two groups as one, and one without another."""
    steps = [group ^ np.eye(groups.shape[1], dtype=bool) for group in groups]
    pairs = [(a | b, a & ~b, b & ~a) for i, a in enumerate(groups) for b in groups[:i]]
    return unique_rows(np.concatenate([*steps, *(np.stack(pair) for pair in pairs)]))


def draws_of_menu(menu: ModelMenu, posterior: Posterior, draws: int, seed: int) -> Floats:
    """Joint draws (draws, models, targets) of what is on a menu; ways of training are drawn independently."""
    found = np.full((draws, *menu.values.shape), np.nan)
    for variant in dict.fromkeys(menu.variants):
        rows = np.array([name == variant for name in menu.variants])
        rng = np.random.default_rng([seed, len(variant)])
        found[:, rows] = posterior.sample(menu.trained[rows], draws, rng, variant)
    return np.where(np.isfinite(menu.values), found, np.nan)
