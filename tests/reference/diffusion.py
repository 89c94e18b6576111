"""Denoising and affinities of time steps, one image and one step at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn


class TinyDenoiser(nn.Module):
    """Two convolutions and an embedding of time; with something that evaluation mode switches off."""

    def __init__(self, channels: int = 1, width: int = 4, dropout: float = 0.5, classes: int = 0):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.time = nn.Linear(2, width)
        self.label = nn.Embedding(classes, width) if classes else None
        self.drop = nn.Dropout(dropout)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, t, label=None):
        angle = t.to(x.dtype)[:, None] / 20
        shift = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        if label is not None:
            shift = shift + self.label(label)
        hidden = torch.tanh(self.norm(self.first(x)) + shift[:, :, None, None])
        return self.last(self.drop(hidden))


def drawn(images, examples, seed):
    """Rows and noise as documented: a permutation, then normal numbers, from one generator on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator)[:examples]
    return rows, torch.randn((len(rows), *images.shape[1:]), generator=generator)


def mean_loss(model, abar, images, noise, step, labels=None):
    """Mean squared error of the predicted noise, image by image, with the formula written out."""
    total = 0.0
    for number, (image, eps) in enumerate(zip(images, noise, strict=True)):
        noisy = abar[step] ** 0.5 * image + (1 - abar[step]) ** 0.5 * eps
        extra = () if labels is None else (labels[number : number + 1],)
        predicted = model(noisy[None].to(image.dtype), torch.tensor([step]), *extra)[0]
        total = total + ((predicted - eps) ** 2).mean()
    return total / len(images)


def full_gradient(model, loss):
    """One long vector, by backward()."""
    model.zero_grad()
    loss.backward()
    gradient = torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return gradient


def cosine_matrix(model, abar, images, noise, steps, labels=None):
    """All gradients kept, then all pairs."""
    model.eval()
    gradients = [full_gradient(model, mean_loss(model, abar, images, noise, step, labels)) for step in steps]
    return torch.stack([torch.stack([torch.cosine_similarity(a, b, dim=0) for b in gradients]) for a in gradients])


def hat_value(steps, values, row, column):
    """Bilinear interpolation of one entry between the four probed neighbours."""

    def around(step):
        for low, high in zip(range(len(steps)), range(1, len(steps)), strict=False):
            if steps[low] <= step <= steps[high]:
                share = (step - steps[low]) / (steps[high] - steps[low])
                return [(low, 1 - share), (high, share)]
        return [(0, 1.0)] if step < steps[0] else [(len(steps) - 1, 1.0)]

    return sum(p * q * values[i][j] for i, p in around(row) for j, q in around(column))


def check_modes_are_put_back(model, part, call, *, fails):
    """A part that was kept in evaluation mode stays there, and the rest in training, also when the model fails."""
    model.train()
    part.eval()
    if fails:
        model.forward = lambda x, t: 1 / 0
        with pytest.raises(ZeroDivisionError):
            call()
    else:
        call()
    assert model.training
    assert not part.training
