"""Torch's random numbers, put back after use."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from coterie._process_lock import process_lock


@contextmanager
def random_numbers(device: torch.device | None = None, seed: int | None = None) -> Generator[None]:
    """Draw from torch's random numbers, on the CPU and one device, and put them back afterwards.

    They belong to the process, so other threads of Coterie wait meanwhile: a thread of the caller's that draws from
    them at the same time changes what is drawn here. ``torch.manual_seed`` is not called, as it would also seed all
    other devices, which nobody puts back.

    Args:
        device: where the models are; None is the CPU, and the current CUDA device if the program uses CUDA already.
        seed: of the numbers in the block; None goes on from where they are.

    Example:
        >>> before = torch.get_rng_state()
        >>> with random_numbers(seed=3):
        ...     drawn = torch.rand(2)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    if device is None:
        devices = [torch.device("cuda", torch.cuda.current_device())] if torch.cuda.is_initialized() else []
    else:
        devices = [device] if device.type == "cuda" else []
    with process_lock, torch.random.fork_rng(devices=devices):
        if seed is not None:
            seed_numbers(seed, *devices)
        yield


def seed_numbers(seed: int, *devices: torch.device) -> None:
    """Seed torch's random numbers on the CPU, and on these devices; inside of :func:`random_numbers`."""
    torch.default_generator.manual_seed(seed)
    for device in devices:
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
