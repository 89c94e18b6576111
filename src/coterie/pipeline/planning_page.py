"""What the end of a run takes: intervals, a mixture, ``result.json`` and the page, made for random losses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie._process_lock import process_lock
from coterie.affinity import Affinity, Estimate, PairwiseGainModel
from coterie.affinity.costs import Costs
from coterie.evaluation import Comparison, mix, recommend
from coterie.evaluation.comparison import BASELINE, JOINT
from coterie.evaluation.labels import LabelIndex, LabelLosses
from coterie.grouping import Grouping
from coterie.pipeline.planning_time import Timing, timed
from coterie.pipeline.results import Findings, describe
from coterie.training.units import UnitCost
from coterie.workload import Workload

#: losses (candidates x seeds x labels) that are made up at most
MOST = 2**22


@dataclass(frozen=True)
class PageCost:
    """Bytes of what a run writes for people, and the time to make it."""

    result: int
    report: int
    affinity: int
    timing: Timing


def rehearse_page(
    workload: Workload, index: Sequence[LabelIndex], groupings: Sequence[Grouping], seeds: int
) -> PageCost:
    """Make a result and its page for random losses, which have no winner and so need most words.

    Args:
        workload: tasks.
        index: labels of the half that chooses and of the test part.
        groupings: candidates beside the simple ones.
        seeds: number of seeds.
    """
    from coterie.report.html import render
    from coterie.store.files import to_plain

    names, n = workload.task_names, workload.n_tasks
    rng = np.random.default_rng(0)
    joint = Grouping.from_labels(names, [0] * n, method=JOINT)
    single = Grouping.from_labels(names, list(range(n)), method=BASELINE)
    named = {JOINT: joint, **{f"grouped ({len(g.groups)})": g for g in groupings}, BASELINE: single}
    every = max(1, -(-len(named) * seeds * max(len(i.task) for i in index) // MOST))
    labels: dict[str, LabelLosses] = {}
    for part, own in zip(("validation", "test"), index, strict=True):
        task, row = own.task[::every], own.row[::every]
        shape = (len(named), seeds, len(task))
        labels[part] = LabelLosses(rng.gamma(1.0, size=shape).astype(np.float32), task, row)
    losses = {part: np.nan_to_num(found.means(n), nan=1.0) for part, found in labels.items()}
    comparison = Comparison(
        names, tuple(named), tuple(named.values()), tuple(range(seeds)), losses["validation"], losses["test"], labels
    )
    affinity = Affinity(rng.normal(size=(n, n)), names, np.full((n, n), 20), "gain", "rehearsal")
    estimate = Estimate(PairwiseGainModel(affinity), Costs(UnitCost(0.0, 0.0, 0.0)))

    def make() -> tuple[int, int]:
        with process_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            advice = recommend(comparison)
            mix(comparison, advice.candidate)
            found = describe(Findings(workload, estimate, affinity, joint, joint, comparison, advice), {}, [])
            return len(_text(to_plain(found))), len(render(found).encode())

    (result, report), timing = timed(make)
    return PageCost(result, report, 22 * n * n + 12 * n, timing)


def _text(value: object) -> str:
    import json

    return json.dumps(value, indent=1, ensure_ascii=False)
