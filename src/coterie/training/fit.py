"""Train many models, with the fastest backend that gives the right result."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from coterie._progress import Progress, silent
from coterie.errors import FallbackWarning, ModelError, ResourceError, SettingError
from coterie.training.footprint import measure_footprint
from coterie.training.job import Fit, Job, Schedule
from coterie.training.loop import fit_one
from coterie.training.population import fit_population, members_at_once
from coterie.training.stackable import is_stackable
from coterie.workload.workload import Workload

__all__ = ["BACKENDS", "Fit", "fit"]

BACKENDS = ("auto", "population", "loop")


def fit(
    workload: Workload,
    jobs: Sequence[Job],
    *,
    backend: str = "auto",
    memory: int = 2**30,
    progress: Progress | None = None,
    keep_states: bool = True,
) -> list[Fit]:
    """Train a model for each job.

    Both backends give the same results up to rounding. On two cores the population is about four times faster than the
    loop for small multi-layer perceptrons (a hundred members, ten thousand parameters each). Jobs whose balancing
    combines gradients (:data:`coterie.balancing.AGGREGATIONS`) are always trained in the loop.

    Args:
        workload: tasks, data, model and recipe.
        jobs: what to train.
        backend: ``"population"`` trains many members at once, ``"loop"`` one after the other; ``"auto"`` takes the
            population for what can be stacked when there are several such jobs, and warns about the others.
        memory: bytes that the members trained at once may take.
        progress: called with steps done and steps at most, added up over the jobs.
        keep_states: False leaves `Fit.state` empty, which saves memory when only losses are wanted.

    Returns:
        One fit a job, in their order.

    Raises:
        SettingError: for an unknown backend or a job that names an unknown task.
        ModelError: when training diverges, or the population was asked for and a model cannot be stacked.
        ResourceError: when the population was asked for and a member does not fit the memory.
        WorkloadError: when a subset has no label in the training or validation part.

    Example:
        >>> import numpy as np, coterie
        >>> from coterie.training import Job, fit
        >>> from coterie.workload import Recipe, from_arrays
        >>> x = np.random.default_rng(0).normal(size=(60, 4))
        >>> y = (x[:, :3] > 0).astype(float)
        >>> workload = from_arrays(x, y, recipe=Recipe(epochs=2, batch_size=16))
        >>> fits = fit(workload, [Job((0, 1), seed=0), Job((2,), seed=0)])
        >>> fits[1].validation.shape
        (3,)
    """
    if backend not in BACKENDS:
        raise SettingError(f"Parameter `backend` should be one of {BACKENDS}. Found {backend!r}.")
    jobs = list(jobs)
    max_steps = [Schedule(workload, job).max_steps for job in jobs]
    together = [i for i, job in enumerate(jobs) if job.balancing is None or job.balancing.stackable]
    if len(together) < len(jobs) and backend != "loop":
        _cannot_stack(jobs, together, backend)
    if not _population(workload, [jobs[i] for i in together], backend, memory):
        together = []
    done, whole = sum(max_steps[i] for i in together), sum(max_steps)

    def tell(stage: str, steps: int, total: int) -> None:
        del total
        (progress or silent)(stage, steps, whole)

    stacked = fit_population(
        workload, [jobs[i] for i in together], memory=memory, progress=tell, keep_states=keep_states
    )
    fits = dict(zip(together, stacked, strict=True))
    for position in (i for i in range(len(jobs)) if i not in fits):
        fits[position] = _alone(workload, jobs[position], tell, done, keep_states)
        done += max_steps[position]
        tell("training", done, whole)
    return [fits[position] for position in range(len(jobs))]


def _cannot_stack(jobs: Sequence[Job], together: Sequence[int], backend: str) -> None:
    """Say that some jobs combine gradients."""
    names = sorted({str(job.balancing) for i, job in enumerate(jobs) if i not in set(together)})
    reason = f"{', '.join(names)} combines the gradients of tasks, which stacked models cannot do"
    if backend == "population":
        raise ModelError(
            f"The models cannot be trained as a population: {reason}. Use backend='loop' (or 'auto'), or a method that "
            "weights losses."
        )
    if len(jobs) > 1:
        warnings.warn(
            f"Models are trained one after the other, which is slower than all at once: {reason}",
            FallbackWarning,
            stacklevel=3,
        )


def _population(workload: Workload, jobs: Sequence[Job], backend: str, memory: int) -> bool:
    if backend == "loop" or not jobs or (backend == "auto" and len(jobs) == 1):
        return False
    stackable, reason = is_stackable(workload)
    if backend == "population":
        if not stackable:
            raise ModelError(
                f"The models cannot be trained as a population: {reason}. "
                "Use backend='loop' (or 'auto'), or take that part out of the model."
            )
        return True
    if stackable:
        try:
            if members_at_once(measure_footprint(workload), memory) > 1:
                return True
            reason = "only one member at a time fits `memory`"
        except ResourceError as error:
            reason = str(error)
    warnings.warn(
        f"Models are trained one after the other, which is slower than all at once: {reason}",
        FallbackWarning,
        stacklevel=3,
    )
    return False


def _alone(workload: Workload, job: Job, progress: Progress, before: int, keep_states: bool) -> Fit:
    """One training in the plain loop, after so many steps of others."""

    def tell(stage: str, done: int, total: int) -> None:
        progress(stage, before + done, total)

    return fit_one(workload, job, progress=tell, keep_states=keep_states)
