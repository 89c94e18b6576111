"""Losses of groupings label by label, and the relative gains of one over another."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._show import short_repr
from coterie.affinity.surrogates.prior import constant_loss
from coterie.evaluation.intervals import Interval, Noise, Spread
from coterie.training.evaluate import load_state, row_losses
from coterie.workload import Workload
from coterie.workload.sparse import SparseLabels

_CHUNK = 4096
#: losses below this count as zero when gains are formed
TINY = 1e-12


@short_repr
@dataclass(frozen=True, eq=False)
class LabelLosses:
    """Loss of every label of one part of the data, for every candidate and seed.

    Attributes:
        values: (candidates, seeds, labels) losses; labels are sorted by task.
        task: (labels,) which task a label belongs to.
        row: (labels,) which example a label belongs to.
        level: (tasks,) loss of the best constant prediction; None where it is not known.
    """

    values: NDArray[np.float32]
    task: NDArray[np.int64]
    row: NDArray[np.int64]
    level: NDArray[np.float64] | None = None

    def means(self, n_tasks: int) -> NDArray[np.float64]:
        """(candidates, seeds, tasks) mean losses."""
        stops = np.searchsorted(self.task, np.arange(n_tasks + 1))
        parts = [self.values[..., a:b].mean(-1, dtype=np.float64) for a, b in itertools.pairwise(stops)]
        return np.stack(parts, -1)

    def floor(self, n_tasks: int) -> NDArray[np.float64]:
        """(tasks,) noise of the mean loss of a model that knows nothing: its loss over the root of the labels' number.

        See :func:`log_losses` for what it is good for. 0 where the level is not known.
        """
        if self.level is None:
            return np.zeros(n_tasks)
        count = np.bincount(self.task, minlength=len(self.level))
        return (self.level / np.sqrt(np.maximum(count, 1)))[:n_tasks]

    def noise(self, candidate: int, against: int, tasks: Sequence[int]) -> Noise:
        """Noise of the mean log ratio of losses over some tasks from the draw of the examples.

        A task's log ratio is that of :func:`log_losses` over its n labels; to first order, a
        label with loss c moves the logarithm of a mean m by ``(c - m) m / (m² + floor²) / n``. Labels of one example
        move together. With one label a task's noise cannot be known, and the variance is NaN.
        """
        c, b = self.values[candidate].mean(0, dtype=np.float64), self.values[against].mean(0, dtype=np.float64)
        moves = np.zeros(len(c))
        spread, floor = 0.0, self.floor(max(tasks) + 1)
        for task in tasks:
            own = slice(*np.searchsorted(self.task, [task, task + 1]))
            n = len(c[own])
            if n < 2:  # of many tasks, one with a single label is not worth giving up the others
                if len(tasks) == 1:
                    return Noise(float("nan"), 1.0)
                continue
            parts = [_influence(loss[own], float(floor[task])) for loss in (c, b)]
            moves[own] = (parts[0] - parts[1]) / n * (n / (n - 1)) ** 0.5 / len(tasks)
            spread += float(np.square(moves[own]).sum()) ** 2 / (n - 1)
        _, position = np.unique(self.row, return_inverse=True)
        variance = float(np.square(np.bincount(position, weights=moves)).sum())
        alone = float(np.square(moves).sum())
        return Noise(variance, max(1.0, alone**2 / spread) if spread > 0 else 1.0)

    def restricted(self, keep: NDArray[np.bool_], seeds: Sequence[int] | None = None) -> LabelLosses:
        """Only some labels, and only some seeds (positions)."""
        values = self.values if seeds is None else self.values[:, list(seeds)]
        return replace(self, values=values[..., keep], task=self.task[keep], row=self.row[keep])

    def extended(self, values: NDArray[np.float32]) -> LabelLosses:
        """With one more candidate, (seeds, labels)."""
        return replace(self, values=np.concatenate([self.values, values[None]]))


def _influence(losses: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """How much each label moves the logarithm of the mean, times the number of labels."""
    mean = float(losses.mean())
    return (losses - mean) * mean / max(mean**2 + floor**2, TINY**2)


@dataclass(frozen=True, eq=False)
class Resampled:
    """Shortfalls of a metric, which is no mean over labels, on examples and on draws of them with replacement.

    Attributes:
        draws: (candidates, seeds, tasks, 1 + draws); the first is that of the examples themselves. The draws are the
            same for all candidates, seeds and tasks. NaN where a draw has no value.
        examples: how many there are.
        floor: (tasks,) how finely each shortfall is known, see :func:`log_losses`.
    """

    draws: NDArray[np.float32]
    examples: int
    floor: NDArray[np.float64]

    def noise(self, candidate: int, against: int, tasks: Sequence[int]) -> Noise:
        """Noise of the mean log ratio of shortfalls over some tasks: its variance from draw to draw."""
        chosen = list(tasks)
        pair = self.draws[[candidate, against]][:, :, chosen, 1:].mean(1, dtype=np.float64)
        logs = log_losses(np.moveaxis(pair, -1, 1), self.floor[chosen])  # (2, draws, tasks)
        moved = logs[0] - logs[1]
        known = ~np.isnan(moved)
        count = known.sum(-1)
        return self.of(np.where(count > 0, np.where(known, moved, 0.0).sum(-1) / np.maximum(count, 1), np.nan))

    def of(self, draws: NDArray[np.float64]) -> Noise:
        """Noise of a number from its draws (draws,); NaN where fewer than half of them have a value."""
        known = draws[np.isfinite(draws)]
        if self.examples < 2 or len(known) < max(2, len(draws) / 2):
            return Noise(float("nan"), 1.0)
        # a draw of n examples varies by (n - 1) / n of what new examples would
        return Noise(float(known.var(ddof=1)) * self.examples / (self.examples - 1), float(self.examples - 1))


@short_repr
@dataclass(frozen=True, eq=False)
class LabelIndex:
    """The labels of some examples, sorted by task, and the loss of each task's best constant prediction."""

    rows: Tensor
    task: NDArray[np.int64]
    position: NDArray[np.int64]
    level: NDArray[np.float64]

    @staticmethod
    def of(workload: Workload, rows: Tensor) -> LabelIndex:
        """The labels of the given rows."""
        if isinstance(workload.labels, SparseLabels):
            position, task, _ = workload.labels.pairs(rows)
            order = torch.argsort(task, stable=True)
            task, position = task[order], position[order]
        else:
            task, position = workload.observed[rows].T.nonzero(as_tuple=True)
        # labels of whole answers say nothing about the size of their loss: such a loss counts as it is
        level = [
            constant_loss(workload, number) if task.loss.labels_vary else 0.0
            for number, task in enumerate(workload.tasks)
        ]
        return LabelIndex(rows, task.cpu().numpy(), position.cpu().numpy(), np.array(level))

    def measured(self, values: NDArray[np.float32]) -> LabelLosses:
        """(candidates, seeds, labels) losses of these labels."""
        return LabelLosses(values, self.task, self.row, self.level)

    @property
    def row(self) -> NDArray[np.int64]:
        """(labels,) row number of each label."""
        return self.rows.cpu().numpy()[self.position]

    def of_tasks(self, tasks: Sequence[int]) -> NDArray[np.bool_]:
        """(labels,) which belong to some tasks."""
        return np.isin(self.task, np.asarray(tasks))

    @torch.no_grad()
    def losses(self, workload: Workload, state: Mapping[str, Tensor], subset: Sequence[int]) -> NDArray[np.float32]:
        """Loss of each label of the subset's tasks under a trained model, in order."""
        model = _loaded(workload, state)
        parts = [row_losses(workload, model, chunk)[0].cpu() for chunk in self.rows.split(_CHUNK)]
        own = self.of_tasks(subset)
        return torch.cat(parts).numpy()[self.position[own], self.task[own]].astype(np.float32)

    @torch.no_grad()
    def predictions(
        self, workload: Workload, state: Mapping[str, Tensor], subset: Sequence[int]
    ) -> NDArray[np.float32]:
        """What a trained model serves for each label of the subset's tasks, one task after the other, flat."""
        model = _loaded(workload, state)
        outputs = torch.cat([workload.outputs(model, workload.batch(chunk)).cpu() for chunk in self.rows.split(_CHUNK)])
        found: list[NDArray[np.float32]] = []
        for number in subset:
            task, rows = workload.tasks[number], self.position[self.task == number]
            served = task.loss.decode(outputs[rows][:, workload.columns[number]], task.center, task.scale)
            found.append(served.numpy().astype(np.float32).ravel())
        return np.concatenate(found)

    def scores(
        self, workload: Workload, subset: Sequence[int], flat: NDArray[np.float32]
    ) -> dict[int, NDArray[np.float64]]:
        """Task -> (labels,) or (labels, classes) predictions, from what :meth:`predictions` returned."""
        found: dict[int, NDArray[np.float64]] = {}
        start = 0
        widths = [workload.tasks[number].width for number in subset]
        for number, width in zip(subset, widths, strict=True):
            size = int((self.task == number).sum()) * width
            part = flat[start : start + size].astype(np.float64)
            served = part.reshape(-1, width) if width > 1 else part
            found[number] = workload.tasks[number].loss.point(torch.from_numpy(served)).numpy()
            start += size
        return found

    def labels(self, workload: Workload, task: int) -> NDArray[np.float64]:
        """Labels of a task in their own units, in order."""
        of = workload.tasks[task]
        targets = workload.targets[self.rows, task].cpu().double().numpy()[self.position[self.task == task]]
        return targets if of.loss.discrete else targets * of.scale + of.center


def _loaded(workload: Workload, state: Mapping[str, Tensor]) -> nn.Module:
    model = workload.build_model(0).to(workload.labels.device)
    load_state(model, dict(state))
    return model.eval()


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of one part of the data.

    Attributes:
        means: (candidates, seeds, tasks) mean losses; lower is better.
        labels: the losses behind them, label by label, or draws of the examples; None leaves their noise out.
        floor: (tasks,) how finely each mean loss is known; see :meth:`coterie.evaluation.LabelLosses.floor`.
    """

    means: NDArray[np.float64]
    labels: LabelLosses | Resampled | None
    floor: NDArray[np.float64]

    @staticmethod
    def of(means: NDArray[np.float64], labels: LabelLosses | None = None) -> Losses:
        """With the floor that follows from the labels, or none without them."""
        return Losses(means, labels, np.zeros(means.shape[-1]) if labels is None else labels.floor(means.shape[-1]))

    def spread(self, candidate: int, against: int, tasks: Sequence[int]) -> Spread:
        """Mean log ratio of the losses of two candidates over some tasks; positive says that the first is worse.

        Differences are paired: seed by seed, and label by label.
        """
        floor = self.floor[list(tasks)]
        logs = log_losses(self.means[[candidate, against]][..., list(tasks)], floor)
        noise = None if self.labels is None else self.labels.noise(candidate, against, tasks)
        return Spread.of((logs[0] - logs[1]).mean(-1), noise)

    def gain(self, candidate: int, against: int, tasks: Sequence[int], level: float = 0.95) -> Interval:
        """1 - geometric mean over tasks of the loss ratios, with its interval over seeds and, with labels, examples.

        Args:
            candidate: whose gain; positive is good.
            against: over whom.
            tasks: which tasks count.
            level: coverage.

        Example:
            >>> losses = Losses.of(np.array([[[0.5, 2.0]], [[1.0, 1.0]]]))
            >>> losses.gain(0, 1, [0]).mean
            0.5
        """
        found = self.spread(candidate, against, tasks)
        half = found.reach(level)
        return Interval(*(float(1 - np.exp(x)) for x in (found.mean, found.mean + half, found.mean - half)))


def log_losses(losses: NDArray[np.float64], floor: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """Logarithm of (..., tasks) losses, of which each counts as ``sqrt(loss² + floor²)``.

    On this scale a loss that halves weighs as much as one that doubles, and no gain exceeds 100 %. A loss far above its
    floor counts as it is; one far below counts as the floor, since which of two such losses is smaller is noise,
    however large their ratio. A loss of 0 is no exception; a negative one, which has no logarithm, counts as 0.

    Args:
        losses: mean losses.
        floor: (tasks,), see :meth:`coterie.evaluation.LabelLosses.floor`; 0 for none.

    Example:
        >>> log_losses(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
        array([0., 0.])
    """
    kept = np.maximum(losses, 0.0)
    return 0.5 * np.log(np.maximum(np.square(kept) + np.square(floor), TINY**2))
