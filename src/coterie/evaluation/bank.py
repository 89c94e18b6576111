"""Banks of ground truth: values f(S, t) of really trained subsets, several trainings each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import comb

import numpy as np
from numpy.typing import NDArray

from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie.affinity.surrogates.real_runs import pack_values
from coterie.errors import SettingError
from coterie.training import measure_cost
from coterie.training.job import Job
from coterie.training.units import FitUnit, fit_units
from coterie.workload import Workload

#: subsets in a unit of work; a killed bank loses at most one unit
BLOCK = 30
#: seeds of common random numbers start here, those of independent trainings at the second number
COMMON, INDEPENDENT = 5_000, 10_000


@dataclass(frozen=True, eq=False)
class Runs:
    """Really trained subsets.

    Attributes:
        subsets: bool (m, T).
        values: (replicates, m, T) validation losses, NaN outside the subset; lower is better.
        flops: (replicates, m) FLOPs of each training.
        seconds: seconds that all trainings took.
        common: whether all subsets of a replicate shared initial parameters and order of rows.
    """

    subsets: NDArray[np.bool_]
    values: NDArray[np.float64]
    flops: NDArray[np.float64]
    seconds: float
    common: bool = False

    @property
    def truth(self) -> NDArray[np.float64]:
        """(m, T) mean over the trainings."""
        return self.values.mean(0)

    @property
    def replicates(self) -> int:
        """Trainings of each subset."""
        return len(self.values)

    @property
    def run_flops(self) -> float:
        """Mean FLOPs of one training."""
        return float(self.flops.mean())

    def select(self, keep: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Runs:
        """The runs of some of the subsets."""
        return Runs(self.subsets[keep], self.values[:, keep], self.flops[:, keep], self.seconds, self.common)


def draw_subsets(
    n_tasks: int, count: int, sizes: Sequence[int], seed: int, without: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Distinct random subsets, sizes in turn; more of them begin with the same ones, so that a bank can grow.

    Args:
        n_tasks: number of tasks.
        count: number of subsets.
        sizes: sizes, used in turn.
        seed: of the drawing.
        without: subsets (k, T) that must not be drawn.

    Raises:
        SettingError: when there are not so many subsets.

    Example:
        >>> draw_subsets(4, 2, (2, 3), seed=0).sum(1).tolist()
        [2, 3]
    """
    taken = {tuple(np.flatnonzero(row)) for row in (without if without is not None else ())}
    left = {size: comb(n_tasks, size) - sum(len(row) == size for row in taken) for size in sizes}
    if sum(left.values()) < count:
        raise SettingError(
            f"Parameter `count`: {n_tasks} tasks have only {sum(left.values())} subsets of sizes {tuple(sizes)} left. "
            f"Found {count}. Ask for fewer."
        )
    rng = np.random.default_rng(seed)
    rows: list[NDArray[np.bool_]] = []
    turn = 0
    while len(rows) < count:
        size, turn = sizes[turn % len(sizes)], turn + 1
        if not left[size]:
            continue
        left[size] -= 1
        while (chosen := tuple(np.sort(rng.choice(n_tasks, size, replace=False)))) in taken:
            pass
        taken.add(chosen)
        rows.append(np.isin(np.arange(n_tasks), chosen))
    return np.array(rows, dtype=bool).reshape(count, n_tasks)


@keywords_into(context=Context)
def train_subsets(
    workload: Workload,
    subsets: NDArray[np.bool_],
    replicates: int,
    context: Context = DEFAULT_CONTEXT,
    *,
    name: str,
    common: bool = False,
) -> Runs:
    """Train every subset several times with the ordinary recipe.

    Args:
        workload: tasks, data, model and recipe.
        subsets: bool (m, T).
        replicates: trainings of each subset, whose seeds are counted from fixed numbers.
        context: memory, store, progress and executor.
        name: of the units in the store; more replicates or more subsets find the earlier ones there (of subsets, those
            in full blocks).
        common: share initial parameters and order of rows between all subsets of a replicate (common random numbers),
            which makes differences between subsets less noisy; False draws them anew for every training.

    Cost: ``replicates * m`` trainings.
    """
    unit = measure_cost(workload)
    places = [(replicate, start) for replicate in range(replicates) for start in range(0, len(subsets), BLOCK)]
    values = np.full((replicates, *subsets.shape), np.nan)
    flops = np.zeros((replicates, len(subsets)))
    lists = [_jobs(subsets[start : start + BLOCK], start, replicate, common) for replicate, start in places]
    units = [FitUnit({"jobs": [[job.subset, job.seed] for job in jobs]}, jobs) for jobs in lists]
    payloads = fit_units(
        workload, f"bank-{name}", units, partial(pack_values, workload, unit), context,
        stage=f"bank: {name}", keep_states=False,
    )  # fmt: skip
    for (replicate, start), payload in zip(places, payloads, strict=True):
        block = slice(start, start + BLOCK)
        values[replicate, block], flops[replicate, block] = payload.arrays["values"], payload.arrays["flops"]
    return Runs(subsets, values, flops, sum(float(payload.meta["seconds"]) for payload in payloads), common)


def _jobs(subsets: NDArray[np.bool_], start: int, replicate: int, common: bool) -> list[Job]:
    def seed(index: int) -> int:
        return COMMON + replicate if common else INDEPENDENT * (replicate + 1) + start + index

    return [Job(tuple(np.flatnonzero(row).tolist()), seed(index)) for index, row in enumerate(subsets)]
