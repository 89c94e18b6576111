"""Modules of which most is frozen: what is not trained is held once, however many models are made."""

from __future__ import annotations

import copy
import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

#: tensor -> {(device, dtype): its copy there}, so that models that share a tensor share its copy as well
_COPIES: Any = WeakTensorKeyDictionary()


def hold_frozen(module: nn.Module) -> nn.Module:
    """Make every frozen parameter of a module (in place) a buffer that is not saved, under the same name.

    ``named_parameters()`` and ``state_dict()`` then hold what is trained (and ordinary buffers) only, so that stored
    states and served models are small. Tied tensors stay tied. The numbers are not copied.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 1))
        >>> list(hold_frozen(net).state_dict())
        ['1.weight', '1.bias']
    """
    held: dict[int, Tensor] = {}
    for child in module.modules():
        for name, parameter in list(child._parameters.items()):  # pyright: ignore[reportPrivateUsage]
            if parameter is not None and not parameter.requires_grad:
                del child._parameters[name]  # pyright: ignore[reportPrivateUsage]
                tensor = held.setdefault(id(parameter), parameter.detach())
                child.register_buffer(name, tensor, persistent=False)
    return module


def held_tensors(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Qualified name, owner and name in the owner of every buffer that is not saved."""
    for path, child in module.named_modules():
        for name in sorted(child._non_persistent_buffers_set):  # pyright: ignore[reportPrivateUsage]
            if child._buffers.get(name) is not None:  # pyright: ignore[reportPrivateUsage]
                yield f"{path}.{name}" if path else name, child, name


class FrozenModule(nn.Module):
    """A module whose frozen tensors are constants: shared by its copies, here and on every other device.

    A subclass builds its parts and calls :meth:`seal` last. Buffers that are not saved are what is shared;
    ``copy.deepcopy`` copies everything else. They are never changed in place, and never trained.

    Example:
        >>> class Net(FrozenModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.base, self.head = nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 1)
        ...         self.seal()
        >>> build = SharedBuilder(Net(), lambda net: net.head.reset_parameters())
        >>> first, second = build(0), build(1)
        >>> first.base.weight.data_ptr() == second.base.weight.data_ptr()
        True
        >>> bool((first.head.weight == second.head.weight).any())
        False
    """

    #: attributes that copies share as well (a tokenizer)
    shared_names: tuple[str, ...] = ()

    def seal(self, described: str = "") -> None:
        """Hold the frozen tensors and add their digest to what is saved, so that states know their base.

        The digest is part of the name of the buffer as well: a state of another base does not load.

        Args:
            described: whatever else makes the frozen part what it is (configuration, pooling).
        """
        hold_frozen(self)
        digest = base_digest(self, described)
        self.digest_name = f"base_digest_{digest.numpy().tobytes().hex()[:12]}"
        self.register_buffer(self.digest_name, digest)

    @property
    def base_digest(self) -> Tensor:
        """SHA-256 of the frozen part as four int64."""
        return self.get_buffer(self.digest_name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        for _, owner, name in held_tensors(self):
            tensor = owner.get_buffer(name)
            memo[id(tensor)] = tensor
        for name in self.shared_names:
            memo[id(getattr(self, name))] = getattr(self, name)
        made = self.__class__.__new__(self.__class__)
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        held = [(owner, name, owner.get_buffer(name)) for _, owner, name in held_tensors(self)]
        for owner, name, _ in held:
            owner._buffers[name] = None  # pyright: ignore[reportPrivateUsage]
        try:
            super()._apply(fn, recurse)
        finally:
            for owner, name, tensor in held:
                owner._buffers[name] = tensor  # pyright: ignore[reportPrivateUsage]
        for owner, name, tensor in held:
            owner._buffers[name] = _moved(tensor, fn)  # pyright: ignore[reportPrivateUsage]
        return self


class AdaptedModule(FrozenModule):
    """A frozen transformer with low-rank adapters, and whatever reads its hidden states; texts are its rows."""

    @property
    def transformer(self) -> Any:
        """The model of transformers, with its adapters."""
        raise NotImplementedError

    def one_pass(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(rows, n_outputs) of a batch with ``attention_mask``, in the order of its rows, from a single pass."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class SharedBuilder:
    """seed -> a copy of a template with fresh trained parameters; all copies share the template's frozen tensors.

    Give it to ``build_model=``, which calls it with torch seeded.

    Attributes:
        template: the sealed module.
        draw: draws the trained parameters of a copy anew (in place), from torch's random numbers.
        spec: JSON-ready description of the template without its frozen part; None where there is none.
    """

    template: FrozenModule
    draw: Callable[[Any], None]
    spec: dict[str, Any] | None = None

    def __call__(self, seed: int) -> nn.Module:
        """The model of a seed; torch is seeded by the caller."""
        del seed
        model: nn.Module = copy.deepcopy(self.template)
        with torch.no_grad():
            self.draw(model)
        return model


def base_digest(module: nn.Module, described: str = "") -> Tensor:
    """SHA-256 of all buffers that are not saved, as four int64; on the CPU.

    Cost: one pass over the numbers; 0.1 s for 90 MB.

    Example:
        >>> first, second = (hold_frozen(nn.Linear(2, 2).requires_grad_(False)) for _ in range(2))
        >>> bool((base_digest(first) == base_digest(second)).any())
        False
    """
    found = hashlib.sha256(described.encode())
    for label, owner, name in held_tensors(module):
        value = owner.get_buffer(name)
        found.update(f"\n{label} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            found.update(flat.view(torch.uint8).numpy().data)
    return torch.from_numpy(np.frombuffer(found.digest(), dtype="<i8").astype(np.int64))


def _moved(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """The tensor where (and in the type in which) `fn` puts tensors; made once for all that share it."""
    with torch.no_grad():
        probe = fn(tensor.new_empty(0))
    place = (probe.device, probe.dtype)
    if place == (tensor.device, tensor.dtype):
        return tensor
    copies: dict[Any, Any] = _COPIES.setdefault(tensor, {})
    known = copies.get(place)
    made: Tensor | None = known() if known is not None else None
    if made is None:
        with torch.no_grad():
            made = fn(tensor)
        copies[place] = weakref.ref(made)  # weakly: the memory of a device is free when its models are gone
        if made.dtype == tensor.dtype:
            _COPIES.setdefault(made, {})[(tensor.device, tensor.dtype)] = weakref.ref(tensor)  # the way back
    return made
