"""Modes of modules, changed for a while and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """The model in evaluation mode; afterwards, also after an error, every module has its own mode again.

    ``model.train(was_training)`` would not do: it switches parts that were kept in evaluation mode, such as a frozen
    encoder, to training.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluating(model):
        ...     model.training, model[0].training
        (False, False)
        >>> [module.training for module in model.modules()]
        [True, True, False]
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
