"""Train many models, with the fastest backend that gives the right result."""

from __future__ import annotations

from collections.abc import Sequence

from coterie._check import choice
from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._surface import known_arguments, warn
from coterie.errors import FallbackWarning, ModelError, ResourceError
from coterie.training.footprint import measure_footprint
from coterie.training.job import Fit, Job, Schedule
from coterie.training.population import members_at_once
from coterie.training.shares import Shares, divide, train_here, train_there
from coterie.training.stackable import is_stackable
from coterie.workload.workload import Workload

__all__ = ["BACKENDS", "Fit", "fit"]

BACKENDS = ("auto", "population", "loop")


@keywords_into(context=Context)
@known_arguments
def fit(
    workload: Workload,
    jobs: Sequence[Job],
    context: Context = DEFAULT_CONTEXT,
    *,
    backend: str = "auto",
    keep_states: bool = True,
) -> list[Fit]:
    """Train a model for each job.

    Both backends give the same results up to rounding. On two cores the population is about four times faster than the
    loop for small multi-layer perceptrons (a hundred members, ten thousand parameters each). Jobs whose balancing
    combines gradients (:data:`coterie.balancing.methods.AGGREGATIONS`) are always trained in the loop.

    Args:
        workload: tasks, data, model and recipe.
        jobs: what to train; each has its seed.
        context: memory, progress and executor; nothing is kept in its store. Progress is told in steps, added up over
            the jobs; with an executor, in jobs. Who is trained together does not depend on the executor, so the results
            are the same bit for bit with the same number of torch's threads and the same kind of processor.
        backend: ``"population"`` trains many members at once, ``"loop"`` one after the other; ``"auto"`` takes the
            population for what can be stacked when there are several such jobs, and warns about the others.
        keep_states: False leaves `Fit.state` empty, which saves memory when only losses are wanted.

    Returns:
        One fit a job, in their order.

    Raises:
        SettingError: for an unknown backend or a job that names an unknown task.
        ModelError: when training diverges, or the population was asked for and a model cannot be stacked.
        ResourceError: when the population was asked for and a member does not fit the memory.
        WorkloadError: when a subset has no label in the training or validation part.
        WorkerError: when the workers of the executor are lost too often, or cannot take the jobs.

    Example:
        >>> import numpy as np, coterie
        >>> from coterie.training.job import Job
        >>> from coterie.training import fit
        >>> from coterie.workload import Recipe, from_arrays
        >>> x = np.random.default_rng(0).normal(size=(60, 4))
        >>> y = (x[:, :3] > 0).astype(float)
        >>> workload = from_arrays(x, y, recipe=Recipe(epochs=2, batch_size=16))
        >>> fits = fit(workload, [Job((0, 1), seed=0), Job((2,), seed=0)])
        >>> fits[1].validation.shape
        (3,)
    """
    choice(backend, "backend", BACKENDS)
    shares = cut(workload, jobs, backend=backend, memory=context.memory, keep_states=keep_states)
    if context.executor is None:
        train_here(workload, shares, context.progress)
    else:
        train_there(context.executor, workload, [shares], context.progress)
    return shares.result()


def cut(workload: Workload, jobs: Sequence[Job], *, backend: str, memory: int, keep_states: bool) -> Shares:
    """Choose the backend of each job, and who is trained together; raises and warns as :func:`fit`."""
    jobs = list(jobs)
    for job in jobs:
        Schedule(workload, job)  # so that a mistake is found before anything is trained
    together = [i for i, job in enumerate(jobs) if job.balancing is None or job.balancing.stackable]
    if len(together) < len(jobs) and backend != "loop":
        _cannot_stack(jobs, together, backend)
    if not _population(workload, [jobs[i] for i in together], backend, memory):
        together = []
    return divide(workload, jobs, together, memory=memory, keep_states=keep_states)


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
        warn(
            f"Models are trained one after the other, which is slower than all at once: {reason}",
            FallbackWarning,
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
    warn(
        f"Models are trained one after the other, which is slower than all at once: {reason}",
        FallbackWarning,
    )
    return False
