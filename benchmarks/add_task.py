"""A task that arrives after a run: is it sent to the right group, and at what cost?

Each task of a workload is held out in turn: a run on the other tasks finds groups, `coterie.add_task` picks one for the
task, and the truth is the mean test loss of the task over fresh seeds of every group with the task in it. Reported: by
how much the picked group is worse than the best one and than a model of its own, and the cost of the choice as a share
of the run's FLOPs. One thread.

    python benchmarks/add_task.py [yeast chemicals] [--every 1] [--groups 4]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import coterie
from coterie.evaluation.labels import LabelIndex
from coterie.evaluation.trainings import Trainings
from coterie.workload import Workload

RESULTS = Path(__file__).parent / "results" / "add_task.json"
#: trainings of each group with the task behind the truth
SEEDS = range(100, 110)


def without(work: Workload, task: int | None) -> Workload:
    """The workload without a task; with all of them for None, built in the same way."""
    keep = [number for number in range(work.n_tasks) if number != task]
    assert work.model_spec is not None
    return coterie.from_arrays(
        work.inputs,
        work.labels[:, keep],
        tasks=[work.tasks[number] for number in keep],
        recipe=work.recipe,
        split=work.split,
        standardize=False,
        hidden=work.model_spec["hidden"],
        name=work.name,
    )


def truth(work: Workload, subsets: list[tuple[int, ...]], task: int) -> np.ndarray:
    """(subsets,) mean test loss of a task over fresh seeds."""
    index = LabelIndex.of(work, work.split.test)
    done = Trainings(work, {"test": index}, coterie.Context(), "truth")
    done.train(subsets, list(SEEDS), keep=False, stage="truth")
    own = [index.of_tasks([task])[index.of_tasks(subset)] for subset in subsets]
    return np.array(
        [np.mean([done.losses[s, seed, "test"][o].mean() for seed in SEEDS]) for s, o in zip(subsets, own, strict=True)]
    )


def held_out(work: Workload, task: int, groups: int) -> dict:
    """What is picked for a task, and how good that is."""
    whole, name = without(work, None), work.task_names[task]
    run = coterie.run(without(work, task), groups=groups)
    added = coterie.add_task(run, whole, grouping=run.grouping)
    old = [[whole.task_names.index(member) for member in group] for group in run.grouping.names]
    subsets = [tuple(sorted([*group, task])) for group in old]
    losses = truth(whole, [*subsets, (task,)], task)
    picked = len(old) if not added.group else added.grouping.serves[task]
    return {
        "task": name,
        "picked": picked,
        "losses": losses.tolist(),
        "regret": float(losses[picked] / losses[: len(old)].min() - 1),
        "random": float(losses[: len(old)].mean() / losses[: len(old)].min() - 1),
        "share": added.share,
        "trainings": added.trainings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=["yeast", "chemicals"])
    parser.add_argument("--every", type=int, default=1, help="hold out each so-manieth task")
    parser.add_argument("--groups", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict]] = {}
    for name in arguments.workloads:
        work = coterie.load_workload(name)
        for task in range(0, work.n_tasks, arguments.every):
            found.setdefault(name, []).append(held_out(work, task, arguments.groups))
            print(name, found[name][-1], flush=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        rows = found[name]
        mean = {key: float(np.mean([row[key] for row in rows])) for key in ("regret", "random", "share")}
        print(f"{name}: {len(rows)} tasks, mean {mean}, largest share {max(row['share'] for row in rows):.3f}")


if __name__ == "__main__":
    main()
