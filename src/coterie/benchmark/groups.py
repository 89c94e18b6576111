"""What comes of grouping with a method: its groups trained for real, beside random ones and the simple candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coterie._context import Context, keywords_into
from coterie.affinity import Estimate, PairwiseGainModel
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.benchmark.bank import Bank
from coterie.evaluation.compare import all_in_one, single_task
from coterie.evaluation.comparison import BASELINE, JOINT
from coterie.evaluation.regret import Floats, Subset, Total, random_grouping, regrets, total, train_groups
from coterie.grouping import Grouping, group
from coterie.pipeline.candidates import subset_count, typical_size

RANDOM = "random"


def default_counts(n_tasks: int) -> tuple[int, ...]:
    """Number of groups that is tried: a fifth of the tasks, between 3 and 5.

    Example:
        >>> default_counts(13), default_counts(20), default_counts(74), default_counts(3)
        ((3,), (4,), (5,), (2,))
    """
    return (min(int(np.clip(round(n_tasks / 5), 3, 5)), n_tasks - 1),)


def find_grouping(estimate: Estimate, k: int, seed: int) -> Grouping:
    """Groups by the method's own clustering where it has one, else by Coterie's.

    That goes by predicted gains, or, where a score has no zero that means anything, by the matrix alone, with the mean
    score for a task and itself: a constant added to all scores then changes nothing. A model that evaluates the real
    network is grouped as published, by its affinities over random subsets: a search among its predictions takes too
    long.
    """
    model, tasks = estimate.model, estimate.model.tasks
    if estimate.cluster is not None:
        return Grouping.from_labels(tasks, estimate.cluster(k), method=f"{estimate.model.method}, own clustering")
    if isinstance(model, PairwiseGainModel) and model.affinity.kind == "raw":
        return group(model.affinity, k, seed=seed, diagonal="mean")
    if isinstance(model, GradTAEModel) and model.network is not None:
        size = typical_size(len(tasks))
        return group(model.higher_order(subset_count(len(tasks), size), size, seed=seed), k, seed=seed)
    return group(model, k, seed=seed)


@keywords_into(context=Context)
def judge(
    bank: Bank,
    k: int,
    found: Mapping[str, Grouping],
    context: Context,
    *,
    replicates: int,
    draws: int,
    draw_replicates: int,
) -> dict[str, Any]:
    """Train groupings into `k` groups and hold them against each other.

    Args:
        bank: ground truth; its models of one task and of all tasks are used again.
        k: number of groups.
        found: method -> its grouping.
        context: seed of the random groupings, memory, progress, executor, and the store; a group that several groupings
            share is trained once.
        replicates: trainings of every group of a method.
        draws: random groupings.
        draw_replicates: trainings of each of their groups.

    Returns:
        JSON-ready: the candidates with their mean gains over tasks (1 - geometric mean of loss ratios) against
        single-task models and against one model for all, and their regret against the best candidate seen;
        ``regret_of_k`` is against the best of those with `k` groups.
    """
    tasks = bank.workload.task_names
    names = [f"{RANDOM} {number + 1}" for number in range(draws)]
    drawn = {name: random_grouping(tasks, k, context.seed + number) for number, name in enumerate(names)}
    known: dict[Subset, Floats] = {(task,): bank.alone.values[:, task] for task in range(len(tasks))}
    known[tuple(range(len(tasks)))] = bank.joint
    runs = dict(known)
    for groupings, often in ((drawn, draw_replicates), (found, replicates)):  # those of methods replace shared ones
        wanted = {tuple(sorted(g)) for grouping in groupings.values() for g in grouping.groups} - set(known)
        runs.update(train_groups(bank.workload, wanted, often, context=context))
    single, joint = total(single_task(tasks), runs), total(all_in_one(tasks), runs)
    totals = {name: total(grouping, runs) for name, grouping in {**found, **drawn}.items()}
    totals.update({BASELINE: single, JOINT: joint})
    gains = {name: value.gain(single).mean for name, value in totals.items()}
    left = regrets(gains)
    chance = [gains[name] for name in names]
    rows = [_row(name, totals[name], single, joint, left[name], chance) for name in (*found, BASELINE, JOINT)]
    same = regrets({name: gains[name] for name in (*found, *drawn)}) if found or drawn else {}
    for row in rows:
        if row["name"] in found:
            row["groups"] = [list(members) for members in found[row["name"]].names]
            row["regret_of_k"] = same[row["name"]]
            row["how"] = found[row["name"]].method
    return {
        "k": k,
        "candidates": rows,
        "random": {
            "draws": draws,
            "mean": float(np.mean(chance)) if chance else None,
            "best": max(chance, default=None),
            "regret": float(np.mean([left[name] for name in names])) if chance else None,
        },
        "best": min(left, key=lambda name: left[name]),
    }


def _row(name: str, own: Total, single: Total, joint: Total, regret: float, chance: list[float]) -> dict[str, Any]:
    gain = own.gain(single)
    return {
        "name": name,
        "gain": gain.to_dict(),
        "against_joint": own.gain(joint).to_dict(),
        "regret": regret,
        "beaten": float(np.mean([gain.mean > other for other in chance])) if chance else None,
    }
