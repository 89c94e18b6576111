"""The words of the report: the recommendation first, then what the numbers mean, in plain language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.report.data import CandidateResult, Json, ReportData, ReportedInterval, parse
from coterie.report.formats import DASH, amount, count, duration, flops, number, percent, plural, share, span


@dataclass(frozen=True)
class KeyFigure:
    """A number worth a large print, what it is, and a remark."""

    value: str
    label: str
    detail: str
    mood: str = ""


@dataclass(frozen=True)
class Tally:
    """How many tasks a candidate helps or harms beyond the noise, against the baseline."""

    helped: int
    harmed: int
    within: int
    unknown: int


def headline(data: ReportData) -> str:
    """The first line: the recommendation, "do not bother" and "undecided" included."""
    text = data.text
    if not text:
        if not data.choice:
            return "No recommendation: the groups were not trained and compared."
        served = f" with {plural(data.models, 'model')}" if data.models else ""
        start = {"no": "Do not bother: use", "undecided": "Undecided: the best guess is"}.get(data.verdict, "Use")
        return f"{start} {data.choice}{served}."
    if data.do_not_bother and "bother" not in text.lower():
        return f"Do not bother: {text}"
    if data.verdict == "undecided" and "undecided" not in text.lower():
        return f"Undecided: {text}"
    return text


def tally(candidate: CandidateResult) -> Tally:
    """Count the verdicts of a candidate's tasks on the test part."""
    verdicts = [task.test.verdict for task in candidate.tasks]
    return Tally(*(verdicts.count(v) for v in (1, -1, 0, None)))


def interval_name(data: ReportData) -> str:
    """What the intervals are, to be said wherever they are shown."""
    if data.seeds == 1:
        return "one training seed, so no interval"
    seeds = f"{data.seeds} training seeds" if data.seeds else "training seeds"
    return data.interval or f"95{chr(0xA0)}% interval over {seeds} and the examples"


def interval_sentence(data: ReportData) -> str:
    """What the lines in a plot are."""
    return "One training seed, so no intervals." if data.seeds == 1 else f"Lines: {interval_name(data)}."


def _cost_figure(data: ReportData) -> KeyFigure:
    """What estimating the affinity took: in ordinary trainings, or as older results have it."""
    label, own = "cost of the affinity", [cost for cost in data.costs if cost.estimates]
    trainings = [cost.trainings for cost in own if cost.trainings is not None]
    if trainings:
        each = f" ({flops(data.training_flops)} each)" if data.training_flops else ""
        return KeyFigure(amount(sum(trainings)), label, f"ordinary trainings{each}")
    shares = [cost.share for cost in own if cost.share is not None]
    reference = f" ({flops(data.reference_flops)})" if data.reference_flops else ""
    return KeyFigure(share(sum(shares) if shares else None), label, f"of training each subset once{reference}")


def costs_meaning(data: ReportData) -> str:
    """What the columns of the costs are."""
    each = f" ({flops(data.training_flops)})" if data.training_flops else ""
    return (
        "Times add up to the run's; of trainings in several processes, the time of each counts. "
        f"Trainings: the FLOPs in ordinary trainings, one model for a usual group{each}; "
        "those of reading, searching and writing are not counted. The comparison is needed with any method."
    )


def _mood(interval: ReportedInterval) -> str:
    return {1: "up", -1: "down"}.get(interval.verdict or 0, "")


def _gain_figure(data: ReportData) -> KeyFigure:
    """The gain that the recommendation claims or denies: over one model for all tasks, on test rows."""
    claimed, label = data.claimed, "gain over one model"
    if claimed is None:
        return KeyFigure(DASH, label, "not measured")
    gain = claimed.over_one
    ends = span(gain.low, gain.high)
    detail = f"{ends}{chr(0xA0)}%, {interval_name(data)}" if ends else interval_name(data)
    if claimed.name != data.choice:
        detail = f"of {claimed.name}, the best of the others on validation rows; {detail}"
    return KeyFigure(percent(gain.mean, signed=True), label, f"on test rows; {detail}", _mood(gain))


def _task_figure(data: ReportData, chosen: CandidateResult | None) -> KeyFigure:
    label = "tasks helped / harmed"
    if chosen is None or chosen.name == data.baseline:
        return KeyFigure(DASH, label, "against single-task training" if chosen else "not measured")
    counts = tally(chosen)
    if counts.unknown == len(chosen.tasks):
        return KeyFigure(DASH, label, f"not known: {interval_name(data)}")
    detail = f"beyond the noise, of {plural(len(chosen.tasks), 'task')}"
    if counts.unknown:
        detail += f", {counts.unknown:,} without a value"
    mood = "up" if counts.helped > counts.harmed else "down" if counts.harmed > counts.helped else ""
    return KeyFigure(f"{counts.helped:,} / {counts.harmed:,}", label, detail, mood)


def key_figures(data: ReportData) -> tuple[KeyFigure, ...]:
    """The four numbers below the recommendation."""
    chosen = data.recommended
    models = data.models if data.models is not None else chosen.models if chosen else None
    return (
        KeyFigure(count(models), "models to serve", f"for {plural(len(data.tasks), 'task')}"),
        _gain_figure(data),
        _task_figure(data, chosen),
        _cost_figure(data),
    )


def tally_sentence(data: ReportData) -> str:
    """How the tasks fare under the candidate that is shown task by task."""
    shown = data.detailed
    if shown is None or not shown.tasks:
        return ""
    counts = tally(shown)
    if counts.unknown == len(shown.tasks):
        return "Without intervals no task's gain can be told from noise."
    parts = [
        f"{counts.helped:,} {'gains' if counts.helped == 1 else 'gain'} beyond the noise",
        f"{counts.harmed:,} {'loses' if counts.harmed == 1 else 'lose'} beyond the noise",
        f"{counts.within:,} {'is' if counts.within == 1 else 'are'} within it",
    ]
    if counts.unknown:
        parts.append(f"{counts.unknown:,} cannot be judged")
    return f"Of {plural(len(shown.tasks), 'task')}, " + ", ".join(parts) + "."


def loss_sentence(data: ReportData) -> str:
    """In which units the test losses of these tasks are."""
    kinds: dict[str, list[str]] = {}
    for kind, unit in data.units:
        if unit:
            kinds.setdefault(unit, []).append({"multiclass": "multi-class"}.get(kind, kind))
    parts = [f"for {' and '.join(names)} tasks {unit}" for unit, names in kinds.items()]
    return f"Test loss: {'; '.join(parts)}. Smaller is better." if parts else ""


def known_groups_sentence(data: ReportData) -> str:
    """Agreement with the groups the workload came with, if it did."""
    if not data.known_groups:
        return ""
    agreement = DASH if data.known_groups_ari is None else number(data.known_groups_ari, 2)
    return (
        f"The workload comes with {plural(data.known_groups, 'known group')}. Adjusted Rand index between them and the "
        f"groups found: {agreement} (1 is the same, 0 is chance)."
    )


def definitions(data: ReportData) -> Sequence[tuple[str, str]]:
    """How to read the page."""
    interval = (
        "Every candidate was trained from scratch with the same recipe; shown is the mean over seeds with its "
        f"{interval_name(data)}. It says how far the result would move with other seeds and other examples of the "
        "same kind. Beyond the noise means that the interval does not contain zero."
    )
    if data.seeds == 1:
        interval = "Only one training seed was used: no interval can be given and no gain can be told from noise."
    return (
        (
            "Gain",
            "Relative reduction of a task's loss against a model trained on that task alone: "
            "(single-task loss − loss) / single-task loss. Positive is better. The total is one minus the "
            "geometric mean over tasks of loss / single-task loss. There, losses below the noise of their mean count "
            "about as that noise, so that a nearly solved task does not own the total.",
        ),
        ("Interval", interval),
        (
            "Validation and test",
            "The recommendation was picked on validation rows, so gains there are optimistic. Test rows took no "
            "part in any choice: judge by them.",
        ),
        (
            "Affinity",
            "How much training a source task (column) along with a target task (row) is estimated to help the "
            "target. It has a direction: A can help B while B harms A. It is an estimate made to find groups; the "
            "gains above were measured.",
        ),
        (
            "Groups",
            "Tasks trained together as one model. Each task is served by exactly one model, which may have been "
            "trained on more tasks than it serves.",
        ),
        (
            "Cost",
            "Time and floating point operations of everything that was done, these also in ordinary trainings: of one "
            "model for one usual group. The comparison trains the candidates for real; it is needed with any method "
            "and does not count as estimating.",
        ),
    )


def summary_text(result: Json) -> str:
    """The result in a few lines of plain text; the first is the recommendation.

    Args:
        result: the mapping of ``result.json``.
    """
    data = parse(result)
    lines = [headline(data)]
    if data.reason and data.reason != data.text:
        lines.append(data.reason)
    lines += [f"{figure.label}: {figure.value} ({figure.detail})" for figure in key_figures(data)]
    if data.served:
        for number, group in enumerate(data.served.groups, start=1):
            more = f" and {len(group) - 20} more" if len(group) > 20 else ""
            lines.append(f"model {number}: {', '.join(group[:20])}{more}")
    if data.seconds is not None:
        lines.append(f"time: {duration(data.seconds)}")
    return "\n".join(lines)
