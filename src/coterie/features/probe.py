"""Finding out which way of differentiating a model supports, and which module stands in the way."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coterie._surface import warn
from coterie.errors import CoterieError, FallbackWarning, ModelError
from coterie.features.directions import Directions
from coterie.features.forward import directional
from coterie.features.hooked import Hooks
from coterie.features.program import MarginProgram
from coterie.features.reverse import gradients
from coterie.features.storage import Pairs
from coterie.workload.graph import whole_pass


@dataclass(frozen=True)
class Backend:
    """A way of differentiating.

    Attributes:
        mode: ``"forward"`` or ``"reverse"``.
        way: ``"hooks"``, ``"stacked"`` or ``"one by one"``, see :class:`coterie.features.plan.FeaturePlan`.
    """

    mode: str
    way: str

    @property
    def batched(self) -> bool:
        """Whether directions (or examples) go through the model together."""
        return self.way != "one by one"


class _Trace:
    """The module that was running when something failed."""

    def __init__(self) -> None:
        self.running: list[str] = []


@contextmanager
def _traced(model: nn.Module) -> Generator[_Trace]:
    trace = _Trace()

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: trace.running.append(name)

    def leave(*_: object) -> None:
        trace.running.pop()

    hooks = []
    for name, module in model.named_modules():
        label = f"`{name or 'the model'}` ({type(module).__name__})"
        hooks.append(module.register_forward_pre_hook(enter(label)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


def _attempt(model: nn.Module, work: Callable[[], object]) -> str | None:
    """None when the work succeeds, else who failed and why, in one line."""
    with _traced(model) as trace:
        try:
            work()
        except CoterieError:
            raise
        except Exception as error:  # a user's module under a transform may raise anything
            where = trace.running[-1] if trace.running else "the model's forward"
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            return f"{where}: {reason.strip()[:240]}"
    return None


def choose_backend(
    program: MarginProgram,
    jobs: Sequence[tuple[MarginProgram, Directions]],
    pairs: Pairs,
    mode: str,
    *,
    hooks: Hooks | None = None,
) -> tuple[Backend, str | None]:
    """The first way that works on two rows, with the reason why a faster one was given up.

    Giving up hooks for stacked passes is no reason to tell: every model with unusual layers does.

    Args:
        program: over all parameters that any of the directions moves (reverse mode).
        jobs: directions, each with a program over the parameters that they move (forward mode).
        pairs: labelled pairs.
        mode: the mode that is wanted.
        hooks: over all parameters, where the caller can take reverse-mode gradients by hooks.

    Raises:
        ModelError: when not even plain differentiation works.
    """
    rows = pairs.rows[:2]
    tasks = torch.zeros_like(rows)

    def forward(batched: bool) -> object:
        with torch.no_grad():
            return [
                directional(one, one.tangents(d.chunk(0, min(2, d.count))), *one.data(rows), batched=batched)
                for one, d in jobs
            ]

    trials: list[tuple[Backend, Callable[[], object]]] = [
        (Backend("reverse", "stacked"), lambda: gradients(program, rows, tasks, batched=True)),
        (Backend("reverse", "one by one"), lambda: gradients(program, rows, tasks, batched=False)),
    ]
    if hooks is not None:
        trials.insert(0, (Backend("reverse", "hooks"), lambda: hooks.check(_few(pairs))))
    if mode == "forward":
        trials = [
            (Backend("forward", "stacked"), lambda: forward(True)),
            (Backend("forward", "one by one"), lambda: forward(False)),
            *trials,
        ]
    if whole_pass(program.model):  # such modules are never stacked
        trials = [(backend, work) for backend, work in trials if not backend.batched]
    first = last = None
    for backend, work in trials:
        problem = _attempt(program.model, work)
        if problem is None:
            return backend, first
        if backend.way != "hooks":
            first, last = first or problem, problem
    raise ModelError(f"The model cannot be differentiated, not even one example at a time. {last}")


def _few(pairs: Pairs) -> Tensor:
    """The first, the middle and the last row; with fewer rows, some of them again."""
    return pairs.rows[torch.arange(3, device=pairs.rows.device) * (len(pairs.rows) - 1) // 2]


def warn_fallback(wanted: str, found: Backend, problem: str) -> None:
    """Say once what is used instead and what it costs."""
    if found.mode == "forward":
        instead = "Directions run through the model one at a time, which is slower."
    elif wanted == "forward":
        how = "" if found.batched else ", one example at a time,"
        instead = f"Reverse mode{how} is used instead: its cost grows with the labels of an example."
    else:
        instead = "Gradients are taken one example at a time, which is slower."
    warn(
        f"The fast path ({wanted} mode, batched) is not supported by {problem}. {instead} The result is the same.",
        FallbackWarning,
    )
