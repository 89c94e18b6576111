"""Predictions, metrics and gradients of dense tasks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from coterie.adapters.adapted import AdaptedModel
from coterie.adapters.dense import DenseTask
from coterie.adapters.plain import PlainModel
from coterie.errors import SettingError


@torch.no_grad()
def predict_dense(
    model: AdaptedModel | PlainModel, images: Tensor, tasks: Mapping[str, DenseTask], batch_size: int = 64
) -> dict[str, Tensor]:
    """Predictions of the tasks for all images, on the CPU.

    Raises:
        SettingError: without images, or for an unknown task.
    """
    if not len(images) or batch_size < 1:
        raise SettingError(
            "Parameter `images` should hold at least one image, `batch_size` should be from 1 on. "
            f"Found {len(images)} images and batch_size={batch_size!r}."
        )
    model.eval()
    parts: list[dict[str, Tensor]] = [model(part, task=list(tasks)) for part in images.split(batch_size)]
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in tasks}


def evaluate_dense(
    model: AdaptedModel | PlainModel, images: Tensor, targets: Mapping[str, Tensor], tasks: Mapping[str, DenseTask]
) -> dict[str, float]:
    """Metric of each task over all images."""
    predicted = predict_dense(model, images, tasks)
    return {name: task.metric(predicted[name], targets[name].cpu()) for name, task in tasks.items()}


def shared_gradient(model: AdaptedModel, images: Tensor, labels: Tensor, task: str, dense: DenseTask) -> Tensor:
    """(numbers,) gradient of one task's loss at the adapters' shared parameters, frozen or not.

    It is what :meth:`Troa.similarities` asks for.

    Args:
        model: has the task, with a head that was trained at least a little.
        images: a few labelled images.
        labels: of the task.
        task: its name in the model.
        dense: its loss.

    Raises:
        SettingError: without images.
    """
    if not len(images):
        raise SettingError("Parameter `images` should hold at least one labelled image. Found none.")
    shared = model.shared_parameters()
    flags = [parameter.requires_grad for parameter in shared]
    try:
        for parameter in shared:
            parameter.requires_grad_(True)
        loss = dense.loss(model(images, task=task), labels)
        found = torch.autograd.grad(loss, shared, materialize_grads=True)
    finally:
        for parameter, flag in zip(shared, flags, strict=True):
            parameter.requires_grad_(flag)
    return torch.cat([gradient.reshape(-1) for gradient in found])
