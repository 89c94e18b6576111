"""A causal language model with adapters as a module that returns one margin, or one output a class, a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.nn.functional import linear

from coterie.errors import ModelError
from coterie.workload.causal.margins import sequence_margin
from coterie.workload.losses import get_loss
from coterie.workload.text.encoder import in_pieces
from coterie.workload.text.frozen import AdaptedModule
from coterie.workload.text.lora import describe_adapted

#: tokens, and logits, that are held at once where no gradient is taken
_TOKENS, _SCORES = 2**14, 2**26
#: relative difference to the model's own logits that rounding explains
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class OutputColumns:
    """What the output columns are, task by task: the tokens of its label words, or None for a sequence task."""

    words: tuple[tuple[int, ...] | None, ...]

    def tokens(self) -> list[int]:
        """All label words."""
        return sorted({token for words in self.words if words is not None for token in words})

    def columns(self) -> list[tuple[int, int]]:
        """(token, token to subtract) of each column; -1 for none, and (-1, -1) for a sequence task."""
        made: list[tuple[int, int]] = []
        for words in self.words:
            if words is None:
                made.append((-1, -1))
            elif len(words) == 2:
                made.append((words[1], words[0]))
            else:
                made += [(word, -1) for word in words]
        return made


class CausalScorer(AdaptedModule):
    """Outputs of all tasks for prompts and answers, from one pass of a causal language model.

    A label-word task reads the logits of its words after the last token of the prompt: the difference of the two for
    two classes, else one a class. A sequence task reads the log-odds of the answer. Logits are computed for label words
    and answer positions only, in single precision. The base is frozen and shared by all copies.

    Args:
        model: a causal model of transformers with adapters; everything else of it frozen. It becomes a part of this.
        layout: of the output columns.
        per_token: see :func:`coterie.workload.causal.margins.sequence_margin`.
    """

    keep: Tensor
    plus: Tensor
    minus: Tensor

    def __init__(self, model: Any, layout: OutputColumns, *, per_token: bool = False) -> None:
        super().__init__()
        self.model = model
        self.per_token = per_token
        #: logits from the hidden states and the output layer; else from the model's own pass over all positions
        self.direct = True
        columns = layout.columns()
        tokens = layout.tokens()
        place = {token: index for index, token in enumerate(tokens)}
        self.sequences = any(words is None for words in layout.words)
        self.register_buffer("keep", torch.tensor(tokens, dtype=torch.int64), persistent=False)
        for name, side in (("plus", 0), ("minus", 1)):
            index = torch.tensor([place.get(pair[side], -1) for pair in columns])
            self.register_buffer(name, index, persistent=False)
        self.seal(f"{layout} per_token={per_token} {describe_adapted(model)}")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Outputs (rows, columns) of rows as :func:`coterie.workload.causal.rows.pack` makes them.

        Padding may be on either side, as long as `positions` say where the model is read. Without gradients, rows go
        through the model in pieces of similar lengths, within a bounded memory.
        """
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "positions": positions, "targets": targets}
        if torch.is_grad_enabled() or retrieve_all_functorch_interpreters() or not len(input_ids):
            return self.one_pass(batch)
        table = self.model.get_input_embeddings().num_embeddings
        read = targets.shape[1] if self.direct else input_ids.shape[1]
        scores = _SCORES // (read * table) if self.sequences or not self.direct else _TOKENS
        return in_pieces(batch, self.one_pass, min(_TOKENS // input_ids.shape[1], scores))

    @property
    def transformer(self) -> Any:
        """The model of transformers, with its adapters."""
        return self.model

    def one_pass(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Outputs (rows, columns) of rows that go through the model together."""
        input_ids, attention_mask, positions, targets = _trimmed(**batch)
        words, logits = self._logits(input_ids, attention_mask.bool(), positions)
        outputs = torch.zeros_like(self.plus, dtype=logits.dtype).expand(len(positions), -1)
        if len(self.keep):
            first = words[:, self.plus.clamp(min=0)]
            second = torch.where(self.minus >= 0, words[:, self.minus.clamp(min=0)], 0.0)
            outputs = torch.where(self.plus >= 0, first - second, outputs)
        if self.sequences:
            tokens = get_loss("multiclass").margin(logits, targets.clamp(min=0))
            margin = sequence_margin(tokens, targets >= 0, per_token=self.per_token)
            outputs = torch.where(self.plus >= 0, outputs, margin[:, None])
        return outputs

    def _logits(self, input_ids: Tensor, present: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the words after the prompt (rows, words), and of all tokens (rows, answer tokens, vocabulary)."""
        arguments = {
            "input_ids": input_ids,
            "attention_mask": causal_bias(present, self._dtype),
            "position_ids": (present.long().cumsum(-1) - 1).clamp(min=0),
            "use_cache": False,
        }
        if not self.direct:
            logits = _at(self.model(**arguments).logits.to(_single(self._dtype)), positions)
            return logits[:, 0][:, self.keep], logits
        hidden = _at(self.model.base_model(**arguments)[0], positions)
        hidden = hidden.to(_single(hidden.dtype))
        layer = self.model.get_output_embeddings()
        bias = None if layer.bias is None else layer.bias.to(hidden.dtype)
        weight = layer.weight[self.keep].to(hidden.dtype)
        words = linear(hidden[:, 0], weight, None if bias is None else bias[self.keep])
        if not self.sequences:
            return words, words
        return words, linear(hidden, layer.weight.to(hidden.dtype), bias)

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    @torch.no_grad()
    def settle(self, batch: dict[str, Tensor]) -> None:
        """Choose how logits are computed, by comparing both ways with an ordinary call of the model on a few rows.

        Raises:
            ModelError: when neither gives the logits of an ordinary call.
        """
        device = self.model.get_input_embeddings().weight.device
        ids, mask, positions, _ = (
            batch[name].to(device) for name in ("input_ids", "attention_mask", "positions", "targets")
        )
        training = self.model.training
        self.model.eval()
        expected = _at(self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits, positions)
        expected = expected.to(_single(self._dtype))
        self.direct = type(self.model.get_output_embeddings()) is nn.Linear
        problem = self._difference(ids, mask, positions, expected)
        if problem and self.direct:
            self.direct = False
            problem = self._difference(ids, mask, positions, expected)
        self.model.train(training)
        if problem:
            raise ModelError(
                f"Parameter `model`: {type(self.model).__name__} does not give the logits of an ordinary call when the "
                f"attention mask (rows, 1, tokens, tokens) and the positions of tokens are handed to it ({problem}). "
                "Per-example gradients need a model that takes both, as Llama, Qwen, Mistral, GPT-2 and GPT-NeoX do."
            )

    def _difference(self, ids: Tensor, mask: Tensor, positions: Tensor, expected: Tensor) -> str:
        """How the logits differ from what is expected; empty when they do not."""
        sequences, self.sequences = self.sequences, True  # all logits
        try:
            found = self._logits(ids, mask.bool(), positions)[1]
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            self.sequences = sequences
        relative = float((found - expected).abs().max()) / (float(expected.abs().max()) + 1e-6)
        return "" if relative <= _TOLERANCE[self._dtype] else f"they differ by {relative:.1%}"


def causal_bias(present: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores (rows, 1, tokens, tokens): 0 for tokens at or before, else the lowest number.

    Made here, since masks of transformers look at values, which vmap cannot. Padding sees itself, so that no softmax
    is empty.
    """
    size = present.shape[-1]
    every = torch.ones(size, size, dtype=torch.bool, device=present.device)
    itself = torch.eye(size, dtype=torch.bool, device=present.device)
    seen = every.tril() & (present[..., None, None, :] | itself)
    return torch.where(seen, torch.zeros((), dtype=dtype, device=present.device), torch.finfo(dtype).min)


def _trimmed(input_ids: Tensor, attention_mask: Tensor, positions: Tensor, targets: Tensor) -> Sequence[Tensor]:
    """Without padding on the right that all rows of the batch have; as it is where rows are stacked by vmap."""
    ids, mask = input_ids, attention_mask
    try:
        length = int(torch.where(mask.any(0), torch.arange(mask.shape[1], device=mask.device) + 1, 1).max())
        width = int(torch.where((targets >= 0).any(0), torch.arange(targets.shape[1], device=mask.device) + 1, 1).max())
    except RuntimeError:  # vmap does not tell numbers
        return ids, mask, positions, targets
    return ids[:, :length], mask[:, :length], positions[:, :width], targets[:, :width]


def _at(values: Tensor, positions: Tensor) -> Tensor:
    """(rows, positions, width) of (rows, tokens, width)."""
    return values.gather(1, positions[..., None].expand(-1, -1, values.shape[-1]))


def _single(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
