"""The result of a run as the report reads it: typed, cleaned, tolerant of what a run did not produce.

``parse`` turns the mapping of ``result.json`` into a `ReportData`. Parts that are absent stay empty and their
section is left out of the page; parts that contradict each other (a matrix that does not fit its task names) are an
error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.formula import GainFormula
from coterie.errors import SettingError, StoreError
from coterie.report.formats import clean
from coterie.report.partners import parse_formula

Json = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReportedInterval:
    """A mean with the ends of its interval; None where unknown."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> int | None:
        """1: better beyond the noise, -1: worse beyond the noise, 0: within it, None: not known."""
        if self.mean is None or self.low is None or self.high is None:
            return None
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True)
class TaskResult:
    """One task under one candidate."""

    name: str
    test: ReportedInterval
    validation: ReportedInterval
    test_loss: float | None
    validation_loss: float | None


@dataclass(frozen=True)
class CandidateResult:
    """One way to serve all tasks, trained and measured; gains are against single-task models, or against one model."""

    name: str
    models: int | None
    test: ReportedInterval
    validation: ReportedInterval
    tasks: tuple[TaskResult, ...]
    over_one: ReportedInterval = ReportedInterval()
    over_one_validation: ReportedInterval = ReportedInterval()


@dataclass(frozen=True)
class JudgedCandidate:
    """A metric of one candidate: its values, its gain over one model, and the values of each task by name."""

    name: str
    test: ReportedInterval
    validation: ReportedInterval
    gain: ReportedInterval
    tasks: tuple[tuple[str, ReportedInterval], ...]


@dataclass(frozen=True)
class JudgedMetric:
    """What predictions were judged by beside the loss."""

    name: str
    higher: bool
    candidates: tuple[JudgedCandidate, ...]


@dataclass(frozen=True)
class Groups:
    """Sets of tasks trained as one model, and which of them serves which task."""

    groups: tuple[tuple[str, ...], ...]
    serves: Mapping[str, int]
    objective: float | None
    bound: float | None
    method: str


@dataclass(frozen=True)
class AffinityData:
    """The affinity matrix: rows are targets, columns are sources, NaN where not estimated."""

    tasks: tuple[str, ...]
    values: Floats
    counts: Floats | None
    kind: str
    method: str
    errors: Floats | None = None


@dataclass(frozen=True)
class Cost:
    """One stage of the work."""

    stage: str
    flops: float | None
    seconds: float | None
    share: float | None
    trainings: float | None = None

    @property
    def estimates(self) -> bool:
        """Whether the stage is part of estimating the affinity; what follows is needed with any method."""
        return not self.stage.lower().startswith(("comparison", "reading", "search", "report"))


@dataclass(frozen=True)
class ReportData:
    """All the report says."""

    version: str
    name: str
    reference: str
    tasks: tuple[tuple[str, str, int | None], ...]  # name, kind, classes
    units: tuple[tuple[str, str], ...]  # kind, what a loss of that kind is
    rows: tuple[tuple[str, float | None], ...]
    labels: float | None
    missing: float | None
    known_groups: int
    known_groups_ari: float | None
    settings: tuple[tuple[str, str], ...]
    text: str
    reason: str
    choice: str
    verdict: str
    models: int | None
    affinity: AffinityData | None
    found: Groups | None
    served: Groups | None
    baseline: str
    one_model: str
    interval: str
    seeds: int
    candidates: tuple[CandidateResult, ...]
    costs: tuple[Cost, ...]
    reference_flops: float | None
    training_flops: float | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    seconds: float | None
    date: str = ""
    metrics: tuple[JudgedMetric, ...] = ()
    decided_by: str = ""
    formula: GainFormula | None = None

    @property
    def do_not_bother(self) -> bool:
        """Whether grouping is surely not worth it."""
        return self.verdict == "no"

    @property
    def recommended(self) -> CandidateResult | None:
        """The candidate the recommendation names, if it was measured."""
        return next((c for c in self.candidates if c.name == self.choice), None)

    @property
    def claimed(self) -> CandidateResult | None:
        """The candidate whose gain over one model for all tasks the recommendation is about.

        The recommended one, or, when that is the one model itself, the best of the others on validation rows.
        """
        chosen = self.recommended
        others = [c for c in self.candidates if c.name != self.one_model and c.over_one_validation.mean is not None]
        if chosen is None or chosen.name != self.one_model or not others:
            return chosen
        return max(others, key=lambda c: c.over_one_validation.mean or 0.0)

    @property
    def detailed(self) -> CandidateResult | None:
        """The candidate shown task by task: the recommended one, or, when that is the yardstick, the best other one."""
        chosen = self.recommended
        if chosen is not None and chosen.name != self.baseline:
            return chosen
        others = [c for c in self.candidates if c.name != self.baseline]
        return max(others, key=lambda c: -math.inf if c.validation.mean is None else c.validation.mean, default=chosen)


def _mapping(value: object) -> Json:
    return cast(Json, value) if isinstance(value, Mapping) else {}


def _items(value: object) -> list[Any]:
    return list(cast(Iterable[Any], value)) if isinstance(value, (list, tuple, np.ndarray)) else []


def _number(value: object) -> float | None:
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        real = cast(float, value)
        # beyond this, sums and percentages overflow; nothing that was measured gets there
        return float(real) if abs(real) < 1e300 else None
    return None


def _whole(value: object) -> int | None:
    real = _number(value)
    return None if real is None else round(real)


def _text(value: object, otherwise: str = "") -> str:
    return otherwise if value is None or str(value).strip() == "" else clean(value)


def _interval(value: object) -> ReportedInterval:
    entry = _mapping(value)
    return ReportedInterval(_number(entry.get("mean")), _number(entry.get("low")), _number(entry.get("high")))


def flatten(settings: Json, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and text."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = f"{prefix}{clean(key)}"
        if isinstance(value, Mapping):
            rows += flatten(cast(Json, value), f"{name}.")
        elif isinstance(value, (list, tuple)):
            rows.append((name, ", ".join(clean(v) for v in cast(Sequence[object], value)) or "(none)"))
        else:
            rows.append((name, _setting(value)))
    return rows


def _setting(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "(not set)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else clean(value)


def _groups(value: object) -> Groups | None:
    entry = _mapping(value)
    groups = tuple(tuple(clean(t) for t in _items(g)) for g in _items(entry.get("groups")))
    if not groups:
        return None
    serves = {clean(t): g for t, g in _mapping(entry.get("serves")).items() if g in range(len(groups))}
    if not serves:  # a grouping without overlap needs no more than its groups
        serves = {t: g for g, names in enumerate(groups) for t in names}
    objective, bound = _number(entry.get("objective")), _number(entry.get("bound"))
    return Groups(groups, serves, objective, bound, _text(entry.get("method")))


def _matrix(value: object, size: int, what: str) -> Floats:
    rows = [[_number(v) for v in _items(row)] for row in _items(value)]
    if len(rows) != size or any(len(row) != size for row in rows):
        widths = sorted({len(row) for row in rows})
        raise StoreError(
            f"result: affinity.{what} has {len(rows)} rows of {widths} entries for {size} task names. The result was "
            "probably edited or cut short; write it again with `coterie run`."
        )
    return np.array([[math.nan if v is None else v for v in row] for row in rows], dtype=np.float64).reshape(size, size)


def _affinity(value: object) -> AffinityData | None:
    entry = _mapping(value)
    tasks = tuple(clean(t) for t in _items(entry.get("tasks")))
    if not tasks:
        return None
    counts = entry.get("counts")
    return AffinityData(
        tasks=tasks,
        values=_matrix(entry.get("values"), len(tasks), "values"),
        counts=None if counts is None else _matrix(counts, len(tasks), "counts"),
        kind=_text(entry.get("kind"), "gain"),
        method=_text(entry.get("method")),
    )


def _task_result(value: object) -> TaskResult:
    entry = _mapping(value)
    loss = _mapping(entry.get("loss"))
    return TaskResult(
        name=clean(entry.get("name", "")),
        test=_interval(entry.get("test")),
        validation=_interval(entry.get("validation")),
        test_loss=_number(loss.get("test")),
        validation_loss=_number(loss.get("validation")),
    )


def _candidate(value: object) -> CandidateResult:
    entry = _mapping(value)
    total, over_one = _mapping(entry.get("total")), _mapping(entry.get("over_one_model"))
    return CandidateResult(
        name=clean(entry.get("name", "")),
        models=_whole(entry.get("models")),
        test=_interval(total.get("test")),
        validation=_interval(total.get("validation")),
        tasks=tuple(_task_result(t) for t in _items(entry.get("tasks"))),
        over_one=_interval(over_one.get("test")),
        over_one_validation=_interval(over_one.get("validation")),
    )


def _metric(value: object) -> JudgedMetric:
    entry = _mapping(value)
    candidates = [_mapping(candidate) for candidate in _items(entry.get("candidates"))]
    tasks = [[_mapping(task) for task in _items(one.get("tasks"))] for one in candidates]
    rows = [
        JudgedCandidate(
            name=clean(one.get("name", "")),
            test=_interval(one.get("test")),
            validation=_interval(one.get("validation")),
            gain=_interval(_mapping(one.get("gain")).get("test")),
            tasks=tuple((clean(task.get("name", "")), _interval(task.get("test"))) for task in own),
        )
        for one, own in zip(candidates, tasks, strict=True)
    ]
    return JudgedMetric(_text(entry.get("name")), bool(entry.get("higher")), tuple(rows))


def _cost(value: object) -> Cost:
    entry = _mapping(value)
    numbers = (_number(entry.get(key)) for key in ("flops", "seconds", "share", "trainings"))
    return Cost(clean(entry.get("stage", "")), *numbers)


def _tasks(workload: Json, affinity: AffinityData | None) -> tuple[tuple[str, str, int | None], ...]:
    entries = [_mapping(t) for t in _items(workload.get("tasks"))]
    if entries:
        return tuple((clean(t.get("name", "")), _text(t.get("kind")), _whole(t.get("classes"))) for t in entries)
    return tuple((name, "", None) for name in (affinity.tasks if affinity else ()))


def _unit(task: Json) -> tuple[str, str]:
    """The kind of a task, and what its loss is; results of version 0.1 have built-in kinds only and do not say it."""
    kind, unit = _text(task.get("kind")), _text(task.get("unit"))
    if unit:
        return kind, unit
    from coterie.workload.losses import get_loss  # imports torch, which no other part of a page needs

    try:
        return kind, get_loss(kind).unit
    except SettingError:  # registered in the program that made the run
        return kind, ""


def parse(result: Json) -> ReportData:
    """Read a result.

    Args:
        result: the mapping of ``result.json``.

    Raises:
        SettingError: ``result`` is not a mapping.
        StoreError: its parts contradict each other.
    """
    if not isinstance(result, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # users bring parsed JSON
        raise SettingError(
            f"result: expected the mapping of a result.json, got {type(result).__name__}. "
            "Read the file with json.load, or pass RunResult.to_dict()."
        )
    workload, advice = _mapping(result.get("workload")), _mapping(result.get("recommendation"))
    comparison, affinity = _mapping(result.get("comparison")), _affinity(result.get("affinity"))
    found = _groups(result.get("grouping"))
    return ReportData(
        version=_text(result.get("coterie")),
        name=_text(workload.get("name"), "workload"),
        reference=_text(workload.get("reference")),
        tasks=_tasks(workload, affinity),
        units=tuple(dict(_unit(_mapping(task)) for task in _items(workload.get("tasks"))).items()),
        rows=tuple((clean(part), _number(n)) for part, n in _mapping(workload.get("rows")).items()),
        labels=_number(workload.get("labels")),
        missing=_number(workload.get("missing")),
        known_groups=len(_items(workload.get("known_groups"))),
        known_groups_ari=_number(workload.get("known_groups_ari")),
        settings=tuple(flatten(_mapping(result.get("settings")))),
        text=_text(advice.get("text")),
        reason=_text(advice.get("reason")),
        choice=_text(advice.get("candidate")),
        verdict=_text(advice.get("verdict"), "no" if advice.get("do_not_bother") else "yes"),
        models=_whole(advice.get("models")),
        affinity=affinity,
        found=found,
        served=_groups(result.get("served")) or found,
        baseline=_text(comparison.get("baseline"), "single-task"),
        one_model=_text(comparison.get("one_model"), "all-in-one"),
        interval=_text(comparison.get("interval")),
        seeds=len(_items(comparison.get("seeds"))),
        candidates=tuple(_candidate(c) for c in _items(comparison.get("candidates"))),
        costs=tuple(_cost(c) for c in _items(result.get("costs"))),
        reference_flops=_number(result.get("reference_flops")),
        training_flops=_number(result.get("training_flops")),
        notes=tuple(clean(n) for n in _items(result.get("notes"))),
        warnings=tuple(clean(w) for w in _items(result.get("warnings"))),
        environment=tuple((clean(k), _setting(v)) for k, v in _mapping(result.get("environment")).items()),
        seconds=_number(result.get("seconds")),
        date=_text(result.get("date")),
        metrics=tuple(_metric(m) for m in _items(comparison.get("metrics"))),
        decided_by=_text(comparison.get("decided_by")),
        formula=parse_formula(result.get("formula")),
    )
