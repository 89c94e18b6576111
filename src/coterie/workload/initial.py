"""Which numbers of a module are drawn anew for each seed, and which stay as they were given."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from coterie._random import random_numbers
from coterie.errors import ModelError
from coterie.workload.workload import Batch, Workload

#: numbers of a tensor that are looked at
_SAMPLE = 4096
#: numbers that are drawn, over all draws of a module; and how many draws there are at least and at most
_BUDGET, _DRAWS = 200_000, (3, 32)
#: distance of two empirical distributions, in its standard unit; by chance larger once in 250,000 tensors
_FAR = 2.5
#: steps that bring the running estimates of a parametrisation (as of spectral norms) to its new weight
_STEPS = 20


@dataclass(frozen=True)
class Initial:
    """What becomes of the numbers of a given module.

    Attributes:
        kept: names of parameters and buffers that are put back after the modules were drawn anew.
        same: names of trained parameters that are the same for every seed although others of their kind are drawn:
            they were loaded, trained or set, or nothing draws them.
        drawn: names of parameters that are drawn anew.
    """

    kept: frozenset[str]
    same: tuple[str, ...]
    drawn: tuple[str, ...]


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; results that a module keeps between passes, as weight norms do, are copied without their history.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.last = layer.weight * 2
        >>> bool((copied(layer).last == layer.last).all())
        True
    """
    values = [value for module in model.modules() for value in vars(module).values()]
    values += [part for value in values if isinstance(value, list | tuple) for part in cast("list[Any]", value)]
    held = [value for value in values if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in held if not value.is_leaf})


def draw_anew(model: nn.Module) -> None:
    """Call every ``reset_parameters``, children before their parents, so that a parent has the last word; in place.

    Parametrised weights (``torch.nn.utils.parametrizations`` and the older hooks) are drawn as those of the plain
    module and handed through the parametrisation. Wholly frozen modules are left alone. The caller seeds torch.

    Raises:
        ModelError: when one of these methods fails.
    """
    for module in reversed(list(model.modules())):
        reset = _reset_method(module)
        if reset is None or _is_frozen(module):
            continue
        try:
            if parametrize.is_parametrized(module):
                _draw_parametrized(module)
            else:
                reset()
                _through_hooks(module)
        except Exception as error:
            raise ModelError(
                f"Parameter `model`: a {type(module).__name__} in it cannot be drawn anew: `reset_parameters` raised "
                f"{type(error).__name__}: {error}. Pass `build_model=lambda seed: ...`, which makes a new model for "
                "each seed."
            ) from error


def decide(model: nn.Module, how: str) -> Initial:
    """What to draw and what to keep of a given module.

    A tensor is drawn anew when its value could be a fresh draw: it was not written to after it was made, is no constant
    where draws are not, and is distributed like draws. Where a part of the model (what has its own name at the top)
    holds numbers that can be no draws, it was loaded or trained, and all of it is kept.

    Args:
        model: the given module; not changed. The caller seeds torch.
        how: ``"auto"``; ``"draw"``, all that can be; or ``"given"``, nothing.
    """
    tensors = {name: tensor for name, tensor in named_tensors(model) if not is_lazy(tensor) and tensor.numel()}
    parameters = {name: p for name, p in model.named_parameters() if name in tensors}
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    trained = [name for name in parameters if name not in frozen]
    if how == "given":
        return Initial(frozenset(tensors), (), ())
    draws, written = _draws(model)
    kept = set(frozen)
    if how == "auto":
        depth = _common([name.split(".") for name in parameters])
        brought = _brought(model, written)
        verdicts: dict[str, str] = {}
        given: set[str] = set()  # written to after they were made, and with more than a constant
        for name, tensor in tensors.items():
            if name not in frozen and name in draws:
                more = name in brought or tensor._version > written.get(name, tensor._version)
                verdicts[name] = _verdict(_sample(tensor), draws[name], touched=more)
                given |= {name} if more and not _constant(_sample(tensor)) else set()
        loaded = {_part(name, depth) for name, verdict in verdicts.items() if verdict == "loaded"}
        kept |= {name for name, verdict in verdicts.items() if verdict != "fresh" or _part(name, depth) in loaded}
        kept |= _with_layers(model, given) & tensors.keys()
    drawn = tuple(name for name in trained if name in draws and _varies(draws[name]) and name not in kept)
    for names in _indirect(model).values():
        kept |= _estimates(names & tensors.keys(), parameters, kept)
    fixed = {name for name in trained if name in draws and not _varies(draws[name]) and name not in kept}
    return Initial(frozenset(kept), tuple(name for name in trained if name not in drawn and name not in fixed), drawn)


def _brought(model: nn.Module, written: Mapping[str, int]) -> set[str]:
    """Names of parameters that were never written to, though making their layers does: they came from elsewhere.

    So do those of a model that was copied as a whole, and of layers that are copies of each other, as
    ``nn.TransformerEncoder`` makes them; these say nothing about where the values are from.
    """
    parameters = {name: p for name, p in model.named_parameters() if written.get(name)}
    found = {name for name, p in parameters.items() if p._version == 0}
    if len(found) == len(parameters):
        return set()
    for prefix, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
            found -= {f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters()}
    alike: dict[bytes, list[str]] = {}
    for name in found:
        alike.setdefault(_sample(parameters[name]).numpy().tobytes(), []).append(name)
    return {names[0] for names in alike.values() if len(names) == 1}


def _verdict(given: Tensor, draws: Tensor, *, touched: bool) -> str:
    """``"fresh"``: could be a draw; ``"set"``: set or initialised in another way; ``"loaded"``: trained or loaded."""
    if not _varies(draws):
        return "fresh" if torch.equal(given, draws[0]) else "set" if _constant(given) else "loaded"
    if _constant(given):
        return "set"
    if not _alike(given, draws.flatten()):
        return "set" if touched else "loaded"
    return "set" if touched else "fresh"


def _varies(draws: Tensor) -> bool:
    return bool((draws != draws[0]).any())


def _constant(values: Tensor) -> bool:
    return bool((values == values.flatten()[0]).all()) and (values.numel() > 1 or float(values) in (0.0, 1.0))


def _alike(given: Tensor, pool: Tensor) -> bool:
    """Whether values could come from the distribution of others: Kolmogorov-Smirnov, and bounds of bounded ones."""
    if not bool(torch.isfinite(given).all()):
        return False
    n, m = given.numel(), pool.numel()
    largest = float(pool.abs().max())
    if largest < 2 * float(pool.square().mean().sqrt()) and float(given.abs().max()) > largest * (1 + 12 / m):
        return False
    ordered = torch.cat([given, pool]).sort().values
    shares = [
        torch.searchsorted(part.sort().values, ordered, right=True).double() / len(part) for part in (given, pool)
    ]
    return float((shares[0] - shares[1]).abs().max()) < _FAR * (1 / n + 1 / m) ** 0.5


def _draws(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Samples (draws, numbers) of the tensors that are drawn, and how often one draw writes to each parameter.

    Draws write in other ways to what a parametrisation or a hook uses than its making did; these are not counted.
    """
    scratch = copied(model)
    tensors = {name: tensor for name, tensor in named_tensors(scratch) if not is_lazy(tensor) and tensor.numel()}
    before = {name: tensor._version for name, tensor in tensors.items()}
    size = sum(tensor.numel() for tensor in tensors.values())
    indirect = {name for names in _indirect(scratch).values() for name in names}
    draw_anew(scratch)
    written = {name: tensor._version - before[name] for name, tensor in tensors.items()}
    unseen = {n: t for n, t in tensors.items() if t.requires_grad and not written[n] and n not in indirect}
    reached = {name for name, n in written.items() if n} | _reached(scratch, unseen)
    own = [name for name in tensors if name in reached and (name not in indirect or tensors[name].requires_grad)]
    found: list[dict[str, Tensor]] = []
    for _ in range(min(max(_BUDGET // max(size, 1), _DRAWS[0]), _DRAWS[1])):
        draw_anew(scratch)
        found.append({name: _sample(tensors[name]) for name in own})
    counted = {name: n for name, n in written.items() if name in reached and name not in indirect}
    return {name: torch.stack([draw[name] for draw in found]) for name in own}, counted


def _reached(model: nn.Module, unseen: Mapping[str, Tensor]) -> set[str]:
    """Names of those parameters that a draw writes to although torch counts no writing, as through ``.data``."""
    if not unseen:
        return set()
    before = {name: tensor.detach().clone() for name, tensor in unseen.items()}
    for tensor in unseen.values():
        tensor.data.fill_(torch.nan)
    draw_anew(model)
    found = {name for name, tensor in unseen.items() if not bool(tensor.isnan().any())}
    for name in unseen.keys() - found:
        unseen[name].data.copy_(before[name])
    return found


def _sample(tensor: Tensor) -> Tensor:
    """At most so many numbers of a tensor, evenly spread, as float64 on the CPU."""
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLE)
    return (flat.abs() if flat.is_complex() else flat)[::step].to(torch.float64, copy=True).cpu()


def _common(names: list[list[str]]) -> int:
    """How many leading parts all names share, as those of a model in a wrapper do."""
    depth = 0
    while len({tuple(name[: depth + 1]) for name in names}) == 1 and all(len(name) > depth + 1 for name in names):
        depth += 1
    return depth


def _part(name: str, depth: int) -> str:
    """The part of the model that a tensor belongs to: its first name that is not common to all."""
    return ".".join(name.split(".")[: depth + 1])


def _indirect(model: nn.Module) -> dict[tuple[str, str], set[str]]:
    """What a parametrisation or an older hook makes a weight of, parameters and buffers, by layer and weight."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if parametrize.is_parametrized(module):
            for weight, parts in cast("nn.Module", module.parametrizations).named_children():
                inner = {f"{prefix}parametrizations.{weight}.{inner}" for inner, _ in named_tensors(parts)}
                found[prefix, weight] = inner
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm | SpectralNorm):
                found[prefix, hook.name] = {f"{prefix}{hook.name}{end}" for end in ("_g", "_v", "_u", "_orig")}
    return found


def _with_layers(model: nn.Module, given: set[str]) -> set[str]:
    """What the weights of layers are made of of which another parameter, as the bias, was given its numbers."""
    layers = {name.rpartition(".")[0] for name in given}
    return {name for (prefix, _), names in _indirect(model).items() if prefix[:-1] in layers for name in names}


def _estimates(names: set[str], parameters: Mapping[str, Tensor], kept: set[str]) -> set[str]:
    """Buffers of a weight all of whose parameters are kept: they belong to these values."""
    own = names & parameters.keys()
    return names - own if own and own <= kept else set()


def _draw_parametrized(module: nn.Module) -> None:
    """Draw the weights of the module without its parametrisations, then hand them through these."""
    kind = next(base for base in type(module).__mro__[1:] if not hasattr(base, "parametrizations"))
    lists = cast("dict[str, parametrize.ParametrizationList]", module.parametrizations)
    plain = cast("nn.Module", object.__new__(kind))
    fresh = {name: nn.Parameter(getattr(module, name).detach().clone()) for name in lists.keys()}  # noqa: SIM118
    plain.__dict__ = {
        **module.__dict__,
        "_parameters": {**module._parameters, **fresh},
        "_modules": {name: child for name, child in module._modules.items() if name != "parametrizations"},
    }
    cast("Callable[[], Any]", _reset_method(plain))()
    for name, value in fresh.items():
        try:
            setattr(module, name, value.detach())
        except (RuntimeError, NotImplementedError, ValueError, TypeError):  # there is no way back through it
            originals = list(lists[name].parameters(recurse=False))
            if len(originals) == 1 and originals[0].shape == value.shape:
                originals[0].copy_(value)
        if list(lists[name].buffers()):
            _settle(lists[name], lambda name=name: getattr(module, name))


def _through_hooks(module: nn.Module) -> None:
    """Hand a weight that was drawn to the hook that computes it before each pass."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            value: Tensor = getattr(module, hook.name)
            if isinstance(hook, WeightNorm):
                getattr(module, f"{hook.name}_g").copy_(torch.norm_except_dim(value, 2, hook.dim))
                getattr(module, f"{hook.name}_v").copy_(value)
            else:
                getattr(module, f"{hook.name}_orig").copy_(value)
                _settle(module, lambda hook=hook: cast("Any", hook).compute_weight(module, do_power_iteration=True))


def _settle(module: nn.Module, step: Callable[[], Any]) -> None:
    """Let running estimates follow a new weight, as they did when the module was made."""
    mode = module.training
    module.train()
    for _ in range(_STEPS):
        step()
    module.train(mode)


def _reset_method(module: nn.Module) -> Callable[[], Any] | None:
    for name in ("reset_parameters", "_reset_parameters"):  # attention layers of torch have the second one
        method = getattr(module, name, None)
        if callable(method) and not any(map(is_lazy, module.parameters())) and _needs_nothing(method):
            return cast("Callable[[], Any]", method)
    return None


def _needs_nothing(method: Callable[..., Any]) -> bool:
    try:
        inspect.signature(method).bind()
    except TypeError:
        return False
    except ValueError:  # no signature to be seen
        return True
    return True


def _is_frozen(module: nn.Module) -> bool:
    """Whether the module owns parameters and none of them is trained: then it is a pretrained part to be kept."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


#: rows that both models are asked for
_ROWS = 8
_MODULE = frozenset(vars(nn.Module()))
_WAY_OUT = (
    "Only the state_dict is kept, so what was trained would be lost: keep such numbers as parameters or with "
    "register_buffer(name, tensor), which makes them persistent unless told otherwise; make what depends on the seed a "
    "buffer as well; return tensors from get_extra_state."
)


@torch.no_grad()
def check_kept(workload: Workload, model: nn.Module, what: str) -> None:
    """Put the tensors of a model's ``state_dict`` into a fresh one and compare the outputs of both in evaluation mode.

    Args:
        workload: builds the fresh model, from seed 0, as serving does.
        model: the model; left in its mode.
        what: what was done to it, for the message.

    Raises:
        ModelError: when the outputs for a few training rows differ; names what differs beside the state.

    Cost: one building and two forward passes over eight rows.
    """
    fresh = workload.build_model(0).to(workload.labels.device)
    fresh.load_state_dict({k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}, strict=False)
    batch = workload.batch(workload.split.train[:_ROWS])
    modes = [(module, module.training) for module in model.modules()]
    try:
        found, expected = (_outputs(workload, each.eval(), batch) for each in (fresh, model))
    finally:
        for module, mode in modes:
            module.training = mode
    size = float(expected.abs().max())
    if torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * size + 1e-6, equal_nan=True):
        return
    names = _differences(model, fresh)
    raise ModelError(
        f"The model ({type(model).__name__}) keeps something outside of its state_dict: {what}, it returns "
        f"other outputs (by up to {float((found - expected).abs().max()):.2g}) than a fresh model with the same "
        f"state_dict. {_named(names)}{_WAY_OUT}"
    )


def _outputs(workload: Workload, model: nn.Module, batch: Batch) -> Tensor:
    """With the same random numbers for each model: one that draws some in evaluation mode differs from itself."""
    with random_numbers(workload.labels.device, seed=0):
        return workload.outputs(model, batch)


def _named(names: list[str]) -> str:
    if not names:
        return ""
    return f"What differs is {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}. "


def _differences(model: nn.Module, fresh: nn.Module) -> list[str]:
    """Attributes, buffers that are not persistent, and extra states in which two models differ."""
    kept, names = model.state_dict(), list[str]()
    modules = dict(fresh.named_modules())
    for path, module in model.named_modules():
        other, prefix = modules.get(path), f"{path}." if path else ""
        if other is None:
            continue
        for sort, own, theirs in (
            ("buffer", module._buffers, other._buffers),  # pyright: ignore[reportPrivateUsage]
            ("attribute", vars(module), vars(other)),
        ):
            for name, value in own.items():
                inside = name in _MODULE if sort == "attribute" else f"{prefix}{name}" in kept
                if not inside and not _same(value, theirs.get(name)):
                    names.append(f"the {sort} `{prefix}{name}`")
    return names + [f"the extra state `{name}`" for name, value in kept.items() if not isinstance(value, Tensor)]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and bool(torch.equal(first, second.to(first)))
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return bool(np.array_equal(cast("Any", first), cast("Any", second)))
    if isinstance(first, nn.Module) or callable(first):
        return True  # looked at by itself, or code
    try:
        return bool(first == second)
    except Exception:  # objects that cannot be compared say nothing
        return True


def numbers_of(model: nn.Module) -> dict[str, Any]:
    """Plain numbers among the attributes of a model's modules, by path: counters, schedules."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in _MODULE and isinstance(value, int | float)
    }
