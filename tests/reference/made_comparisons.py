"""Comparisons whose losses are made up instead of trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from coterie.evaluation import BASELINE, JOINT, Comparison
from coterie.evaluation.compare import all_in_one, single_task
from coterie.evaluation.labels import LabelLosses
from coterie.grouping import Grouping


def between(tasks: tuple[str, ...], groupings: Mapping[str, Grouping] | None = None) -> dict[str, Grouping]:
    """Candidates: one model for all tasks, groupings, single-task models."""
    return {JOINT: all_in_one(tasks), **(groupings or {}), BASELINE: single_task(tasks)}


def table(tasks: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Task and row of each label, when every task has the same number of labels."""
    return np.repeat(np.arange(tasks), labels), np.tile(np.arange(labels), tasks)


def made(
    tasks: tuple[str, ...],
    groupings: Mapping[str, Grouping],
    losses: Mapping[str, ArrayLike],
) -> Comparison:
    """A comparison from its losses of each part: (candidates, seeds, tasks * labels), the labels of a task together."""
    parts = {}
    for part in ("validation", "test"):
        values = np.asarray(losses[part], np.float32)
        parts[part] = LabelLosses(values, *table(len(tasks), values.shape[2] // len(tasks)))
    means = [parts[part].means(len(tasks)) for part in ("validation", "test")]
    seeds = tuple(range(values.shape[1]))
    return Comparison(tasks, tuple(groupings), tuple(groupings.values()), seeds, *means, parts)
