"""Gradients of one layer's parameters, example by example, from its inputs and the gradients of its outputs.

One ordinary backward pass of a batch has, at every layer, the gradient of each example's own margin with respect to the
layer's outputs. With the layer's inputs that is all that the gradient of its parameters needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

#: numbers of per-example gradients of one parameter that are formed at once, and that are kept for all directions
_FORMED, _KEPT = 2**21, 2**23


class HooksUnsupportedError(RuntimeError):
    """Hooks cannot give the gradients of this model; another way must. Never reaches the user."""


def refuse_unsupported(module: nn.Module, label: str) -> None:
    """Raise for a module whose parameters' gradients do not follow from its own inputs and outputs.

    Raises:
        HooksUnsupportedError: it has modules of its own, or gradients that depend on the whole batch.
    """
    if next(module.children(), None) is not None:
        raise HooksUnsupportedError(f"`{label}` has parameters of its own beside modules of its own")
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        raise HooksUnsupportedError(f"`{label}` changes its weights or gradients by the batch")


def held(size: int, rows: int) -> int:
    """Examples whose gradients of a parameter of `size` numbers are held together: all, or those of a block."""
    return rows if rows * size <= _KEPT else _block(size, rows)


def _block(size: int, rows: int) -> int:
    return max(1, min(rows, _FORMED // max(1, size)))


class LayerGradient:
    """Gradients of n examples with respect to one parameter, at one call of its module.

    They are formed in blocks of examples, when they are needed: for the type of layer at hand in one product, else by
    differentiating the module alone, all examples together.

    Args:
        module: the layer.
        attribute: name of the parameter in the module.
        inputs: what the module was called with; example by example in the first dimension, which n divides.
        slopes: gradient of each example's margin with respect to the module's outputs.
        rows: number of examples n.
        dtype: type of the numbers of the features.

    Raises:
        HooksUnsupportedError: n does not divide the first dimension.

    Example:
        >>> layer, x, slopes = nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0], [10.0]])
        >>> gradient = LayerGradient(layer, "weight", x, slopes, 2, torch.float32)
        >>> gradient.project(torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])).tolist()
        [[1.0, 3.0], [30.0, 70.0]]
    """

    def __init__(
        self, module: nn.Module, attribute: str, inputs: Tensor, slopes: Tensor, rows: int, dtype: torch.dtype
    ) -> None:
        self._module, self._attribute = module, attribute
        self._inputs, self._slopes = _by_example(inputs, rows), _by_example(slopes, rows)
        self._rows, self._dtype = rows, dtype
        self._formed: dict[int, Tensor] = {}

    def project(self, chunk: Tensor) -> Tensor:
        """(n, c) scalar products with directions (c, *shape)."""
        chunk = chunk.to(self._slopes.device, self._dtype)
        if _kind(self._module) is nn.Embedding:
            return _project_embedding(self._module, self._inputs, self._slopes.to(self._dtype), chunk)
        flat = chunk.reshape(len(chunk), -1)
        step = _block(flat.shape[1], self._rows)
        keep = held(flat.shape[1], self._rows) == self._rows
        parts = []
        for start in range(0, self._rows, step):
            formed = self._formed.get(start)
            formed = self._form(start, start + step) if formed is None else formed
            if keep:
                self._formed[start] = formed
            parts.append(formed @ flat.T)
        return torch.cat(parts)

    def _form(self, start: int, stop: int) -> Tensor:
        """Gradients (examples, numbers of the parameter) of a block of examples."""
        rule = _RULES.get(_kind(self._module), _by_differentiation)
        own = rule(self._module, self._attribute, self._inputs[start:stop], self._slopes[start:stop], self._dtype)
        return own.reshape(len(own), -1).to(self._dtype)


def _by_example(value: Tensor, rows: int) -> Tensor:
    """(n, share of an example, ...)."""
    if value.dim() == 0 or value.shape[0] % rows:
        raise HooksUnsupportedError(f"a layer's tensor {tuple(value.shape)} does not divide over {rows} examples")
    return value.reshape(rows, value.shape[0] // rows, *value.shape[1:])


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """The known type of layer that a module is, with nothing changed in what it does."""
    for kind in (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding):
        if isinstance(module, kind) and type(module).forward is kind.forward and "forward" not in vars(module):
            return kind
    return None


def _linear(module: Any, attribute: str, inputs: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over the positions of slope x input."""
    del module
    flat = slopes.to(dtype).reshape(len(slopes), -1, slopes.shape[-1])
    if attribute == "bias":
        return flat.sum(1)
    return flat.mT @ inputs.to(dtype).reshape(len(inputs), -1, inputs.shape[-1])


def _norm(module: Any, attribute: str, inputs: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over the positions of slope x normalised input, number by number."""
    shape = list(module.normalized_shape)
    slopes = slopes.to(dtype)
    if attribute == "weight":
        normed = inputs.to(dtype)
        if isinstance(module, nn.LayerNorm):
            normed = nn.functional.layer_norm(normed, shape, None, None, module.eps)
        else:
            # without a value of its own, eps is that of the type which the module itself ran in
            eps = torch.finfo(inputs.dtype).eps if module.eps is None else module.eps
            normed = nn.functional.rms_norm(normed, shape, None, eps)
        slopes = slopes * normed
    return slopes.reshape(len(slopes), -1, *shape).sum(1)


def _by_differentiation(
    module: nn.Module, attribute: str, inputs: Tensor, slopes: Tensor, dtype: torch.dtype
) -> Tensor:
    """Any module that takes one tensor: its own vector-Jacobian product, example by example under vmap."""
    del dtype
    parameter = module.get_parameter(attribute)

    def one(value: Tensor, slope: Tensor) -> Tensor:
        call: Callable[[Tensor], Tensor] = lambda own: functional_call(module, {attribute: own}, (value,))  # noqa: E731
        return vjp(call, parameter.detach())[1](slope)[0]

    return vmap(one)(inputs, slopes)


def _project_embedding(module: Any, numbers: Tensor, slopes: Tensor, chunk: Tensor) -> Tensor:
    """Directions are looked up as the weights were; gradients as large as the table are never formed."""
    if module.padding_idx is not None:
        slopes = slopes.masked_fill((numbers == module.padding_idx)[..., None], 0.0)
    looked_up = (nn.functional.embedding(numbers, direction) for direction in chunk)
    return torch.stack([(found * slopes).flatten(1).sum(1) for found in looked_up], 1)


Rule = Callable[[Any, str, Tensor, Tensor, torch.dtype], Tensor]
_RULES: dict[type[nn.Module] | None, Rule] = {nn.Linear: _linear, nn.LayerNorm: _norm, nn.RMSNorm: _norm}
