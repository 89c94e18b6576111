"""What a grouping is worth when it is trained for real, and how far it is from the best one that was seen."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._units import NoStore, Payload, look
from coterie.evaluation.bank import BLOCK
from coterie.evaluation.intervals import Interval
from coterie.evaluation.labels import TINY
from coterie.grouping import Grouping
from coterie.training.job import Fit, Job
from coterie.training.units import FitUnit, fit_units
from coterie.workload import Workload

Floats = NDArray[np.float64]
Subset = tuple[int, ...]
#: seeds of groups are spread over this range, above those of all other trainings of a bank
_FIRST, _RANGE = 100_000_000, 2**30


@dataclass(frozen=True)
class Total:
    """Mean over tasks of the log loss of a grouping.

    Attributes:
        log: the mean over tasks and trainings; lower is better.
        variance: of that mean over another draw of training seeds; NaN with a single training of some group.
        freedom: degrees of freedom of the variance (Welch and Satterthwaite).
    """

    log: float
    variance: float
    freedom: float

    def gain(self, reference: Total, level: float = 0.95) -> Interval:
        """1 - geometric mean over tasks of the loss ratios, with its interval over training seeds; positive is good.

        Groups that both sides share are counted as if they had been trained for each, so the interval is rather too
        wide.
        """
        from scipy.stats import t

        if self is reference:
            return Interval(0.0, 0.0, 0.0)
        difference, variance = self.log - reference.log, self.variance + reference.variance
        if not np.isfinite(variance) or variance <= 0:
            return Interval(float(-np.expm1(difference)), float("nan"), float("nan"))
        freedom = variance**2 / sum(side.variance**2 / side.freedom for side in (self, reference) if side.variance > 0)
        half = float(t.ppf(0.5 + level / 2, freedom)) * variance**0.5
        return Interval(*(float(-np.expm1(x)) for x in (difference, difference + half, difference - half)))


def total(grouping: Grouping, runs: Mapping[Subset, Floats]) -> Total:
    """Log loss of a grouping from the trainings of its groups.

    Args:
        grouping: the groups, and which of them serves which task.
        runs: (replicates, T) losses of every group; positive.

    Example:
        >>> losses = {(0, 1): np.array([[0.5, 2.0], [0.5, 2.0]])}
        >>> total(Grouping(("a", "b"), ((0, 1),), (0, 0)), losses).log
        0.0
    """
    log = variance = weight = 0.0
    for number, group in enumerate(grouping.groups):
        served = [task for task, server in enumerate(grouping.serves) if server == number]
        if not served:
            continue
        sums = np.log(np.maximum(runs[tuple(sorted(group))][:, served], TINY)).sum(1) / len(grouping.tasks)
        log += float(sums.mean())
        own = float(sums.var(ddof=1)) / len(sums) if len(sums) > 1 else float("nan")
        variance += own
        weight += own**2 / max(len(sums) - 1, 1)
    return Total(log, variance, variance**2 / weight if weight > 0 else 1.0)


def regrets(gains: Mapping[str, float]) -> dict[str, float]:
    """How much gain each candidate leaves on the table against the best of all; 0 for the best one.

    The best is the largest of noisy numbers, so that regrets are rather too large.

    Example:
        >>> regrets({"a": 0.25, "b": 0.5})
        {'a': 0.25, 'b': 0.0}
    """
    best = max(gains.values())
    return {name: best - gain for name, gain in gains.items()}


def random_grouping(tasks: tuple[str, ...], k: int, seed: int) -> Grouping:
    """A random partition into `k` groups whose sizes differ by one at most.

    Example:
        >>> random_grouping(("a", "b", "c", "d", "e"), 2, seed=0).subsets.sum(1).tolist()
        [2, 3]
    """
    labels = np.random.default_rng([seed, k, len(tasks)]).permutation(np.arange(len(tasks)) % k)
    return Grouping.from_labels(tasks, labels, method="random")


@keywords_into(context=Context)
def train_groups(
    workload: Workload,
    groups: Iterable[Subset],
    replicates: int,
    context: Context = DEFAULT_CONTEXT,
) -> dict[Subset, Floats]:
    """Train groups with the ordinary recipe; a group that several groupings share is trained once.

    Args:
        workload: tasks, data, model and recipe.
        groups: sets of task numbers.
        replicates: trainings of each.
        context: memory, store, progress and executor; the store has every training under its group and seed.

    Returns:
        Group -> (replicates, T) validation losses, NaN outside the group.

    Cost: `replicates` trainings of every group that is not in the store.
    """
    wanted = sorted({tuple(sorted(group)) for group in groups})
    jobs = [Job(group, _seed(group, replicate)) for group in wanted for replicate in range(replicates)]
    found = {job: _values(look(context.store, "bank-groups", _key(job))) for job in jobs}
    missing = sorted((job for job, values in found.items() if values is None), key=lambda job: len(job.subset))
    blocks = [FitUnit({}, missing[start : start + BLOCK]) for start in range(0, len(missing), BLOCK)]

    def keep(fits: list[Fit]) -> Payload:
        for done in fits:  # each under its own group, where other groupings find it
            payload = Payload({"values": done.validation})
            kept = context.store.unit("bank-groups", _key(done.job), lambda payload=payload: payload)
            found[done.job] = _values(kept)
        return Payload()

    fit_units(
        workload, "bank-groups", blocks, keep, replace(context, store=NoStore()), stage="bank: groups",
        keep_states=False,
    )  # fmt: skip
    rows = {group: [found[Job(group, _seed(group, replicate))] for replicate in range(replicates)] for group in wanted}
    return {group: np.stack([row for row in values if row is not None]) for group, values in rows.items()}


def _seed(group: Subset, replicate: int) -> int:
    """The same for a group wherever it comes from, different for different groups."""
    return _FIRST + zlib.crc32(repr((tuple(group), replicate)).encode()) % _RANGE


def _key(job: Job) -> dict[str, object]:
    return {"subset": list(job.subset), "seed": job.seed}


def _values(kept: Payload | None) -> Floats | None:
    return None if kept is None else np.asarray(kept.arrays["values"], dtype=np.float64)
