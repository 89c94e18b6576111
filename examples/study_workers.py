"""Two workers in two processes on one storage; on a cluster they would be two jobs, and the storage a database.

Each worker asks for a run that no other one gets, does it and tells its losses. A worker that dies leaves a run that is
asked for again after `reask_after` seconds.
"""

import multiprocessing
import random

from coterie import create_study, load_study

TASKS = ["a", "b", "c", "d"]


def train(tasks, seed):
    """Stands for a training: tasks of the first half help each other, and so do those of the second."""
    noise = random.Random(f"{tasks} {seed}")
    half = {task: TASKS.index(task) // 2 for task in TASKS}
    partners = {task: sum(1 if half[task] == half[other] else -1 for other in tasks) for task in tasks}
    return {task: 1 - 0.1 * partners[task] + 0.01 * noise.random() for task in tasks}


def work(storage):
    study = load_study("shared", storage=storage)
    done = study.optimize(train, runs=8)
    print(f"one worker did {len(done)} runs")


if __name__ == "__main__":
    storage = "shared.db"
    study = create_study("shared", tasks=TASKS, models=2, storage=storage, reask_after=600, load_if_exists=True)
    workers = [multiprocessing.get_context("spawn").Process(target=work, args=(storage,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(f"{len(study.results().losses)} runs were told")
    print(study.recommend().text)
