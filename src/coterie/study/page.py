"""The page of a study, its view in a notebook, and its groups and affinity as those of the other ways to find them."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import coterie
from coterie._show import html_table
from coterie.affinity import Affinity
from coterie.errors import CoterieError, SettingError
from coterie.grouping import Grouping
from coterie.study.answers import as_masks, predict
from coterie.study.runs import TOLD, StudyRun, told_runs
from coterie.study.settings import REASK_AFTER

if TYPE_CHECKING:
    from coterie.study.recommend import StudyRecommendation
    from coterie.study.study import Study

#: most tasks whose affinity is drawn, and most runs in a notebook
_DRAWN, _SHOWN = 60, 12


def affinity_of(study: Study, predictor: Any = None) -> Affinity:
    """See :meth:`coterie.study.study.Study.affinity`."""
    tasks = _alike(study, "affinity")
    signs = study.settings.signs
    n, everyone = len(tasks), set(tasks)
    alone = [[task] for task in tasks]
    pairs = [[tasks[t], tasks[s]] for t in range(n) for s in range(n) if s != t]
    without = [sorted(everyone - {tasks[s]}) for t in range(n) for s in range(n) if s != t]
    masks = as_masks(study, [*alone, list(tasks), *pairs, *without])
    values = predict(study, masks, [""] * len(masks), predictor)[0] * signs
    base, whole = np.diag(values[:n]), values[n]
    found = np.zeros((n, n))
    scale = np.maximum(np.abs(base), np.finfo(float).tiny)
    for place, (t, s) in enumerate((t, s) for t in range(n) for s in range(n) if s != t):
        pair, rest = values[n + 1 + place, t], values[n + 1 + len(pairs) + place, t]
        # of two tasks, training beside nothing else and beside all others are the same
        found[t, s] = ((base[t] - pair) + (rest - whole[t])) / 2 / scale[t]
    return Affinity(found, tasks, method="study")


def grouping_of(study: Study) -> Grouping:
    """See :meth:`coterie.study.study.Study.grouping`."""
    tasks = _alike(study, "grouping")
    advice = study.recommend()
    groups = tuple(study.settings.numbers(group) for group in advice.groups)
    serves = tuple(advice.serves[task] for task in tasks)
    return Grouping(tasks, groups, serves, objective=advice.objective, method="study")


def _alike(study: Study, what: str) -> tuple[str, ...]:
    """The tasks of a study that measures what it trains on."""
    if study.targets != study.tasks:
        raise SettingError(
            f"An {what} of this study cannot be made: its targets are others than its tasks. `recommend` and `predict` "
            "take them."
        )
    return study.tasks


def write_page(study: Study, path: str | Path) -> Path:
    """Write the page of a study. See :meth:`coterie.study.study.Study.report`."""
    from coterie.report.html import write_own_page

    runs = study.runs
    advice = _advice(study)
    return write_own_page(
        path, "page.html", "coterie.study",
        name=study.name,
        headline=advice.text if advice else f"{len(told_runs(runs))} runs told: nothing is recommended yet",
        reason=advice.reason if advice else "Every target needs a loss in some run.",
        subtitle=f"{study.name} · {len(study.tasks)} tasks · coterie {coterie.__version__}",
        groups=_models(study, advice) if advice else (),
        candidates=_candidates(advice) if advice else (),
        unit=study.settings.cost_unit,
        heat=_heat(study, advice) if advice else None,
        tally=_tally(runs),
        runs=[_row(run) for run in runs],
        settings=_settings(study),
    )  # fmt: skip


def _advice(study: Study) -> StudyRecommendation | None:
    """The recommendation, where there is enough for one."""
    try:
        return study.recommend()
    except CoterieError:
        return None


def _models(study: Study, advice: StudyRecommendation) -> list[dict[str, str]]:
    return [
        {
            "trained": ", ".join(group),
            "serves": ", ".join(task for task in study.targets if advice.serves[task] == number),
            "variant": variant,
        }
        for number, (group, variant) in enumerate(zip(advice.groups, advice.plan.variants, strict=True))
    ]


def _candidates(advice: StudyRecommendation) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for one in advice.candidates:
        gains = ("" if interval is None else str(interval) for interval in (one.predicted, one.measured))
        cost = f"{one.cost:.4g}" if np.isfinite(one.cost) else ""
        found.append((one.name, str(one.plan.models), cost, *gains, str(one.seeds)))
    return found


def _heat(study: Study, advice: StudyRecommendation) -> Any:
    """The heat map of the affinity, where there is one of a size that can be read."""
    from coterie.report.data import AffinityData, Groups
    from coterie.report.heatmap import heatmap

    if study.targets != study.tasks or len(study.tasks) > _DRAWN:
        return None
    try:
        found = affinity_of(study)
    except CoterieError:
        return None
    data = AffinityData(found.tasks, found.values, None, found.kind, found.method)
    return heatmap(data, Groups(advice.groups, advice.serves, None, None, "study"))


def _tally(runs: tuple[StudyRun, ...]) -> str:
    counts = {state: sum(run.state == state for run in runs) for state in dict.fromkeys(run.state for run in runs)}
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "None yet."


def _row(run: StudyRun) -> dict[str, Any]:
    losses = ", ".join(f"{task} {value:.5g}" for task, (value, _) in (run.losses or {}).items())
    return {
        "number": run.number,
        "state": run.state,
        "seed": "" if run.seed is None else run.seed,
        "tasks": ", ".join(run.tasks),
        "variant": run.variant,
        "losses": losses if run.state == TOLD else run.reason or "",
    }


def _settings(study: Study) -> list[tuple[str, str]]:
    own = study.settings.to_dict()
    usual = {"metric": "", "reask_after": REASK_AFTER, "zero_shot": False, "rules": None}
    shown = {key: value for key, value in own.items() if key not in usual or value != usual[key]}
    return [("kept in", study.place.strip("'")), *((key, str(value)) for key, value in shown.items())]


def as_html(study: Study) -> str:
    """A study in a notebook: what to serve, and the last runs."""
    runs = study.runs
    rows = [_row(run) for run in runs[-_SHOWN:]]
    table = html_table(
        ("run", "state", "seed", "trained on", "losses"),
        [(row["number"], row["state"], row["seed"], row["tasks"], row["losses"]) for row in rows],
        f"{study.name}: {_tally(runs)}" + (f"; the last {len(rows)} are shown" if len(rows) < len(runs) else ""),
    )
    advice = _advice(study)
    return (f"<p><strong>{escape(advice.text)}</strong></p>" if advice else "") + table
