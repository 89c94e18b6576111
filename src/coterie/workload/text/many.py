"""Adapters of many models in one pass of the transformer that they share: every row goes through those of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from coterie.workload.text.base import layer_lists
from coterie.workload.text.frozen import AdaptedModule


class ManyAdapters:
    """Rows of many models through one frozen transformer.

    The products with frozen weights are those of an ordinary batch; those with adapters (and heads) are batched over
    rows, each with the matrices of its own model. What lies below the lowest adapter is the same for all models: its
    hidden states can be taken once (:meth:`below`) and handed in ever after.

    Args:
        build: makes a model, on the device on which it is wanted. Two are made and rewired.
        cut: whether hidden states are handed in; else every pass begins with the tokens.

    Raises:
        RuntimeError: when something other than the weights of linear layers is trained, or the layers are not found.

    Source: batches of rows with different adapters as in Chen et al., "Punica: multi-tenant LoRA serving", 2023, here
        with gradients.
    """

    def __init__(self, build: Callable[[], AdaptedModule], *, cut: bool) -> None:
        self._pass = _Pass()
        self._model = build().eval()
        _without_checkpoints(self._model)
        #: names of the trained parameters
        self.trained = [name for name, value in self._model.named_parameters() if value.requires_grad]
        #: number of layers, and of the lowest one with an adapter
        self.layers, self.lowest = self._span()
        for name, child in list(self._model.named_modules()):
            if isinstance(child, nn.Linear) and child.weight.requires_grad:
                biased = child.bias is not None and child.bias.requires_grad  # pyright: ignore[reportUnnecessaryComparison]
                _put(self._model, name, _RowLinear(self._pass, name, biased))
        left = [name for name, value in self._model.named_parameters() if value.requires_grad]
        if left:
            raise RuntimeError(f"{left[0]} is trained, which is no weight of a linear layer")
        self._lower: AdaptedModule | None = None
        if cut and self.lowest:
            self._lower = build().eval()
            self._part(self._lower)

    @property
    def cut(self) -> bool:
        """Whether hidden states are handed in."""
        return self._lower is not None

    def outputs(
        self, trained: Mapping[str, Tensor], member: Tensor, batch: Mapping[str, Tensor], hidden: Tensor | None = None
    ) -> Tensor:
        """(rows, n_outputs) of a batch.

        Args:
            trained: (members, ...) the trained parameters of all models, by name.
            member: (rows,) the model of each row.
            batch: inputs of the rows.
            hidden: (rows, tokens, width) what :meth:`below` returns for these rows, where the model is cut; with as
                many tokens as the longest of them.
        """
        self._pass.trained, self._pass.member, self._pass.hidden = trained, member, hidden
        try:
            return self._model.one_pass(batch)
        finally:
            self._pass.clear()

    @torch.no_grad()
    def below(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(rows, tokens, width) hidden states below the lowest adapter; no model's own numbers are in them."""
        if self._lower is None:
            raise RuntimeError("the model is not cut")
        try:
            self._lower.one_pass(batch)
        except _ReachedError as reached:
            return reached.hidden
        raise RuntimeError("the pass does not come to the layer of the lowest adapter")

    def _span(self) -> tuple[int, int]:
        found = layer_lists(self._model.transformer)
        if len(found) != 1:
            return 0, 0
        path = next(name for name, child in self._model.named_modules() if child is found[0][1])
        inside = [name.removeprefix(f"{path}.") for name in self.trained if name.startswith(f"{path}.")]
        return len(found[0][1]), min((int(name.partition(".")[0]) for name in inside), default=0)

    def _part(self, lower: AdaptedModule) -> None:
        """Let the one model end where the other one begins."""
        above, below = (layer_lists(model.transformer)[0][1] for model in (self._model, lower))
        rows, own, last = self._pass, above[self.lowest].forward, below[self.lowest - 1].forward

        def enter(*args: Any, **given: Any) -> Any:
            args, given = _with_first(args, given, rows.hidden)
            return own(*args, **given)

        def end(*args: Any, **given: Any) -> Any:
            found = last(*args, **given)
            rows.parts = len(cast("tuple[Any, ...]", found)) if isinstance(found, tuple) else 0
            return found

        def skip(*args: Any, **given: Any) -> Any:
            hidden = _first(args, given)
            return (hidden, *[None] * (rows.parts - 1)) if rows.parts else hidden

        def reach(*args: Any, **given: Any) -> Any:
            raise _ReachedError(_first(args, given))

        for layer in above[: self.lowest]:
            layer.forward = skip
        above[self.lowest].forward, below[self.lowest - 1].forward = enter, end
        below[self.lowest].forward = reach


class _Pass:
    """What the layers of a model have to know about the pass under way."""

    trained: Mapping[str, Tensor]
    member: Tensor
    hidden: Tensor | None
    #: of what a layer returns, where that is a tuple
    parts: int = 0

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the pass."""
        self.trained, self.member, self.hidden = {}, torch.empty(0, dtype=torch.int64), None


class _RowLinear(nn.Module):
    """A linear layer of which every row of a batch has a weight of its own."""

    def __init__(self, rows: _Pass, name: str, biased: bool) -> None:
        super().__init__()
        self._rows, self._name, self._biased = rows, name, biased

    @property
    def weight(self) -> Tensor:
        """(members, out, in); peft looks at its type."""
        return self._rows.trained[f"{self._name}.weight"]

    def forward(self, x: Tensor) -> Tensor:
        """(rows, ..., out) of (rows, ..., in)."""
        member = self._rows.member
        if len(x) != len(member):
            raise RuntimeError(f"{self._name} gets {len(x)} rows of a batch of {len(member)}")
        flat = x.reshape(len(x), -1, x.shape[-1])
        weight = _taken(self.weight, member).transpose(1, 2)
        if self._biased:
            made = torch.baddbmm(_taken(self._rows.trained[f"{self._name}.bias"], member)[:, None], flat, weight)
        else:
            made = torch.bmm(flat, weight)
        return made.view(*x.shape[:-1], made.shape[-1])


class _ReachedError(Exception):
    """The layer of the lowest adapter."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _taken(values: Tensor, member: Tensor) -> Tensor:
    """The entries of some members; gradients are added up in the same order every time."""
    # on a GPU the sum of index_select has no fixed order, that of an index has; on a CPU it is the other way round
    return values.index_select(0, member) if values.device.type == "cpu" else values[member]


def _first(args: tuple[Any, ...], given: Mapping[str, Any]) -> Tensor:
    """Hidden states among the arguments of a layer: the first one."""
    return args[0] if args else next(iter(given.values()))


def _with_first(args: tuple[Any, ...], given: dict[str, Any], hidden: Tensor | None) -> tuple[tuple[Any, ...], Any]:
    if args:
        return (hidden, *args[1:]), given
    return args, {**given, next(iter(given)): hidden}


def _put(model: nn.Module, name: str, child: nn.Module) -> None:
    path, _, last = name.rpartition(".")
    owner = model.get_submodule(path)
    if isinstance(owner, nn.ModuleDict):
        owner[last] = child
    else:
        setattr(owner, last, child)


def _without_checkpoints(model: nn.Module) -> None:
    """Every pass is followed by its backward pass at once, and memory is bounded by the rows of a pass."""
    for child in model.modules():
        if getattr(child, "gradient_checkpointing", False):
            setattr(child, "gradient_checkpointing", False)  # noqa: B010 (no name that a module is known to have)
