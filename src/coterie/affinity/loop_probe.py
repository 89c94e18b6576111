"""TAG, cosine and ETAP from inside a training loop of one's own; nothing is handed over."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._check import choice, flag, whole_number
from coterie._random import random_numbers
from coterie._surface import known_arguments
from coterie.affinity.affinity import Affinity
from coterie.affinity.scores.gradient_probe import TaskGradients, ahead, check_memory
from coterie.affinity.scores.probe_score import AVERAGES, filled_scores
from coterie.errors import ModelError, SettingError, require
from coterie.training.stack import open_kernels

SCORES = ("tag", "cosine", "etap")
#: losses of the tasks of a batch: (tasks,), or task -> scalar; NaN, or left out, where a task has no label in it
Losses = Tensor | Mapping[str, Tensor]
_EXAMPLE = "Write probe.step(lambda: losses_of(batch)), with a tensor of one loss a task or a mapping of task to loss."


@known_arguments
class LoopProbe:
    """Measures how tasks influence each other while a model is trained on all of them by a loop of the user's.

    Every `every` steps :meth:`step` looks at the gradients of the tasks' losses of the shared parameters, and at what a
    step of the optimiser for one task alone would do to the losses of all others. Model, optimiser, gradients and
    random numbers are left as they were, and the training goes on as without.

    Args:
        model: in training; in evaluation mode while it is measured.
        optimizer: of the model, for the look ahead; None leaves TAG out.
        tasks: their names.
        every: steps from one measurement to the next; the first is at the first step.
        shared: names of modules or parameters that tasks share; None finds them at the first measurement: parameters,
            of which some row has a gradient of more than one task.
        lookahead: whether TAG is measured, which takes a forward pass a task.
        memory: bytes that the gradients of all tasks may take.

    Attributes:
        history: for each measurement ``step``, ``cosine`` (mean over pairs of tasks) and ``conflicts`` (share of pairs
            whose gradients point away from each other): curves to log.

    Raises:
        SettingError: when an argument is out of range, or nothing is called so in the model.

    Cost: a measurement takes a forward pass, the backward passes of all tasks through the shared parameters, and for
    TAG a forward pass a task.

    Source: the scores are those of ``method="tag"``, ``"cosine"`` and ``"etap"``, whose pages name the papers.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), 0.1)
        >>> x, y = torch.randn(8, 3), torch.randn(8, 2)
        >>> found = LoopProbe(net, optimizer, ["a", "b"], every=1)
        >>> row = found.step(lambda: ((net(x) - y) ** 2).mean(0))
        >>> found.affinity("cosine").values.shape
        (2, 2)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        tasks: Sequence[str],
        *,
        every: int = 10,
        shared: Sequence[str] | None = None,
        lookahead: bool = True,
        memory: int = 2**30,
    ) -> None:
        flag(lookahead, "lookahead")
        self.tasks = _names(tasks)
        self.every, self.memory = whole_number(every, "every", low=1), memory
        self.model, self.optimizer, self._lookahead = model, optimizer, lookahead
        self.steps = 0
        self.history: list[dict[str, float]] = []
        self._wanted = None if shared is None else list(shared)
        self._gradients: TaskGradients | None = None

    def step(self, losses: Callable[[], Losses] | Losses) -> dict[str, float] | None:
        """Count a step, and measure when it is time; call it once a step, at any place before the optimiser's step.

        Args:
            losses: a function without arguments that gives the losses of the present batch, one a task, with their
                graph; it is called again for the look ahead. Or the losses themselves, whose graph stays usable, in the
                mode the model was in: then TAG is left out.

        Returns:
            What was added to `history`, or None where nothing was measured.

        Raises:
            SettingError: when there is not one loss a task, or losses have no graph.
            ModelError: when a loss is infinite, or no parameter is shared.
        """
        due = self.steps % self.every == 0
        self.steps += 1
        if not due:
            return None
        if not callable(losses):
            return self._measure(losses, None)
        with self._evaluating():
            return self._measure(losses(), losses)

    def affinity(self, method: str = "tag", *, average: str = "ratios") -> Affinity:
        """The mean over all measurements so far, as ``coterie.estimate_affinity(method=...)`` gives it.

        Args:
            method: ``"tag"``, ``"cosine"`` or ``"etap"``.
            average: ``"ratios"`` or ``"pooled"``, as those methods have it.

        Raises:
            SettingError: when it was not measured.
        """
        choice(method, "method", SCORES)
        choice(average, "average", AVERAGES)
        sums = {} if self._gradients is None else self._gradients.sums
        counts: NDArray[np.float64] = sums.get(f"n_{method}", np.zeros((0, 0)))
        if not counts.any():
            hint = " Give an optimiser, lookahead=True, and a function to step()." if method == "tag" else ""
            raise SettingError(
                f"Parameter `method`={method!r} was not measured in {self.steps} steps.{hint} Call probe.step(losses) "
                "at every step of the training."
            )
        above, below = (f"above_{method}", f"below_{method}") if average == "pooled" else (method, f"n_{method}")
        with np.errstate(invalid="ignore", divide="ignore"):
            values, _ = filled_scores(sums[above] / sums[below])
        return Affinity(values, self.tasks, counts.astype(np.int64), "raw", method)

    @contextmanager
    def _evaluating(self) -> Generator[None]:
        """Evaluation mode, kernels that can be pulled for all tasks at once, and random numbers that stay."""
        modes = {module: module.training for module in self.model.modules()}
        device = next(self.model.parameters()).device
        recurrent = any(isinstance(module, nn.RNNBase) for module in modes)
        self.model.eval()
        try:
            with random_numbers(device), open_kernels(recurrent=recurrent), torch.enable_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def _measure(self, given: Losses, again: Callable[[], Losses] | None) -> dict[str, float] | None:
        values = self._read(given)
        seen = [number for number, value in enumerate(values) if not bool(value.isnan())]
        if not seen:
            return None
        means = torch.stack([values[number] for number in seen])
        if not means.requires_grad:
            raise SettingError(f"Parameter `losses` has no graph, so there are no gradients. {_EXAMPLE}")
        before = means.detach().double().cpu().numpy()
        if not np.isfinite(before).all():
            name = self.tasks[seen[int(np.flatnonzero(~np.isfinite(before))[0])]]
            raise ModelError(
                f"The loss of task {name!r} is infinite at step {self.steps - 1}: the training has diverged."
            )
        measured = self._gradients or self._find(means)
        gradients = measured.gradients(means)
        gram = measured.products(seen, gradients, before)
        if self._lookahead and self.optimizer is not None and again is not None:
            self._look(measured, seen, gradients, before, again)
        length = np.sqrt(np.diagonal(gram))
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = (gram / np.outer(length, length))[~np.eye(len(seen), dtype=bool)]
        known = cosine[np.isfinite(cosine)]
        row = {
            "step": float(self.steps - 1),
            "cosine": float(known.mean()) if known.size else math.nan,
            "conflicts": float((known < 0).mean()) if known.size else math.nan,
        }
        self.history.append(row)
        return row

    def _read(self, given: Any) -> list[Tensor]:
        """One scalar a task, NaN where it has no label."""
        if isinstance(given, Mapping):
            named = cast("Mapping[str, Tensor]", given)
            unknown = [name for name in named if name not in self.tasks]
            if unknown:
                raise SettingError(f"Parameter `losses` has losses of {unknown[:5]}; the tasks are {self.tasks[:5]}.")
            missing = torch.tensor(math.nan)
            values = [named.get(name, missing) for name in self.tasks]
        elif isinstance(given, Tensor) and given.dim() == 1:
            values = list(given)
        else:
            what = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise SettingError(f"Parameter `losses` should give one loss for each task. Found {what}. {_EXAMPLE}")
        if len(values) != len(self.tasks) or any(value.dim() for value in values):
            raise SettingError(
                f"Parameter `losses` should give {len(self.tasks)} numbers, one a task. Found {len(values)}, of shapes "
                f"{[tuple(value.shape) for value in values[:3]]}. Take the mean over the rows of the batch. {_EXAMPLE}"
            )
        return values

    def _find(self, means: Tensor) -> TaskGradients:
        """The shared parameters, once they are known."""
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if self._wanted is not None:
            for part in self._wanted:
                if not any(name == part or name.startswith(part + ".") for name in named):
                    raise SettingError(
                        f"Parameter `shared`: {part!r} is no module with trained parameters, nor one of them. They "
                        f"are {list(named)[:5]}, ..."
                    )
            chosen = [p for n, p in named.items() if any(n == w or n.startswith(w + ".") for w in self._wanted)]
        else:
            chosen = _shared(means, list(named.values()))
        if not chosen:
            raise ModelError(
                "No parameter has gradients of more than one task of the first batch that was measured, so there is "
                "nothing to compare. Name what tasks share: shared=['trunk']."
            )
        need = check_memory(chosen, len(self.tasks), self.memory)
        at_once = max(1, int(len(self.tasks) * self.memory // (4 * max(1, need))))
        self._gradients = TaskGradients(chosen, len(self.tasks), min(at_once, len(self.tasks)))
        return self._gradients

    @torch.no_grad()
    def _look(
        self,
        measured: TaskGradients,
        seen: list[int],
        gradients: list[Tensor],
        before: NDArray[np.float64],
        again: Callable[[], Losses],
    ) -> None:
        """Losses of all targets after a step of the optimiser for each source alone."""
        shared = measured.parameters
        optimizer: Any = self.optimizer
        optimizer = getattr(optimizer, "optimizer", optimizer)  # what Lightning and Accelerate wrap
        present, after = [p.data for p in shared], np.zeros((len(seen), len(seen)))
        moved: list[Tensor] = []
        try:
            for place in range(len(seen)):
                part = place % measured.at_once
                if not part:  # steps for as many tasks as may be held
                    moved = ahead(optimizer, shared, [g[place : place + measured.at_once] for g in gradients])
                for parameter, value in zip(shared, moved, strict=True):
                    parameter.data = value[part]
                values = self._read(again())
                after[:, place] = [float(values[number]) for number in seen]
                for parameter, value in zip(shared, present, strict=True):
                    parameter.data = value
        finally:
            for parameter, value in zip(shared, present, strict=True):
                parameter.data = value
        measured.add("tag", seen, before[:, None] - after, np.abs(before)[:, None])

    def lightning(self, losses: Callable[[Any, Any], Losses]) -> Any:
        """A callback for a Lightning Trainer that measures before each training step.

        Args:
            losses: ``losses(module, batch)`` -> the losses of a batch.

        Raises:
            MissingDependencyError: without Lightning.
        """
        lightning = require("lightning", extra="test", purpose="LoopProbe.lightning()")
        outer = self

        class LightningProbe(lightning.Callback):
            def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
                del batch_idx
                outer.optimizer = outer.optimizer or trainer.optimizers[0]
                row = outer.step(lambda: losses(module, batch))
                if row is not None and trainer.logger is not None:
                    named = {f"gradient_{name}": value for name, value in row.items() if name != "step"}
                    trainer.logger.log_metrics(named, step=trainer.global_step)

        return LightningProbe()

    def transformers(self, losses: Callable[[Any, Any], Losses]) -> Any:
        """A callback for a Trainer of transformers that measures before each step of the optimiser.

        Args:
            losses: ``losses(model, inputs)`` -> the losses of a batch, with the inputs as the model got them; of the
                last piece where gradients are accumulated.

        Raises:
            MissingDependencyError: without transformers.
        """
        transformers = require("transformers", extra="language", purpose="LoopProbe.transformers()")
        outer, held = self, dict[str, Any]()

        def keep(module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
            del args
            if module.training:
                held["inputs"] = inputs

        class TransformersProbe(transformers.TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                held["hook"] = given["model"].register_forward_pre_hook(keep, with_kwargs=True)

            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                outer.optimizer = outer.optimizer or given["optimizer"]
                outer.step(lambda: losses(given["model"], held["inputs"]))

            def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                held["hook"].remove()

        return TransformersProbe()


def _names(tasks: Any) -> tuple[str, ...]:
    listed = [] if isinstance(tasks, str) else list(tasks)
    if len(listed) < 2 or len(set(listed)) < len(listed) or not all(isinstance(name, str) for name in listed):
        raise SettingError(f"Parameter `tasks` should be at least two different names. Found {tasks!r:.80}.")
    return tuple(listed)


def _shared(means: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Parameters of which some row has a gradient of more than one task."""
    hits: list[Any] = [None] * len(parameters)
    for task in range(len(means)):
        found = torch.autograd.grad(means[task], parameters, retain_graph=True, allow_unused=True)
        for number, gradient in enumerate(cast("tuple[Tensor | None, ...]", found)):
            if gradient is not None:
                own = (gradient != 0).reshape(len(gradient), -1).any(1) if gradient.dim() else gradient != 0
                hits[number] = own.long() if hits[number] is None else hits[number] + own.long()
    return [p for p, hit in zip(parameters, hits, strict=True) if hit is not None and int(hit.max()) > 1]


@known_arguments
def probe(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    tasks: Sequence[str],
    *,
    every: int = 10,
    shared: Sequence[str] | None = None,
    lookahead: bool = True,
    memory: int = 2**30,
) -> LoopProbe:
    """A probe for a training loop of one's own: TAG, cosine and ETAP from ``probe.step(losses)``.

    The arguments are those of :class:`coterie.affinity.loop_probe.LoopProbe`, which it returns.

    Example:
        >>> net = nn.Linear(3, 4)
        >>> probe(net, None, ["a", "b"], every=5).every
        5
    """
    return LoopProbe(model, optimizer, tasks, every=every, shared=shared, lookahead=lookahead, memory=memory)
