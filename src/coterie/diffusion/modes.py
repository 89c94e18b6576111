"""What is changed for a while and put back: modes of modules, random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch
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


@contextlib.contextmanager
def seeded_on(device: torch.device, seed: int) -> Generator[None]:
    """PyTorch's random numbers on the CPU and on one device from a seed; afterwards they go on as before.

    ``torch.manual_seed`` would also seed all other devices, which nobody puts back.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded_on(torch.device("cpu"), 3):
        ...     drawn = torch.rand(2)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
