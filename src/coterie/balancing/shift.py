"""A short move of the parameters against their gradient, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable

import torch
from torch import Tensor


@contextlib.contextmanager
def shifted(parameters: Iterable[Tensor], mu: Tensor) -> Generator[None]:
    """Move parameters p to ``p - mu g``, where g is their ``.grad``; afterwards they are back, bit for bit.

    Args:
        parameters: those without a gradient stay where they are.
        mu: a scalar, or (members,) for stacked models in the first dimension of each parameter.

    Cost: memory for one copy of the parameters.
    """
    moving, gradients = with_gradients(parameters)
    saved = [p.clone() for p in moving]
    with torch.no_grad():
        if mu.dim() == 0 and mu.device.type == "cpu":  # a number costs no temporary, but elsewhere a wait
            torch._foreach_sub_(moving, gradients, alpha=float(mu))  # pyright: ignore[reportPrivateImportUsage]
        elif mu.dim() == 0:
            steps = torch._foreach_mul(gradients, mu.to(gradients[0]))  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_sub_(moving, steps)  # pyright: ignore[reportPrivateImportUsage]
        else:
            for p, g in zip(moving, gradients, strict=True):
                p.sub_(mu.view(-1, *[1] * (g.dim() - 1)).to(g) * g)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moving, saved)  # pyright: ignore[reportPrivateImportUsage]


def with_gradients(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters that have a gradient, and their gradients, both without graphs."""
    found = [(p.detach(), p.grad.detach()) for p in parameters if p.grad is not None]
    return [p for p, _ in found], [g for _, g in found]


def length(tensors: list[Tensor], stacked: bool) -> Tensor:
    """Euclidean length of all tensors together: a scalar, or (members,) for stacked models."""
    if not stacked:
        return torch.stack(torch._foreach_norm(tensors)).norm()  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack([t.flatten(1).norm(dim=1) for t in tensors]).norm(dim=0)
