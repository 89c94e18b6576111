"""Trainings as Slurm jobs through submitit; without Slurm the same jobs run as processes of this machine.

Needs: pip install submitit. Run it on a login node, in a folder that all nodes see.
"""

import shutil

import submitit
import torch
from sklearn.datasets import load_digits

import coterie
from coterie.executors import SubmititExecutor

if __name__ == "__main__":
    x, y = load_digits(return_X_y=True)
    recipe = coterie.Recipe(epochs=4, batch_size=50, check_every=5)
    work = coterie.from_arrays(x, (y[:, None] == range(4)).astype(float), recipe=recipe, hidden=(16,))
    slurm = shutil.which("srun") is not None
    jobs = submitit.AutoExecutor(folder="submitit-logs", cluster=None if slurm else "local")
    jobs.update_parameters(timeout_min=30, mem_gb=4, cpus_per_task=1)
    if slurm:
        jobs.update_parameters(slurm_array_parallelism=64)
    torch.set_num_threads(1)  # of every job, as cpus_per_task says
    groupings = {"two by two": [[0, 1], [2, 3]]}
    with SubmititExecutor(jobs, poll=10.0 if slurm else 0.2) as executor:
        # every call of an executor is a Slurm job, so this pays for jobs of minutes; these take a moment
        found = coterie.compare(work, groupings, seeds=2, executor=executor)
    for name in found.comparison.candidates:
        print(f"{name:14s} gain over single-task models {found.comparison.total(name, 'validation').mean:+.3f}")
