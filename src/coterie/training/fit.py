"""Train many models, with the fastest backend that gives the right result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from coterie._check import choice
from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._executor import Done, Warned, reissue_warnings, run_jobs
from coterie._process_lock import process_lock
from coterie._progress import Progress, silent
from coterie._random import random_numbers
from coterie._surface import known_arguments, warn
from coterie._units import Payload
from coterie.errors import FallbackWarning, ModelError, ResourceError
from coterie.training.job import Fit, Job, Schedule, pack_fits, unpack_fits
from coterie.training.loop import fit_one, trainable
from coterie.training.optimizer import rehearse
from coterie.training.population import Chunk, ProgressReporter, members_at_once, plan_population, train_chunk
from coterie.training.stackable import is_stackable, population_footprint
from coterie.workload.travel import own, parcel
from coterie.workload.workload import Workload

#: the name under which trainings report their progress
STAGE = "training"


@dataclass(frozen=True, eq=False)
class Share:
    """What one process trains at a time: a chunk of a population, or a single model in the plain loop.

    Attributes:
        chunk: the jobs and their positions.
        stacked: whether they are trained together.
    """

    chunk: Chunk
    stacked: bool

    def train(self, workload: Workload, tell: Callable[[np.ndarray, int, np.ndarray], None] | None) -> list[Fit]:
        """Train here."""
        if self.stacked:
            return train_chunk(workload, self.chunk, tell)
        position = np.array(self.chunk.positions)

        def step(stage: str, done: int, total: int) -> None:
            del stage
            if tell is not None:
                tell(position, done, np.array([done == total]))

        fitted = fit_one(workload, self.chunk.jobs[0], progress=step, keep_states=self.chunk.keep_states)
        if tell is not None:
            tell(position, fitted.steps, np.array([True]))
        return [fitted]


@dataclass(eq=False)
class Shares:
    """The trainings of one list of jobs.

    Attributes:
        jobs: the jobs.
        shares: who is trained together; depends on jobs and memory alone.
        fits: position -> finished training.
        seconds: that they took where they ran, added up.
        warned: warnings that they raised.
    """

    jobs: Sequence[Job]
    shares: list[Share]
    fits: dict[int, Fit] = field(default_factory=dict[int, Fit])
    seconds: float = 0.0
    warned: Warned = ()

    @property
    def complete(self) -> bool:
        """Whether all are trained."""
        return len(self.fits) == len(self.jobs)

    def result(self) -> list[Fit]:
        """The fits in the order of the jobs, after the warnings of the workers."""
        reissue_warnings(self.warned)
        return [self.fits[position] for position in range(len(self.jobs))]

    def take(self, workload: Workload, share: Share, outcome: Done) -> None:
        """Unpack what a worker sent."""
        fits = unpack_fits(share.chunk.jobs, outcome.result)
        for position, done in zip(share.chunk.positions, fits, strict=True):
            state = {name: value.to(workload.device) for name, value in done.state.items()}
            self.fits[position] = replace(done, job=self.jobs[position], state=state)
        self.seconds += outcome.seconds
        self.warned += outcome.warned


def divide(
    workload: Workload, jobs: Sequence[Job], together: Sequence[int], *, memory: int, keep_states: bool
) -> Shares:
    """Cut a list of jobs: those at the positions `together` by population, every other one alone.

    Raises:
        SettingError, WorkloadError, ResourceError: see :func:`coterie.training.fit`.
    """
    shares: list[Share] = []
    chosen = list(together)
    for chunk in plan_population(workload, [jobs[i] for i in chosen], memory=memory, keep_states=keep_states):
        positions = tuple(chosen[i] for i in chunk.positions)
        shares.append(Share(replace(chunk, positions=positions), stacked=True))
    alone = set(range(len(jobs))) - set(chosen)
    shares += [Share(Chunk((jobs[i],), (i,), 0, keep_states), stacked=False) for i in sorted(alone)]
    return Shares(jobs, shares)


def train_here(workload: Workload, shares: Shares, progress: Progress | None) -> None:
    """Train all shares in this process; progress is told in steps, added up over the jobs."""
    start = time.perf_counter()
    tell = ProgressReporter(progress or silent, [Schedule(workload, job).max_steps for job in shares.jobs])
    for share in shares.shares:
        fits = share.train(workload, tell)
        shares.fits.update(zip(share.chunk.positions, fits, strict=True))
        process_lock.offer()
    shares.seconds += time.perf_counter() - start


def train_there(
    executor: Executor,
    workload: Workload,
    several: Sequence[Shares],
    progress: Progress | None,
    complete: Callable[[int], None] | None = None,
) -> None:
    """Train the shares of several lists through an executor, all at once.

    Args:
        executor: where.
        workload: of all jobs.
        several: lists of jobs, cut already.
        progress: called as ``progress("training", finished jobs, jobs)``.
        complete: called with the number of a list as soon as all its jobs are trained.
    """
    items = [(number, share) for number, shares in enumerate(several) for share in shares.shares]
    total, finished = sum(len(shares.jobs) for shares in several), 0

    def done(index: int, outcome: Done) -> None:
        nonlocal finished
        number, share = items[index]
        several[number].take(workload, share, outcome)
        finished += len(share.chunk.jobs)
        (progress or silent)(STAGE, finished, total)
        if several[number].complete and complete is not None:
            complete(number)

    calls = [_portable(share) for _, share in items]
    run_jobs(executor, train_share, calls, parcel(workload), stage=STAGE, done=done)


def train_share(workload: Workload, share: Share) -> Payload:
    """What a worker does; tensors come back on the CPU."""
    return pack_fits(share.train(workload, None), states=share.chunk.keep_states)


def _portable(share: Share) -> Share:
    """With start states that can be pickled cheaply; jobs that share one still do."""
    known: dict[int, dict[str, Tensor]] = {}

    def light(job: Job) -> Job:
        if job.start is None:
            return job
        if id(job.start) not in known:
            known[id(job.start)] = {name: own(value) for name, value in job.start.items()}
        return replace(job, start=known[id(job.start)])

    return replace(share, chunk=replace(share.chunk, jobs=tuple(light(job) for job in share.chunk.jobs)))


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
    longest = max((Schedule(workload, job).max_steps for job in jobs), default=0)
    check_recipe(workload, longest)  # so that a mistake is found before anything is trained
    together = [i for i, job in enumerate(jobs) if job.balancing is None or job.balancing.stackable]
    if len(together) < len(jobs) and backend != "loop":
        _cannot_stack(jobs, together, backend)
    if not _population(workload, [jobs[i] for i in together], backend, memory):
        together = []
    return divide(workload, jobs, together, memory=memory, keep_states=keep_states)


def check_recipe(workload: Workload, steps: int) -> None:
    """Raise SettingError when a part of the recipe cannot be used for so many steps; longer ones are looked at once."""
    recipe = workload.recipe
    workload.label_weights  # noqa: B018 - looked at for its errors
    if _CHECKED.get(workload, -1) >= steps or not (recipe.functions or recipe.rates):
        return
    with random_numbers(workload.device):
        rehearse(recipe, trainable(workload.build_model(0)), steps)
    _CHECKED[workload] = steps


#: steps for which the recipe of a workload was looked at
_CHECKED: WeakKeyDictionary[Workload, int] = WeakKeyDictionary()


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
            if members_at_once(population_footprint(workload, memory), memory) > 1:
                return True
            reason = "only one member at a time fits `memory`"
        except ResourceError as error:
            reason = str(error)
    warn(
        f"Models are trained one after the other, which is slower than all at once: {reason}",
        FallbackWarning,
    )
    return False
