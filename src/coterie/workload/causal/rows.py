"""Rows of a causal model: a prompt, an answer, and where the model is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.errors import WorkloadError


@dataclass(frozen=True)
class Row:
    """Token numbers of a prompt and of the answer that follows it (with its end token; empty for label words)."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        """Tokens that the model reads; the last one of the answer is only predicted."""
        return len(self.prompt) + max(len(self.answer) - 1, 0)


def fit_rows(rows: Sequence[Row], limit: int, *, truncate: bool, keep: int = 0) -> list[Row]:
    """Rows of at most `limit` tokens: prompts are cut from the left with `truncate`, answers never are.

    Args:
        rows: of one task.
        limit: largest number of tokens that the model reads.
        truncate: cut prompts; otherwise long rows are refused.
        keep: tokens in front that are not cut (the one that begins every text).

    Raises:
        WorkloadError: for empty prompts, and for rows that are too long.
    """
    if any(not row.prompt for row in rows):
        raise WorkloadError(
            "a prompt has no tokens, so the model has nothing to read before it answers. Fill or drop empty prompts."
        )
    long = [row for row in rows if row.length > limit]
    if not long:
        return list(rows)
    longest = max(row.length for row in long)
    if not truncate:
        raise WorkloadError(
            f"{len(long)} of {len(rows)} rows have more than {limit} tokens, prompt and answer together; the longest "
            f"has {longest}. Raise `max_length`, cut prompts from the left with truncate=True, or drop these rows."
        )
    stuck = [row for row in long if row.length - len(row.prompt) + keep + 1 > limit]
    if stuck:
        raise WorkloadError(
            f"{len(stuck)} answers leave no room for a prompt in {limit} tokens; the longest answer has "
            f"{max(len(row.answer) for row in stuck)}. Answers are never cut: raise `max_length`, or drop these rows."
        )
    return [_cut(row, row.length - limit, keep) if row.length > limit else row for row in rows]


def _cut(row: Row, count: int, keep: int) -> Row:
    return Row(row.prompt[:keep] + row.prompt[keep + count :], row.answer)


def pack(rows: Sequence[Row], length: int | None = None, width: int | None = None) -> dict[str, Tensor]:
    """Rows as int64 tensors, padded on the right.

    Args:
        rows: what to pack.
        length: tokens a row; by default those of the longest.
        width: answer tokens a row; by default those of the longest answer, at least 1.

    Returns:
        ``input_ids`` and ``attention_mask`` (rows, length); ``positions`` (rows, width), after which token each answer
        token is predicted (the first one: the last token of the prompt); ``targets`` (rows, width), the answer tokens,
        -1 where there is none.

    Example:
        >>> made = pack([Row([5, 6], [7, 1]), Row([5], [])])
        >>> made["input_ids"].tolist(), made["positions"].tolist(), made["targets"].tolist()
        ([[5, 6, 7], [5, 0, 0]], [[1, 2], [0, 0]], [[7, 1], [-1, -1]])
    """
    length = max(row.length for row in rows) if length is None else length
    width = max(1, *(len(row.answer) for row in rows)) if width is None else width
    ids, mask = torch.zeros(len(rows), length, dtype=torch.int64), torch.zeros(len(rows), length, dtype=torch.int64)
    positions, targets = ids.new_zeros(len(rows), width), ids.new_full((len(rows), width), -1)
    for index, row in enumerate(rows):
        last, count = len(row.prompt) - 1, len(row.answer)
        ids[index, : row.length] = torch.tensor(row.prompt + row.answer[:-1])
        mask[index, : row.length] = 1
        positions[index] = last
        positions[index, :count] = torch.arange(last, last + count)
        targets[index, :count] = torch.tensor(row.answer, dtype=torch.int64)
    return {"input_ids": ids, "attention_mask": mask, "positions": positions, "targets": targets}
