"""`build_model` from what users have at hand: a module, a class, a function of the seed or of nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coterie._check import choice
from coterie._random import random_numbers
from coterie._surface import warn
from coterie.errors import DataWarning, ModelError
from coterie.workload.initial import Initial, copied, decide, draw_anew, named_tensors

INITIAL = ("auto", "draw", "given")


@dataclass(frozen=True)
class SeededBuilder:
    """Calls a user's function under a seeded copy of torch's random state, so that it need not seed anything itself.

    The result depends on the seed only and the global random state stays as it was.
    """

    build: Callable[..., nn.Module]
    takes_seed: bool

    def __call__(self, seed: int) -> nn.Module:
        """The model of a seed."""
        with random_numbers(seed=seed):
            return self.build(seed) if self.takes_seed else self.build()


@dataclass(frozen=True)
class FreshCopyBuilder:
    """Copies a module and draws its parameters anew.

    Every submodule with a method ``reset_parameters`` is re-initialised, children before their parents, so that a
    parent that initialises its children in its own way has the last word. What `kept` names (a frozen backbone, loaded
    weights, gates that start at zero) and what no ``reset_parameters`` reaches keep the values that were given.
    """

    model: nn.Module
    kept: frozenset[str]

    def __call__(self, seed: int) -> nn.Module:
        """The model of a seed."""
        model = copied(self.model)
        with random_numbers(seed=seed), torch.no_grad():
            draw_anew(model)
            for (name, given), (_, drawn) in zip(named_tensors(self.model), named_tensors(model), strict=True):
                if name in self.kept:
                    drawn.copy_(given)
        return model


def seeded(build_model: Any) -> SeededBuilder:
    """A reproducible `build_model` from a function of the seed, a function without arguments, or a Module class.

    Raises:
        ModelError: when it cannot be called.

    Example:
        >>> build = seeded(lambda: nn.Linear(2, 2))
        >>> bool((build(1).weight == build(1).weight).all()), bool((build(1).weight == build(2).weight).all())
        (True, False)
    """
    if isinstance(build_model, nn.Module):
        raise ModelError(
            "Parameter `build_model` should be a function of the seed. Found the module "
            f"{type(build_model).__name__}. Pass an instance as `model=` instead."
        )
    if not callable(build_model):
        raise ModelError(
            "Parameter `build_model` should be a function of the seed that returns a torch.nn.Module. Found "
            f"{type(build_model).__name__}. For example build_model=lambda seed: Net()."
        )
    if isinstance(build_model, SeededBuilder):
        return build_model
    build: Callable[..., Any] = build_model
    return SeededBuilder(build, _takes_seed(build))


def fresh_copies(model: Any, initial: str = "auto") -> FreshCopyBuilder:
    """A `build_model` that draws the parameters of copies of a module anew; see :class:`FreshCopyBuilder`.

    Args:
        model: the module.
        initial: ``"auto"`` draws what is as its ``reset_parameters`` leaves it, and keeps what was loaded, trained or
            set; ``"draw"`` draws all that is trained; ``"given"`` keeps everything.

    Raises:
        ModelError: when it is no module, cannot be copied, or has no numbers yet.
        SettingError: when `initial` is something else.

    Warns:
        DataWarning: when trained parameters have the same values for all seeds, saying which.

    Cost: three to 32 draws of the parameters.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"Parameter `model` should be a torch.nn.Module. Found {type(model).__name__}. A function or a class that "
            "makes one is passed as `build_model=` instead."
        )
    choice(initial, "initial", INITIAL)
    refuse_meta(model)
    try:
        given = copied(model)
    except Exception as error:
        raise ModelError(
            f"Parameter `model`: a {type(model).__name__} cannot be copied with copy.deepcopy ({error}). Pass "
            "`build_model=lambda seed: ...`, which makes a new one for each seed."
        ) from error
    with random_numbers(seed=0), torch.no_grad():
        decided = decide(model, initial)
    if decided.same:
        warn(_same(decided), DataWarning)
    return FreshCopyBuilder(given, decided.kept)


def refuse_meta(model: nn.Module) -> None:
    """Raise ModelError when parameters are on the meta device, where they have a shape and no numbers."""
    meta = [name for name, tensor in named_tensors(model) if tensor.is_meta]
    if meta:
        raise ModelError(
            f"The model has parameters or buffers on the meta device, without numbers: {', '.join(meta[:3])}. The "
            "likely cause is torch.device('meta') or init_empty_weights around its making. Make it on the CPU, or use "
            "model.to_empty(device='cpu') and initialise or load it."
        )


def _same(decided: Initial) -> str:
    def listed(names: Sequence[str]) -> str:
        return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" or "none"

    return (
        f"Parameter `model`: {len(decided.same)} parameters keep the values they have now for every seed, because they "
        "were loaded, trained, set or initialised in another way than by `reset_parameters`, or no such method reaches "
        f"them: {listed(decided.same)}. Drawn anew for each seed: {listed(decided.drawn)}. If all should be drawn, say "
        "initial='draw', or pass `build_model=lambda seed: ...`, which makes the model of a seed as you want it; "
        "initial='given' keeps all."
    )


def _takes_seed(build: Callable[..., Any]) -> bool:
    """Whether the first positional argument is the seed; a Module class that can be called bare gets none."""
    try:
        parameters = list(inspect.signature(build).parameters.values())
    except (TypeError, ValueError):  # builtins without a signature
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if inspect.isclass(build) and all(p.default is not p.empty or p.kind is p.VAR_POSITIONAL for p in positional):
        return False  # its optional arguments are widths and the like, not a seed
    return bool(positional)
