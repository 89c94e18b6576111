"""Texts as numbers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from coterie._check import whole_number
from coterie._show import short_repr
from coterie._surface import warn
from coterie.errors import DataWarning, SettingError, WorkloadError

#: what encoders read, as tokenizers name it
NAMES = ("input_ids", "attention_mask", "token_type_ids")

Text = str | tuple[str, str]


def encode_text(tokenizer: Any, texts: Any, max_length: int = 64) -> dict[str, Tensor]:
    """Token numbers of texts, or of pairs of texts, padded on the right to one length.

    Args:
        tokenizer: of transformers.
        texts: list of texts, or of pairs of texts (question, passage).
        max_length: tokens at most, special ones included; of a pair, the longer text is cut.

    Returns:
        ``input_ids`` and ``attention_mask`` (rows, length), and ``token_type_ids`` where the tokenizer has them and
        texts are pairs; int64.

    Raises:
        WorkloadError: when an entry is no text, is empty, or texts and pairs are mixed.
        SettingError: when `max_length` is no whole number of at least 4, or more than the tokenizer's limit.
    """
    limit = getattr(tokenizer, "model_max_length", None)
    known = isinstance(limit, int) and limit < 10**6  # tokenizers without a limit have a huge number
    length = whole_number(max_length, "max_length", low=4, high=limit if known else None)
    first, second = as_texts(texts)
    tokenizer = _padding(tokenizer)
    parts = (first,) if second is None else (first, second)
    found: Mapping[str, Any] = tokenizer(
        *parts, truncation="longest_first", max_length=length, padding="longest", padding_side="right"
    )
    names = [name for name in NAMES if name in found and (name != "token_type_ids" or second is not None)]
    return {name: torch.tensor(found[name], dtype=torch.int64) for name in names}


@short_repr
@dataclass(frozen=True, eq=False)
class Reading:
    """How a model reads texts.

    Attributes:
        tokenizer: of transformers.
        max_length: tokens of a text at most.
        names: the inputs of the model.
    """

    tokenizer: Any
    max_length: int
    names: tuple[str, ...]

    def __call__(self, texts: Any) -> dict[str, Tensor]:
        """Inputs of the model; those that these texts do not need are 0."""
        found = encode_text(self.tokenizer, texts, self.max_length)
        return {name: found.get(name, torch.zeros_like(found["input_ids"])) for name in self.names}


def reads(model: Any, inputs: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The inputs that the model's `forward` takes."""
    known = inspect.signature(model.forward).parameters
    return tuple(name for name in inputs if name in known)


def as_texts(texts: Any, where: str = "Parameter `texts`") -> tuple[list[str], list[str] | None]:
    """First and, for pairs, second texts; `where` begins messages.

    Example:
        >>> as_texts(["a", "b"]), as_texts([("q", "p")])
        ((['a', 'b'], None), (['q'], ['p']))
    """
    if isinstance(texts, str | Mapping) or not hasattr(texts, "__iter__"):
        raise WorkloadError(
            f"{where} should be a list of texts, or of pairs of texts. Found {type(texts).__name__}. One text alone is "
            "given as [text]; of a table, give one column."
        )
    entries: list[Any] = list(texts)
    if not entries:
        raise WorkloadError(f"{where} is empty. The likely cause is a filter that dropped everything.")
    paired = not isinstance(entries[0], str)
    columns: list[list[str]] = [[], []] if paired else [[]]
    for row, entry in enumerate(entries):
        pieces = _pieces(entry, paired)
        if pieces is None:
            raise WorkloadError(
                f"{where} should hold texts, or pairs (text, text) throughout. Found {str(entry)[:40]!r} "
                f"({type(entry).__name__}) at position {row}. Likely causes are missing values, numbers, or texts and "
                "pairs mixed: convert with str(...), or drop the rows."
            )
        if not all(piece.strip() for piece in pieces):
            raise WorkloadError(
                f"{where} has an empty text at position {row}: there is nothing to read. Drop such rows, or say in "
                "words that the text is missing."
            )
        for column, piece in zip(columns, pieces, strict=True):
            column.append(piece)
    return columns[0], columns[1] if paired else None


def check_tokens(parts: Sequence[Mapping[str, Tensor]], rows: int, tokenizer: Any, max_length: int) -> None:
    """Raise SettingError for numbers that the model has no embedding for; warn where most texts were cut.

    Args:
        parts: from :func:`encode_text`, one a task.
        rows: of the model's table of embeddings.
        tokenizer: it.
        max_length: it.
    """
    check_known(max(len(tokenizer) - 1, *(int(part["input_ids"].max()) for part in parts)), rows)
    full = torch.cat([part["attention_mask"].sum(1) >= max_length for part in parts])
    cut = float(full.double().mean())
    if cut > 0.5:
        warn(
            f"Parameter `max_length`: {100 * cut:.0f} % of the texts fill all {max_length} tokens, so most of them are "
            "cut. Raise it if their ends matter; the cost of a step grows with it.",
            DataWarning,
        )


def check_known(largest: int, rows: int) -> None:
    """Raise SettingError when the largest token number has no row in the model's table of embeddings."""
    if largest >= rows:
        raise SettingError(
            f"Parameter `tokenizer`: it has token numbers up to {largest}, but the model has embeddings for {rows}. "
            "The likely cause is the tokenizer of another model, or added tokens without "
            "model.resize_token_embeddings(len(tokenizer)). Pass the tokenizer that the model was trained with."
        )


def joined(parts: Sequence[dict[str, Tensor]], pad: int) -> list[dict[str, Tensor]]:
    """The same inputs, all padded to the longest and with the same names.

    Example:
        >>> short, long = ({name: torch.ones(1, n).long() for name in ("input_ids", "attention_mask")} for n in (1, 2))
        >>> joined([short, long], 0)[0]["input_ids"].tolist()
        [[1, 0]]
    """
    length = max(part["input_ids"].shape[1] for part in parts)
    names = [name for name in NAMES if any(name in part for part in parts)]
    made: list[dict[str, Tensor]] = []
    for part in parts:
        more = length - part["input_ids"].shape[1]
        blank = torch.zeros_like(part["input_ids"])
        fill = {"input_ids": pad}
        made.append(
            {name: torch.nn.functional.pad(part.get(name, blank), (0, more), value=fill.get(name, 0)) for name in names}
        )
    return made


def pad_number(tokenizer: Any) -> int:
    """Number of the token that fills up rows; the mask covers it."""
    number = _padding(tokenizer).pad_token_id
    return int(number)


def _padding(tokenizer: Any) -> Any:
    """A tokenizer that can pad; those of language models lack a token for it, and the mask covers whatever is used."""
    if tokenizer.pad_token is not None:
        return tokenizer
    if tokenizer.eos_token is None:
        raise SettingError(
            f"Parameter `tokenizer`: this {type(tokenizer).__name__} has neither a padding nor an end token. Set "
            "tokenizer.pad_token to one of its tokens."
        )
    made = copy.deepcopy(tokenizer)
    made.pad_token = made.eos_token
    return made


def _pieces(entry: Any, paired: bool) -> tuple[str, ...] | None:
    """The text or the two texts of an entry; None when it is something else."""
    if isinstance(entry, str) and not paired:
        return (entry,)
    if not paired or not isinstance(entry, tuple | list | np.ndarray):
        return None
    pieces = tuple(cast("Sequence[Any]", entry))
    return pieces if len(pieces) == 2 and all(isinstance(piece, str) for piece in pieces) else None
