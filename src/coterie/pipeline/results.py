"""Everything that a run found, as one JSON-ready dictionary."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from coterie.affinity import Affinity, Estimate
from coterie.affinity.costs import Costs
from coterie.evaluation import Comparison, Recommendation
from coterie.grouping import Grouping
from coterie.training.trainer import Trainer
from coterie.workload import Workload


@dataclass(frozen=True, eq=False)
class Findings:
    """What the stages of a run found.

    Attributes:
        workload: tasks and data, or whoever trains them.
        estimate: of the affinity, with its costs and notes.
        affinity: the matrix.
        grouping: what the search chose.
        served: what the comparison recommends.
        comparison: really trained candidates.
        recommendation: and why.
    """

    workload: Workload | Trainer
    estimate: Estimate
    affinity: Affinity
    grouping: Grouping
    served: Grouping
    comparison: Comparison
    recommendation: Recommendation


def describe(found: Findings, settings: Mapping[str, Any], warnings: Sequence[str]) -> dict[str, Any]:
    """The content of ``result.json``, and what the report is made from."""
    workload, halving = found.workload, found.comparison.halving
    return {
        "coterie": _version(),
        "workload": (
            describe_workload(workload, found.grouping)
            if isinstance(workload, Workload)
            else describe_trainer(workload)
        ),
        "settings": dict(settings),
        "recommendation": found.recommendation.to_dict(),
        "affinity": found.affinity.to_dict(),
        "grouping": found.grouping.to_dict(),
        "served": found.served.to_dict(),
        "comparison": found.comparison.to_dict(),
        **priced(found.estimate.costs),
        "notes": [*found.estimate.notes, *(() if halving is None else halving.lines())],
        "warnings": list(dict.fromkeys(warnings)),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            **({"device": str(workload.device)} if isinstance(workload, Workload) else {}),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def priced(costs: Costs) -> dict[str, Any]:
    """What a run costs: a row a stage, and the seconds of all of them, also in earlier processes of the run."""
    return {
        "costs": costs.rows(),
        "reference_flops": costs.reference if costs.in_flops else None,
        "training_flops": costs.training if costs.in_flops else None,
        "seconds": costs.seconds,
    }


def describe_trainer(trainer: Trainer) -> dict[str, Any]:
    """What is known of a trainer: its tasks."""
    return {
        "name": repr(trainer),
        "reference": None,
        "tasks": [{"name": name, "kind": "reported", "classes": None, "unit": "as reported"} for name in trainer.tasks],
    }


def describe_workload(workload: Workload, grouping: Grouping | None = None) -> dict[str, Any]:
    """Tasks, sizes and, where groups are known from outside, how well the found ones agree with them."""
    known = workload.known_groups
    agreement = None
    covered = known is not None and sorted(name for names in known for name in names) == sorted(workload.task_names)
    if known is not None and grouping is not None and covered:
        agreement = grouping.adjusted_rand_index(known)
    observed = int(workload.observed.sum())
    return {
        "name": workload.name,
        "reference": workload.reference,
        "tasks": [
            {"name": task.name, "kind": task.kind, "classes": task.classes, "unit": task.loss.unit}
            for task in workload.tasks
        ],
        "rows": {part: len(workload.split.part(part)) for part in ("train", "validation", "test")},
        "labels": observed,
        "missing": 1 - observed / workload.labels.numel(),
        "known_groups": None if known is None else [list(names) for names in known],
        "known_groups_ari": agreement,
    }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("coterie")
    except PackageNotFoundError:  # a source tree that was not installed
        return "unknown"
