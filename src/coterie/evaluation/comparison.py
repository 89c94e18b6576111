"""Groupings held against each other on really trained models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from coterie._check import choice, named_choice
from coterie._files import atomic_write, user_path
from coterie._json import reading, text, whole
from coterie._sealed import pack, read_sealed
from coterie._show import html_table, short_repr
from coterie._surface import known_arguments
from coterie.errors import SettingError, require
from coterie.evaluation.halving import Halving
from coterie.evaluation.intervals import Interval, Spread
from coterie.evaluation.labels import LabelLosses, Losses, log_losses
from coterie.evaluation.metric_values import MetricValues
from coterie.grouping import Grouping

if TYPE_CHECKING:
    import pandas as pd

_KIND = "coterie comparison 2"
BASELINE = "single-task"
JOINT = "all-in-one"


@known_arguments
@short_repr
@dataclass(frozen=True, eq=False)
class Comparison:
    """Losses of candidate groupings, trained for real with the same recipe and seeds.

    Attributes:
        tasks: task names.
        candidates: names of the candidates; ``"all-in-one"`` and ``"single-task"`` are always among them.
        groupings: the grouping behind each candidate.
        seeds: training seeds; the same for all candidates.
        validation: (candidates, seeds, tasks) validation losses, lower is better; used to choose.
        test: (candidates, seeds, tasks) test losses, lower is better; used to report.
        labels: part -> losses label by label; where they are known, intervals also cover the noise of the examples.
        halving: how candidates were eliminated before, on other seeds; None when all were trained with all seeds.
        metrics: what predictions were judged by beside the loss.
        decided_by: name of the metric that gains, intervals and the recommendation are about; None for the loss.
    """

    tasks: tuple[str, ...]
    candidates: tuple[str, ...]
    groupings: tuple[Grouping, ...]
    seeds: tuple[int, ...]
    validation: NDArray[np.float64]
    test: NDArray[np.float64]
    labels: Mapping[str, LabelLosses] = field(default_factory=dict, repr=False)
    halving: Halving | None = None
    metrics: tuple[MetricValues, ...] = ()
    decided_by: str | None = None

    def losses(self, part: str) -> NDArray[np.float64]:
        """(candidates, seeds, tasks) losses of ``"validation"`` or ``"test"``."""
        if part not in ("validation", "test"):
            raise SettingError(f"Parameter `part` should be 'validation' or 'test'. Found {part!r}.")
        return self.validation if part == "validation" else self.test

    def index(self, candidate: str) -> int:
        """Position of a candidate.

        Raises:
            SettingError: when there is no such candidate.
        """
        choice(candidate, "candidate", self.candidates)
        return self.candidates.index(candidate)

    def gains(self, part: str, against: str = BASELINE) -> NDArray[np.float64]:
        """Relative loss reductions (candidates, seeds, tasks) against a candidate, seed by seed; positive is good.

        Losses that are mostly noise count as :func:`coterie.evaluation.labels.log_losses` says.
        """
        own = self.part(part)
        losses = log_losses(own.means, own.floor)
        return 1 - np.exp(losses - losses[self.index(against)][None])

    def part(self, part: str) -> Losses:
        """What decides on ``"validation"`` or ``"test"`` data, losses or shortfalls, with all that intervals need."""
        losses = self.losses(part)
        if self.decided_by is not None:
            return self.metric(self.decided_by).losses(part)
        return Losses.of(losses, self.labels.get(part))

    def metric(self, name: str) -> MetricValues:
        """A metric by its name.

        Raises:
            SettingError: when there is no such metric.
        """
        if not self.metrics:
            raise SettingError(f"No metric was asked for, so there is no {name!r}. Compare with metrics=[{name!r}].")
        named_choice(name, "name", [metric.name for metric in self.metrics])
        return next(metric for metric in self.metrics if metric.name == name)

    def spread(self, candidate: str, part: str = "validation", against: str = JOINT) -> Spread:
        """Mean log ratio of the losses over tasks, which is negative where the candidate is better, and its noise."""
        return self.part(part).spread(self.index(candidate), self.index(against), range(len(self.tasks)))

    def total(self, candidate: str, part: str = "test", against: str = BASELINE, level: float = 0.95) -> Interval:
        """Mean gain over tasks with its interval over seeds and examples: 1 - geometric mean of the loss ratios."""
        return self._interval(candidate, part, against, range(len(self.tasks)), level)

    def per_task(self, candidate: str, part: str = "test", against: str = BASELINE) -> list[Interval]:
        """Gain of each task with its 95 % interval over seeds and examples."""
        return [self._interval(candidate, part, against, [task]) for task in range(len(self.tasks))]

    def _interval(self, candidate: str, part: str, against: str, tasks: Sequence[int], level: float = 0.95) -> Interval:
        return self.part(part).gain(self.index(candidate), self.index(against), tasks, level)

    def extended(self, name: str, grouping: Grouping, parts: Mapping[str, NDArray[np.float32]]) -> Comparison:
        """With one more candidate, whose losses (seeds, labels) are given for each part."""
        labels = {part: self.labels[part].extended(values) for part, values in parts.items()}
        means = {part: losses.means(len(self.tasks)) for part, losses in labels.items()}
        sources = [self._serving(grouping, task) for task in range(len(self.tasks))] if self.metrics else []
        return replace(
            self,
            candidates=(*self.candidates, name),
            groupings=(*self.groupings, grouping),
            validation=means["validation"],
            test=means["test"],
            labels=labels,
            metrics=tuple(metric.extended(sources) for metric in self.metrics),
        )

    def _serving(self, grouping: Grouping, task: int) -> int:
        """A candidate whose model of a task is that of a grouping."""
        group = sorted(grouping.groups[grouping.serves[task]])
        own = (sorted(other.groups[other.serves[task]]) for other in self.groupings)
        return next(number for number, other in enumerate(own) if other == group)

    def n_models(self, candidate: str) -> int:
        """Number of models that the candidate serves."""
        return len(self.groupings[self.index(candidate)].groups)

    def to_dict(self) -> dict[str, Any]:
        """The summary that reports show: intervals, not raw losses."""
        rows = []
        for position, name in enumerate(self.candidates):
            parts = {part: self.per_task(name, part) for part in ("validation", "test")}
            tasks = [
                {
                    "name": task,
                    "validation": parts["validation"][t].to_dict(),
                    "test": parts["test"][t].to_dict(),
                    "loss": {
                        "validation": float(self.validation[position, :, t].mean()),
                        "test": float(self.test[position, :, t].mean()),
                    },
                }
                for t, task in enumerate(self.tasks)
            ]
            rows.append(
                {
                    "name": name,
                    "models": self.n_models(name),
                    "groups": [[self.tasks[t] for t in group] for group in self.groupings[position].groups],
                    "total": {part: self.total(name, part).to_dict() for part in ("validation", "test")},
                    "over_one_model": {
                        part: self.total(name, part, against=JOINT).to_dict() for part in ("validation", "test")
                    },
                    "tasks": tasks,
                }
            )
        noise = "training seeds and the examples" if self.labels else "training seeds"
        interval = f"95 % interval over {len(self.seeds)} {noise}"
        found: dict[str, Any] = {
            "baseline": BASELINE, "one_model": JOINT, "seeds": list(self.seeds), "interval": interval,
            "candidates": rows,
        }  # fmt: skip
        if self.metrics:
            joint = self.index(JOINT)
            found["metrics"] = [metric.to_dict(self.candidates, self.tasks, joint) for metric in self.metrics]
        if self.decided_by is not None:
            found["decided_by"] = self.decided_by
        return found if self.halving is None else {**found, "halving": self.halving.to_dict()}

    def save(self, path: str | Path) -> Path:
        """Write everything into one safetensors file, label losses included; whole or not at all.

        Raises:
            StoreError: when the file cannot be written.
        """
        atomic_write(path, self.to_bytes())
        return user_path(path)

    def to_bytes(self) -> bytes:
        """The content of the file that :meth:`save` writes; it has a checksum."""
        facts = {
            "tasks": list(self.tasks),
            "candidates": list(self.candidates),
            "groupings": [grouping.to_dict() for grouping in self.groupings],
            "seeds": list(self.seeds),
            "halving": None if self.halving is None else self.halving.to_dict(),
        }
        if self.metrics:
            facts |= {"metrics": [metric.name for metric in self.metrics], "decided_by": self.decided_by}
        arrays: dict[str, NDArray[Any]] = {"validation": self.validation, "test": self.test}
        for number, metric in enumerate(self.metrics):
            arrays.update({f"metrics/{number}/{name}": value for name, value in metric.to_arrays().items()})
        for part, losses in self.labels.items():
            known = {name: value for name, value in vars(losses).items() if value is not None}
            arrays.update({f"labels/{part}/{name}": value for name, value in known.items()})
        return pack(_KIND, facts, {name: torch.tensor(value) for name, value in arrays.items()})

    @staticmethod
    def load(path: str | Path) -> Comparison:
        """The inverse of :meth:`save`.

        Raises:
            StoreError: when the file cannot be read, is damaged or is something else.
        """
        data, tensors = read_sealed(_KIND, path)
        with reading(path, "a comparison"):
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            labels: dict[str, LabelLosses] = {}
            for part in ("validation", "test"):
                if f"labels/{part}/values" in arrays:
                    values, task, row = (arrays[f"labels/{part}/{name}"] for name in ("values", "task", "row"))
                    labels[part] = LabelLosses(values, task, row, arrays.get(f"labels/{part}/level"))
            found = Comparison(
                tuple(text(name) for name in data["tasks"]),
                tuple(text(name) for name in data["candidates"]),
                tuple(Grouping.from_dict(grouping) for grouping in data["groupings"]),
                tuple(whole(seed) for seed in data["seeds"]),
                arrays["validation"],
                arrays["test"],
                labels,
                Halving.from_dict(data["halving"]) if data.get("halving") else None,
                tuple(_metric(number, text(name), arrays) for number, name in enumerate(data.get("metrics") or ())),
                None if data.get("decided_by") is None else text(data["decided_by"]),
            )
            found._check()
            if found.halving is not None:
                found.halving.lines()
                found.halving.to_dict()
        return found

    def _check(self) -> None:
        """Raise ValueError when parts that were read do not fit together."""
        shape = (len(self.candidates), len(self.seeds), len(self.tasks))
        fits = 0 not in shape and len(set(self.candidates)) == shape[0] and {BASELINE, JOINT} <= set(self.candidates)
        fits &= len(self.groupings) == shape[0] and all(each.tasks == self.tasks for each in self.groupings)
        for losses in (self.validation, self.test):
            fits &= losses.shape == shape and losses.dtype == np.float64
        for each in self.labels.values():
            fits &= each.values.dtype == np.float32 and each.values.shape == (*shape[:2], len(each.task))
            fits &= each.task.dtype == each.row.dtype == np.int64 and each.task.shape == each.row.shape
            fits &= each.level is None or (each.level.dtype == np.float64 and each.level.shape == shape[2:])
            fits &= bool((np.diff(each.task) >= 0).all()) and set(each.task.tolist()) == set(range(shape[2]))
        for metric in self.metrics:
            fits &= metric.best.shape == metric.sign.shape == shape[2:] and set(metric.parts) == {"validation", "test"}
            fits &= all(one.draws.shape[:3] == shape and one.floor.shape == shape[2:] for one in metric.parts.values())
        fits &= self.decided_by is None or self.decided_by in [metric.name for metric in self.metrics]
        if not fits:
            raise ValueError("its parts do not fit together")

    def _repr_html_(self) -> str:
        """A table for notebooks: every candidate with its models and its gain against single-task training."""
        rows = [(name, self.n_models(name), self.total(name)) for name in self.candidates]
        return html_table(("candidate", "models", "mean gain on test data"), rows)

    def to_frame(self) -> pd.DataFrame:
        """One row per candidate, seed and task, with both losses and gains (needs pandas, extra ``table``)."""
        pandas = require("pandas", extra="table", purpose="Comparison.to_frame()")
        gains = {part: self.gains(part) for part in ("validation", "test")}
        rows = [
            {
                "candidate": name,
                "seed": seed,
                "task": task,
                "validation_loss": self.validation[c, s, t],
                "test_loss": self.test[c, s, t],
                "validation_gain": gains["validation"][c, s, t],
                "test_gain": gains["test"][c, s, t],
                **{f"{part}_{m.name}": m.values(part)[c, s, t] for m in self.metrics for part in m.parts},
            }
            for c, name in enumerate(self.candidates)
            for s, seed in enumerate(self.seeds)
            for t, task in enumerate(self.tasks)
        ]
        return pandas.DataFrame(rows)

    def plot(self) -> Any:
        """Total test gain of every candidate with its interval (needs matplotlib, extra ``plot``). Returns the axes."""
        pyplot = require("matplotlib.pyplot", extra="plot", purpose="Comparison.plot()")
        _, axes = pyplot.subplots(figsize=(6, 0.5 + 0.4 * len(self.candidates)), layout="constrained")
        for row, name in enumerate(self.candidates):
            interval = self.total(name)
            axes.plot(100 * interval.mean, row, "o", color="C0")
            if np.isfinite(interval.low):
                axes.plot([100 * interval.low, 100 * interval.high], [row, row], color="C0")
        axes.axvline(0, color="0.6", linewidth=1)
        axes.set_yticks(range(len(self.candidates)), self.candidates)
        axes.invert_yaxis()
        axes.set_xlabel(f"mean gain against {BASELINE} on test data, % (95 % interval)")
        return axes


def _metric(number: int, name: str, arrays: Mapping[str, NDArray[Any]]) -> MetricValues:
    start = f"metrics/{number}/"
    return MetricValues.from_arrays(
        name, {key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)}
    )
