"""What a recipe makes of gradients: the optimiser, the course of its rate, clipping and the average of the parameters.

The same for one model and for stacked ones. Stacked parameters have a leading dimension of members: their gradients
are clipped member by member, and everything else works number by number.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from coterie.errors import SettingError
from coterie.workload.recipe import Recipe

#: torch's optimisers that treat each number apart, whatever the shape of the tensor that it stands in
APART = (
    torch.optim.ASGD, torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW,
    torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.Rprop, torch.optim.SGD,
)  # fmt: skip
#: what clip_grad_norm_ of torch adds to the length of a gradient before it divides by it
_TINY = 1e-6

#: parameters by name, or without names where nothing asks for them
Parameters = Mapping[str, Tensor] | Iterable[Tensor]


def make_optimizer(recipe: Recipe, parameters: Parameters) -> torch.optim.Optimizer:
    """The recipe's torch optimiser; named ones in their fused form where there is one (CPU and CUDA).

    Args:
        recipe: says which.
        parameters: what it trains; by name where the recipe has `rates`.

    Raises:
        SettingError: when a function of the user's fails, or does not return an optimiser of these parameters; or a
            name in `rates` fits no parameter.
    """
    if isinstance(parameters, Mapping):
        named = dict(cast("Mapping[str, Tensor]", parameters))
    else:
        named = {str(number): parameter for number, parameter in enumerate(parameters)}
    factors = _factors(recipe, named)
    groups: list[Any] = [named[name] for name in named]
    if factors:
        cut = {factor: [named[name] for name in named if factors[name] == factor] for factor in factors.values()}
        groups = [{"params": part} for part in cut.values()]
    optimizer = _make(recipe, groups, list(named.values()))
    if factors:
        _scale(optimizer, {id(named[name]): factor for name, factor in factors.items()})
    return optimizer


def _scale(optimizer: torch.optim.Optimizer, factors: Mapping[int, float]) -> None:
    """Multiply the rate of each group by the factor of its parameters."""
    for group in optimizer.param_groups:
        found = {factors[id(parameter)] for parameter in group["params"]}
        if len(found) > 1:
            raise SettingError(
                f"Parameter `optimizer` of the recipe put parameters with the factors {sorted(found)} of `rates` into "
                "one group. Keep the groups that the function is given, or leave `rates` out and set rates in it."
            )
        group["lr"] = group["lr"] * next(iter(found), 1.0)


def _make(recipe: Recipe, groups: list[Any], parameters: list[Tensor]) -> torch.optim.Optimizer:
    if callable(recipe.optimizer):
        return _of_user(recipe.optimizer, groups, parameters)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=fused)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate, weight_decay=decay, fused=fused)
    return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, weight_decay=decay, fused=fused)


def _of_user(make: Callable[..., Any], groups: list[Any], parameters: list[Tensor]) -> torch.optim.Optimizer:
    example = "For example optimizer=lambda parameters: torch.optim.NAdam(parameters, lr=2e-3)."
    try:
        made = make(groups)
    except Exception as error:
        raise SettingError(
            f"Parameter `optimizer` of the recipe failed with {type(error).__name__}: {error}. It is called with a "
            f"list of the parameters (of groups, with `rates`) and returns a torch optimiser. {example}"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        cause = " The likely cause is a missing return." if made is None else ""
        raise SettingError(
            f"Parameter `optimizer` of the recipe should return a torch optimiser. Found {type(made).__name__}."
            f"{cause} {example}"
        )
    if _closure(made):
        raise SettingError(
            f"Parameter `optimizer` of the recipe returned {type(made).__name__}, which evaluates the loss several "
            f"times a step. Training gives it one gradient a step. Take another one. {example}"
        )
    known = {id(parameter) for parameter in parameters}
    theirs = [p for group in made.param_groups for p in group["params"]]
    if not theirs or any(id(p) not in known for p in theirs):
        raise SettingError(
            "Parameter `optimizer` of the recipe should train the parameters that it is given, and no others. Found "
            f"{sum(id(p) not in known for p in theirs)} of {len(theirs)} that it was not given. The likely cause is a "
            f"model from outside of the function: every training has a model of its own. {example}"
        )
    return made


def _closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step needs a function that evaluates the loss."""
    try:
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    except (TypeError, ValueError):
        return False
    return closure is not None and closure.default is inspect.Parameter.empty


def _factors(recipe: Recipe, named: Mapping[str, Tensor]) -> dict[str, float]:
    """Name of a parameter -> factor of its learning rate; empty without `rates`."""
    if recipe.rates is None:
        return {}
    found = dict.fromkeys(named, 1.0)
    for part in sorted(recipe.rates, key=len):
        within = [name for name in named if name == part or name.startswith(part.rstrip(".") + ".")]
        if not within:
            raise SettingError(
                f"Parameter `rates` of the recipe: {part!r} is no module with trained parameters, nor one of them. "
                f"Parameters are {list(named)[:5]}, ... (model.named_parameters())."
            )
        found.update(dict.fromkeys(within, float(recipe.rates[part])))
    return found


def make_scheduler(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler | None:
    """The course of the learning rate over a training.

    Args:
        recipe: says which.
        optimizer: whose rates it sets.
        steps: that the training takes at most.

    Raises:
        SettingError: when a function of the user's fails or returns no scheduler.
    """
    if recipe.schedule is None or not steps:
        return None
    if not callable(recipe.schedule):
        warm = recipe.warmup if recipe.warmup >= 1 else round(recipe.warmup * steps)
        return LambdaLR(optimizer, partial(_factor, recipe.schedule, int(warm), steps))
    example = (
        "For example schedule=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)."
    )
    try:
        takes = "steps" in inspect.signature(recipe.schedule).parameters
        made = recipe.schedule(optimizer, steps=steps) if takes else recipe.schedule(optimizer)
    except Exception as error:
        raise SettingError(
            f"Parameter `schedule` of the recipe failed with {type(error).__name__}: {error}. It is called with the "
            f"optimiser, and with steps={steps} where it has a parameter of that name. {example}"
        ) from error
    if isinstance(made, ReduceLROnPlateau) or not isinstance(made, LRScheduler):
        cause = " The likely cause is a missing return." if made is None else " Rates are set without a look at losses."
        raise SettingError(
            f"Parameter `schedule` of the recipe should return a scheduler of torch.optim.lr_scheduler that is stepped "
            f"without a loss. Found {type(made).__name__}.{cause} {example}"
        )
    return made


def _factor(name: str, warm: int, steps: int, step: int) -> float:
    """Share of the full rate at a step, counted from 0."""
    if step < warm:
        return step / warm
    part = (step - warm) / max(1, steps - warm)
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * part))
    return 1.0 - part if name == "linear" else 1.0


def rehearse(recipe: Recipe, parameters: Mapping[str, Tensor], steps: int) -> None:
    """Go through the optimiser and the schedule of a training without training anything.

    Raises:
        SettingError: when a function of the recipe's does not return what it should, or a schedule ends too early.
    """
    stepper = Stepper(recipe, parameters, steps, stacked=False)
    stepper.optimizer.step()  # nothing has a gradient
    if "schedule" in recipe.functions:
        for _ in range(steps):
            stepper.stepped()


class Stepper:
    """Optimiser, schedule, clipping and average of one training, or of a stack of them.

    Args:
        recipe: says which.
        parameters: what is trained, by name.
        steps: that the training takes at most.
        stacked: whether the parameters have a leading dimension of members.
    """

    def __init__(self, recipe: Recipe, parameters: Mapping[str, Tensor], steps: int, *, stacked: bool) -> None:
        self._parameters, self._stacked, self._steps = parameters, stacked, steps
        self._decay = recipe.ema
        self._average: dict[str, Tensor] | None = None
        #: of the parameters
        self.optimizer = make_optimizer(recipe, parameters)
        if recipe.clip_norm is not None:
            self._norm = recipe.clip_norm
            self.optimizer.register_step_pre_hook(self._clip)
        self._scheduler = make_scheduler(recipe, self.optimizer, steps)

    def _clip(self, *step: Any) -> None:
        del step
        trained = [p for p in self._parameters.values() if p.grad is not None]
        if not self._stacked:
            torch.nn.utils.clip_grad_norm_(trained, self._norm)
            return
        gradients = [cast("Tensor", p.grad) for p in trained]
        squares = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) ** 2 for g in gradients]
        factors = (self._norm / (torch.stack(squares).sum(0).sqrt() + _TINY)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))

    def stepped(self) -> None:
        """Take note of a step of the optimiser."""
        if self._scheduler is not None:
            try:
                self._scheduler.step()
            except Exception as error:
                raise SettingError(
                    f"Parameter `schedule` of the recipe: {type(self._scheduler).__name__} failed with "
                    f"{type(error).__name__}: {error}. A training takes up to {self._steps} steps here. A schedule "
                    "that is made for fewer is the likely cause: give a function with a parameter `steps`, as in "
                    "lambda optimizer, steps: OneCycleLR(optimizer, 0.1, total_steps=steps)."
                ) from error
        if self._decay is None:
            return
        with torch.no_grad():
            if self._average is None:
                self._average = {name: value.detach().clone() for name, value in self._parameters.items()}
                return
            for name, value in self._parameters.items():
                self._average[name].lerp_(value.detach(), 1 - self._decay)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """The parameters are their average in this block, where the recipe wants one."""
        if self._average is None:
            yield
            return
        now = {name: value.data for name, value in self._parameters.items()}
        try:
            for name, value in self._parameters.items():
                value.data = self._average[name]
            yield
        finally:
            for name, value in self._parameters.items():
                value.data = now[name]

    def select(self, index: Tensor) -> None:
        """Go on with some of the members: parameters, the optimiser's memory and the average."""
        for name, parameter in self._parameters.items():
            state = self.optimizer.state[parameter]
            for entry, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[entry] = value[index]
            parameter.grad = None
            parameter.data = parameter.data[index]
            if self._average is not None:
                self._average[name] = self._average[name][index]


def reason_of_recipe(recipe: Recipe, parameters: Mapping[str, Tensor]) -> str:
    """Why stacked models cannot be trained by a recipe; empty where they can.

    Args:
        recipe: says how.
        parameters: of one model, by name.
    """
    if recipe.autocast is not None:
        return f"autocast={recipe.autocast!r} of the recipe rounds otherwise where models are stacked"
    if recipe.compile is not False:
        return "`compile` of the recipe is for one model at a time"
    if not callable(recipe.optimizer):
        return ""
    alone, name = make_optimizer(recipe, parameters), "the optimiser of the recipe"
    if type(alone) not in APART:
        return f"{name}, {type(alone).__name__}, is not known to treat each number apart"
    twice = {key: torch.stack([value.detach()] * 2).requires_grad_() for key, value in parameters.items()}
    if _groups(alone, parameters) != _groups(make_optimizer(recipe, twice), twice):
        return f"{name} has other groups for stacked parameters, which have a dimension more"
    return ""


def _groups(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Settings and names of the parameters of each group."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    return [{**group, "params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups]
