"""A frozen transformer with adapters, pooling, and one linear layer for all tasks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import VmapInterpreter, retrieve_all_functorch_interpreters

from coterie._check import choice
from coterie._random import random_numbers
from coterie.errors import StoreError, require
from coterie.workload.text.base import hidden_size, load_tokenizer, take_base
from coterie.workload.text.frozen import AdaptedModule, SharedBuilder
from coterie.workload.text.lora import apply_lora, describe_adapted, draw_lora, lora_config
from coterie.workload.text.tokens import Reading

if TYPE_CHECKING:
    from coterie.workload.workload import Workload


def in_pieces(batch: Mapping[str, Tensor], run: Callable[[dict[str, Tensor]], Tensor], rows: int) -> Tensor:
    """What `run` makes of all rows, in their order; those of similar lengths go through it together.

    Args:
        batch: token numbers and the like, with ``attention_mask``; at least one row.
        run: inputs of some rows -> (rows, ...).
        rows: that go through it at once; at least one does.

    Example:
        >>> mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
        >>> in_pieces({"attention_mask": mask}, lambda piece: piece["attention_mask"].sum(1), 2).tolist()
        [2, 1, 2]
    """
    order = torch.argsort(batch["attention_mask"].sum(1), stable=True)
    parts = [run({name: value[chosen] for name, value in batch.items()}) for chosen in order.split(max(1, rows))]
    return torch.cat(parts)[torch.argsort(order)]


POOLINGS = ("mean", "cls")

#: tokens that go through the transformer at once where no gradient is taken
_TOKENS = 2**14


class TextEncoder(AdaptedModule):
    """Frozen transformer, low-rank adapters in it, pooling over tokens, one fused linear head.

    ``forward`` takes token numbers and masks and returns (rows, n_outputs), in float32 (float64 for a base of that
    type). Batches are cut to their longest row, and evaluated in pieces sorted by length: the same numbers up to
    rounding. Dropout is what the transformer's configuration says, in training only.

    Args:
        base: from :func:`~coterie.workload.text.base.take_base`; adapters are put into it.
        lora: from :func:`~coterie.workload.text.lora.lora_config`.
        n_outputs: sum of the widths of the tasks.
        pooling: ``"mean"`` over the tokens that are not padding, or ``"cls"``, the first token.
        reading: kept, so that served models can read texts; see :meth:`encode`.

    Raises:
        SettingError: for an unknown pooling, or adapters that match no layer.
    """

    shared_names = ("reading",)

    def __init__(self, base: nn.Module, lora: Any, n_outputs: int, *, pooling: str, reading: Reading) -> None:
        super().__init__()
        choice(pooling, "pooling", POOLINGS)
        self.base = apply_lora(base, lora)
        double = next(base.parameters()).dtype == torch.float64
        self.head = nn.Linear(hidden_size(base), n_outputs, dtype=torch.float64 if double else torch.float32)
        self.pooling, self.reading = pooling, reading
        self.init = lora.init_lora_weights
        self.full_mask = _takes_full_mask(base)
        self.seal(f"{pooling} {describe_adapted(self.base)}")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(rows, n_outputs) raw outputs."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            batch["token_type_ids"] = token_type_ids
        if retrieve_all_functorch_interpreters():
            self._refuse_stacking()
            return self.head(self._pooled(batch))
        if torch.is_grad_enabled() or not len(input_ids):
            return self.one_pass(batch)
        rows = _TOKENS // input_ids.shape[1]
        return self.head(in_pieces(batch, lambda piece: self._pooled(_trimmed(piece)), rows))

    @property
    def transformer(self) -> Any:
        """The model of transformers, with its adapters."""
        return self.base

    def one_pass(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(rows, n_outputs) of rows that go through the model together, cut to the longest of them."""
        return self.head(self._pooled(_trimmed(batch)))

    def encode(self, texts: Any) -> dict[str, Tensor]:
        """Inputs of the model from texts, or pairs of texts; as in training; for ``Predictor.predict``."""
        return self.reading(texts)

    def draw(self) -> None:
        """Draw adapters and head anew, from torch's random numbers."""
        draw_lora(self.base, self.init)
        self.head.reset_parameters()

    def _pooled(self, batch: dict[str, Tensor]) -> Tensor:
        """(rows, width), in the type of the head."""
        mask = batch["attention_mask"]
        if self.full_mask and retrieve_all_functorch_interpreters():
            # transformers looks into masks of two dimensions, which vmap does not allow
            batch = {**batch, "attention_mask": _full_mask(mask, self.dtype)}
        hidden = self.base(**batch).last_hidden_state.to(self.head.weight.dtype)
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers of the frozen part."""
        found: Any = self.base
        return found.get_input_embeddings().weight.dtype

    def _refuse_stacking(self) -> None:
        """Raise in training under vmap: gradients of single rows are taken in evaluation mode and are welcome."""
        stacked = any(isinstance(each, VmapInterpreter) for each in retrieve_all_functorch_interpreters())
        if self.training and stacked:
            raise RuntimeError("models on one frozen transformer are trained one after the other")


def draw(model: TextEncoder) -> None:
    """Draw what is trained of an encoder anew; a function, so that a builder can be sent to other processes."""
    model.draw()


def _trimmed(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the columns that are padding in every row."""
    used = batch["attention_mask"].any(0).nonzero()
    length = int(used[-1]) + 1 if len(used) else 1
    return {name: value[:, :length] for name, value in batch.items()}


def _full_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, 1, 1, tokens) to be added to the attention: 0, or far below for padding."""
    return (1 - mask)[:, None, None, :].to(dtype) * torch.finfo(dtype).min


def _takes_full_mask(base: Any) -> bool:
    """Whether a mask of padding, in the form that is added to the attention, is all there is to masks.

    Not so where layers see some of the tokens only; else found by a try on three tokens.
    """
    local = ("sliding_window", "local_attention", "attention_window", "layer_types", "is_decoder")
    causal = any(getattr(child, "is_causal", False) for child in base.modules())
    if causal or any(getattr(base.config, name, None) for name in local):
        return False
    table = base.get_input_embeddings().weight
    ids = torch.tensor([[0, 1, 1], [1, 0, 0]], device=table.device)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]], device=table.device)
    training = base.training
    base.eval()
    try:
        with torch.no_grad():
            expected = base(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
            full = _full_mask(mask, table.dtype)
            found = base(input_ids=ids, attention_mask=full).last_hidden_state[mask.bool()]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    finally:
        base.train(training)
    tolerance = 0.05 if table.dtype == torch.bfloat16 else 1e-3
    return bool(torch.allclose(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())))


def text_spec(config: Any, **facts: Any) -> dict[str, Any] | None:
    """A JSON-ready description, or None where the adapters' configuration holds what JSON cannot.

    Args:
        config: ``peft.LoraConfig``; fields that have their default are left out.
        facts: everything else that is needed to build the model.
    """
    usual = require("peft", extra="language", purpose="A workload with LoRA adapters").LoraConfig()
    fields: dict[str, Any] = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if value != getattr(usual, one.name):
            fields[one.name] = sorted(value) if isinstance(value, set) else value
    try:
        return json.loads(json.dumps({**facts, "lora": fields}, allow_nan=False))
    except (TypeError, ValueError):
        return None


def spec_of(workload: Workload) -> dict[str, Any] | None:
    """The description of a workload's models; None for models of another kind."""
    build: Any = workload.build_model
    while not isinstance(build, SharedBuilder) and hasattr(build, "build"):
        build = build.build
    return build.spec if isinstance(build, SharedBuilder) else None


def builder_of(spec: Mapping[str, Any], model: Any, tokenizer: Any = None) -> SharedBuilder:
    """`build_model` from a description and the transformer that it is about.

    That the transformer is the same one shows when states are loaded: their names hold a digest of it.

    Args:
        spec: from :func:`text_spec`.
        model: a model of transformers, its folder, or its name in the local cache.
        tokenizer: None takes that of the model's folder; not needed for causal models.

    Raises:
        SettingError: when the model cannot be used.
        StoreError: when the description is damaged.
    """
    try:
        config = lora_config(dict(spec["lora"]))
        if spec["kind"] == "causal":
            from coterie.workload.causal.build import builder_of_causal

            return builder_of_causal(spec, model, config)
        reading = Reading(load_tokenizer(tokenizer, model), int(spec["max_length"]), tuple(spec["names"]))
        base = take_base(model, spec["layers"])
        with random_numbers(seed=0):
            encoder = TextEncoder(base, config, int(spec["outputs"]), pooling=spec["pooling"], reading=reading)
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"The description of the text models of this run is damaged ({type(error).__name__}: {error}). Pass "
            "`workload=` in place of `model=`, or make the run again."
        ) from error
    return SharedBuilder(encoder, draw, dict(spec))
