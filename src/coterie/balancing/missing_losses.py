"""Tells a batch without labels from a model that is no longer made of numbers: both give losses of NaN."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from coterie.errors import CoterieWarning, ModelError

#: parameters are looked at when a task was missing so many steps in a row, and at most once in so many steps
PATIENCE = 8
#: so many steps in a row without a loss for any task, or for one, are worth a word
ALL_MISSING, ONE_MISSING = 20, 1000


class MissingLossCounter:
    """Counts for how many steps in a row the tasks of one model had a loss of NaN.

    Args:
        tasks: number of tasks.
    """

    def __init__(self, tasks: int) -> None:
        self._rows, self._empty, self._since = [0] * tasks, 0, PATIENCE
        self._counts = False

    def clear(self) -> None:
        """Start anew after a step in which every task had a loss."""
        if self._counts:
            self._rows, self._empty, self._counts = [0] * len(self._rows), 0, False

    def __call__(self, missing: Tensor, parameters: Sequence[Tensor]) -> None:
        """Look at the losses of a step.

        Args:
            missing: (tasks,) whose loss was NaN.
            parameters: everything that is trained.

        Raises:
            ModelError: when a parameter is NaN or infinite.
        """
        gone: list[bool] = missing.tolist()
        self._counts = True
        self._rows = [row + 1 if one else 0 for row, one in zip(self._rows, gone, strict=True)]
        self._since += 1
        if all(gone) or (max(self._rows) >= PATIENCE and self._since >= PATIENCE):
            self._since = 0
            _check(parameters)
        self._empty = self._empty + 1 if all(gone) else 0
        if self._empty == ALL_MISSING:
            _warn("every task", ALL_MISSING)
        elif not self._empty and ONE_MISSING in self._rows:
            _warn(f"task number {self._rows.index(ONE_MISSING)}", ONE_MISSING)


def _check(parameters: Sequence[Tensor]) -> None:
    some = [parameter for parameter in parameters if parameter.numel()]  # nothing has no largest number
    lengths = list(torch._foreach_norm(some, float("inf"))) if some else []  # pyright: ignore[reportPrivateImportUsage]
    if lengths and not bool(torch.stack([length.float() for length in lengths]).isfinite().all()):
        raise ModelError(
            "Losses are NaN because parameters of the model are NaN or infinite: the training has diverged. Frequent "
            "causes are a learning rate that is too large, and missing labels of NaN that go through the loss before "
            "they are masked, whose gradient is NaN: put 0 in their place first, as in y.nan_to_num()."
        )


def _warn(who: str, steps: int) -> None:
    warnings.warn(
        f"The loss of {who} was NaN, which stands for no label, in {steps} steps in a row. If there are labels, look "
        "for NaN or infinite inputs, or a loss that divides by zero.",
        CoterieWarning,
        stacklevel=4,
    )
