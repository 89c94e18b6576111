"""`build_model` from what users have at hand: a module, a class, a function of the seed or of nothing."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coterie._surface import warn
from coterie.errors import DataWarning, ModelError


@contextmanager
def seeded_rng(seed: int) -> Generator[None]:
    """Seed torch inside the block and put its random state back afterwards.

    CUDA is left alone unless the program uses it already: seeding it early would replace the user's own seed.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded_rng(3):
        ...     drawn = torch.rand(2)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        if devices:
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield


@dataclass(frozen=True)
class SeededBuilder:
    """Calls a user's function under a seeded copy of torch's random state, so that it need not seed anything itself.

    The result depends on the seed only and the global random state stays as it was.
    """

    build: Callable[..., nn.Module]
    takes_seed: bool

    def __call__(self, seed: int) -> nn.Module:
        """The model of a seed."""
        with seeded_rng(seed):
            return self.build(seed) if self.takes_seed else self.build()


@dataclass(frozen=True)
class FreshCopyBuilder:
    """Copies a module and draws its parameters anew.

    Every submodule with a method ``reset_parameters`` is re-initialised, children before their parents, so that a
    parent that initialises its children in its own way has the last word. Parameters that do not require a gradient (a
    frozen backbone) and parameters that no ``reset_parameters`` reaches keep the values of the module that was given.
    """

    model: nn.Module

    def __call__(self, seed: int) -> nn.Module:
        """The model of a seed."""
        model = copy.deepcopy(self.model)
        with seeded_rng(seed), torch.no_grad():
            for module in reversed(list(model.modules())):
                reset = _reset_method(module)
                if reset is not None and not _is_frozen(module):
                    reset()
            # a parent may have reset a frozen child of its own
            for kept, parameter in zip(self.model.parameters(), model.parameters(), strict=True):
                if not parameter.requires_grad:
                    parameter.copy_(kept)
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


def fresh_copies(model: Any) -> FreshCopyBuilder:
    """A `build_model` that draws the parameters of copies of a module anew; see :class:`FreshCopyBuilder`.

    Raises:
        ModelError: when it is no module or cannot be copied.

    Warns:
        DataWarning: when trainable parameters have no ``reset_parameters`` and so keep their values for all seeds.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"Parameter `model` should be a torch.nn.Module. Found {type(model).__name__}. A function or a class that "
            "makes one is passed as `build_model=` instead."
        )
    try:
        kept = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"Parameter `model`: a {type(model).__name__} cannot be copied with copy.deepcopy ({error}). Pass "
            "`build_model=lambda seed: ...`, which makes a new one for each seed."
        ) from error
    stuck = sorted(_without_reset(kept))
    if stuck:
        warn(
            f"Parameter `model`: {len(stuck)} parameters keep the values they have now for every seed, because no "
            f"`reset_parameters` method reaches them: {', '.join(stuck[:5])}{', ...' if len(stuck) > 5 else ''}. Give "
            "the modules that own them such a method, or pass `build_model=lambda seed: ...` instead of `model`.",
            DataWarning,
        )
    return FreshCopyBuilder(kept)


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


def _reset_method(module: nn.Module) -> Callable[[], Any] | None:
    for name in ("reset_parameters", "_reset_parameters"):  # attention layers of torch have the second one
        method = getattr(module, name, None)
        if callable(method):
            return method
    return None


def _is_frozen(module: nn.Module) -> bool:
    """Whether the module owns parameters and none of them is trained: then it is a pretrained part to be kept."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _without_reset(model: nn.Module) -> Iterator[str]:
    """Names of trainable parameters that neither their module nor a module around it knows how to draw."""
    reached = {name for name, module in model.named_modules() if _reset_method(module) is not None}
    for name, parameter in model.named_parameters():
        owners = name.split(".")[:-1]
        chain = {".".join(owners[:depth]) for depth in range(len(owners) + 1)}
        if parameter.requires_grad and not chain & reached:
            yield name
