"""Groups of tasks with the group that serves each target, and how two of them compare seed by seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie._json import text, whole
from coterie.errors import SettingError
from coterie.study.menu import ModelMenu, variants_of
from coterie.study.results import Floats, Mask, Results
from coterie.study.served_models import ServedModels
from coterie.study.subset_rules import names_of_subset

#: names of the simple candidates, as in a comparison
ALL_IN_ONE, SINGLE_TASK, GROUPS = "all-in-one", "single-task", "groups"


@dataclass(frozen=True)
class ServingPlan:
    """Models to serve.

    Attributes:
        groups: names of the tasks that each model trains on.
        variants: the way in which each is trained; "" is the usual one.
        serves: for each target the index of the group that serves it.
    """

    groups: tuple[tuple[str, ...], ...]
    variants: tuple[str, ...]
    serves: tuple[int, ...]

    @staticmethod
    def of(results: Results, menu: ModelMenu, chosen: ServedModels) -> ServingPlan:
        """What was chosen from a menu, with its groups in the order of their tasks."""
        order = sorted(chosen.models, key=lambda row: (*(~menu.trained[row]).tolist(), menu.variants[row]))
        groups = tuple(names_of_subset(results.sources, menu.trained[row]) for row in order)
        serves = tuple(order.index(int(row)) for row in chosen.serves)
        return ServingPlan(groups, tuple(menu.variants[row] for row in order), serves)

    def subsets(self, sources: tuple[str, ...]) -> Mask:
        """(groups, sources) what each model trains on."""
        return np.array([[name in group for name in sources] for group in self.groups], dtype=bool)

    def losses(self, sources: tuple[str, ...], menu: ModelMenu, values: Floats) -> Floats:
        """(..., targets) losses of the serving models, of values (..., models, targets) of a menu; NaN if not on it."""
        targets = values.shape[-1]
        found = np.full((*values.shape[:-2], targets), np.nan)
        rows = [menu.row(s, v) for s, v in zip(self.subsets(sources), self.variants, strict=True)]
        for target, group in enumerate(self.serves):
            row = rows[group]
            if row is not None:
                found[..., target] = values[..., row, target]
        return found

    def name(self, results: Results) -> str:
        """``"all-in-one"``, ``"single-task"`` or ``"groups"``; the simple ones in the usual variant."""
        if self == all_in_one(results):
            return ALL_IN_ONE
        return SINGLE_TASK if self == single_task(results) else GROUPS

    @property
    def models(self) -> str:
        """The models in words."""
        shown = [" + ".join(group) + (f" ({variant})" if variant else "") for group, variant in self._pairs]
        return f"{len(shown)} model{'s' * (len(shown) != 1)} ({'; '.join(shown)})"

    @property
    def _pairs(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        return tuple(zip(self.groups, self.variants, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        groups = [list(group) for group in self.groups]
        return {"groups": groups, "variants": list(self.variants), "serves": list(self.serves)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ServingPlan:
        """The inverse of :meth:`to_dict`.

        Raises:
            SettingError: when something is missing or does not fit.
        """
        try:
            groups = tuple(tuple(text(name) for name in group) for group in data["groups"])
            plan = ServingPlan(
                groups, tuple(text(name) for name in data["variants"]), tuple(whole(index) for index in data["serves"])
            )
            fits = len(plan.variants) == len(groups) and all(0 <= index < len(groups) for index in plan.serves)
        except (KeyError, TypeError, ValueError) as error:
            raise SettingError(
                f"A stored plan should have `groups`, `variants` and `serves`. Found {data!r}."
            ) from error
        if not fits:
            raise SettingError(
                f"A stored plan should have a variant for each group, and serve from them. Found {data!r}."
            )
        return plan


def all_in_one(results: Results) -> ServingPlan:
    """One model for all tasks, trained in the usual way, or in the first one where no run used that."""
    variants = variants_of(results)
    variant = "" if "" in variants else variants[0]
    return ServingPlan((results.sources,), (variant,), (0,) * len(results.targets))


def single_task(results: Results) -> ServingPlan | None:
    """One model per task, trained in the same way; None where a target cannot be served so."""
    if results.sources != results.targets:
        return None
    variant = all_in_one(results).variants[0]
    groups = tuple((name,) for name in results.targets)
    return ServingPlan(groups, (variant,) * len(groups), tuple(range(len(groups))))


def losses_by_seed(results: Results, plan: ServingPlan, first_seed: int | None = None) -> dict[int, Floats]:
    """(targets,) losses of a plan for every seed with which each of its models was run, and each target measured.

    Runs whose seed is not known are told apart by their order: the first of every model belong together, and have the
    keys -1, -2, and so on.

    Args:
        results: runs.
        plan: models.
        first_seed: seeds below this do not count, nor do runs without one; None for all.
    """
    per_model: list[dict[int, Floats]] = []
    for subset, variant in zip(plan.subsets(results.sources), plan.variants, strict=True):
        runs = np.flatnonzero((results.trained == subset).all(axis=1))
        found: dict[int, list[Floats]] = {}
        unknown = 0
        for run in runs:
            seed = int(results.seeds[run])
            if results.variants[run] != variant or (first_seed is not None and seed < first_seed):
                continue
            unknown += seed < 0
            found.setdefault(-unknown if seed < 0 else seed, []).append(results.losses[run])
        per_model.append({seed: np.mean(losses, axis=0) for seed, losses in found.items()})
    seeds = set(per_model[0]).intersection(*per_model[1:])
    serves = list(plan.serves)
    merged = {
        seed: np.array([per_model[group][seed][target] for target, group in enumerate(serves)])
        for seed in sorted(seeds)
    }
    return {seed: losses for seed, losses in merged.items() if np.isfinite(losses).all()}


def paired_gains(
    results: Results, plan: ServingPlan, against: ServingPlan, shares: Floats, first_seed: int | None = None
) -> Floats:
    """(seeds,) mean gain of a plan over another one, for every seed with which both were run.

    Args:
        results: runs.
        plan: the plan that may be better.
        against: the other one.
        shares: (targets,) of the reductions of losses in the mean gain.
        first_seed: see :func:`losses_by_seed`.
    """
    mine, theirs = losses_by_seed(results, plan, first_seed), losses_by_seed(results, against, first_seed)
    both = [seed for seed in mine if seed in theirs]
    return np.array([(theirs[seed] - mine[seed]) @ shares for seed in both], dtype=np.float64)
