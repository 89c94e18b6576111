"""Training of dense tasks: adapters with and without TROA, and the models that they are compared with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._surface import known_arguments, warn
from coterie.adapters.adapted import AdaptedModel
from coterie.adapters.dense import DenseTask
from coterie.adapters.plain import PlainModel
from coterie.adapters.recipe import DenseRecipe, DenseTraining, batches, one_cycle
from coterie.adapters.troa import Troa
from coterie.errors import NumericsWarning, SettingError


@known_arguments
def train_dense(
    model: AdaptedModel | PlainModel,
    images: Tensor,
    targets: Mapping[str, Tensor],
    tasks: Mapping[str, DenseTask],
    recipe: DenseRecipe,
    *,
    seed: int = 0,
    troa: Troa | None = None,
) -> DenseTraining:
    """Train what is trainable on the sum of the tasks' losses.

    With `troa`, the tasks pass through the model one after the other. Each step then has the gradient of every task
    apart, at the price of running the blocks before the first adapter once a task. Their sum is the gradient of the
    step, so TROA changes the embeddings' mixture and nothing else. Omega mixes the embeddings from the first step on
    and is moved after each step.

    Args:
        model: with a head for every task.
        images: (n, channels, h, w), on the device of the model.
        targets: labels of each task for all images; see :mod:`coterie.adapters.dense`.
        tasks: what is trained, by name.
        recipe: steps, batches, optimiser.
        seed: of the order of the images, which depends on nothing else.
        troa: of the model's tasks, in their order.

    Raises:
        SettingError: TROA without adapters or with frozen ones, no images, tasks without labels or heads, or nothing
            to train.

    Example:
        >>> transformers = __import__("pytest").importorskip("transformers")
        >>> from coterie.adapters.dense import dense_task
        >>> config = transformers.ViTConfig(image_size=16, patch_size=4, hidden_size=12, num_hidden_layers=2,
        ...                                 num_attention_heads=2, intermediate_size=24)
        >>> task = dense_task("depth")
        >>> plain = PlainModel(transformers.ViTModel(config), {"depth": task.head})
        >>> images, depth = torch.rand(8, 3, 16, 16), torch.ones(8, 1, 16, 16)
        >>> recipe = DenseRecipe(steps=2, batch_size=4)
        >>> train_dense(plain, images, {"depth": depth}, {"depth": task}, recipe).losses.shape
        (2, 1)
    """
    _check(model, images, targets, tasks, troa)
    trained = model.trainable()
    adam = torch.optim.AdamW(
        trained, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, foreach=True
    )
    schedule = one_cycle(adam, recipe)
    losses, omegas, seconds = [], [], []
    model.train()
    if troa is not None and isinstance(model, AdaptedModel):
        model.use_affinity(troa.affinity)
    for rows in batches(len(images), recipe.batch_size, recipe.steps, seed):
        start = time.perf_counter()
        chosen = rows.to(images.device)
        labels = {name: targets[name][chosen] for name in tasks}
        if troa is not None and isinstance(model, AdaptedModel):
            found = _apart(model, images[chosen], labels, tasks, trained, troa)
        else:
            found = _together(model, images[chosen], labels, tasks, trained)
        torch.nn.utils.clip_grad_norm_(trained, recipe.max_norm)
        adam.step()
        schedule.step()
        if troa is not None and isinstance(model, AdaptedModel):
            model.use_affinity(troa.affinity)
            omegas.append(troa.omega)
        losses.append(found.cpu().double().numpy())
        seconds.append(time.perf_counter() - start)
    model.eval()
    _warn(losses)
    count = sum(p.numel() for p in trained)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    size += 3 * sum(p.numel() * p.element_size() for p in trained)
    path = np.stack(omegas) if omegas else None
    means = None if troa is None else troa.means
    extra = 0 if means is None else means.numel() * means.element_size()
    return DenseTraining(np.stack(losses), tuple(tasks), float(np.median(seconds)), count, size, path, extra)


def _together(
    model: nn.Module, images: Tensor, labels: Mapping[str, Tensor], tasks: Mapping[str, DenseTask], trained: list[Any]
) -> Tensor:
    """Gradients of the sum, in one pass for all tasks; the losses."""
    predicted = model(images, task=list(tasks))
    losses = torch.stack([task.loss(predicted[name], labels[name]) for name, task in tasks.items()])
    if not losses.requires_grad:
        raise SettingError(
            f"Parameter `tasks` should have a task that trains something. Found {list(tasks)}, whose losses depend on "
            "frozen parameters only. The likely cause is that the model was grown: then the new task alone is trained."
        )
    for parameter in trained:
        parameter.grad = None
    losses.sum().backward()
    return losses.detach()


def _apart(
    model: AdaptedModel,
    images: Tensor,
    labels: Mapping[str, Tensor],
    tasks: Mapping[str, DenseTask],
    trained: list[Any],
    troa: Troa,
) -> Tensor:
    """The same gradients task by task, of which TROA sees those of the shared parameters."""
    for parameter in trained:
        parameter.grad = None
    place = {id(parameter): index for index, parameter in enumerate(trained)}
    # in the order that everything else about shared parameters has
    shared = [place[id(p)] for p in model.shared_parameters() if id(p) in place]
    losses: list[Tensor] = []
    rows: dict[str, Tensor] = {}
    for name, task in tasks.items():
        loss = task.loss(model(images, task=name), labels[name])
        found = torch.autograd.grad(loss, trained, materialize_grads=True)
        for parameter, gradient in zip(trained, found, strict=True):
            parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient
        rows[name] = torch.cat([found[index].reshape(-1) for index in shared])
        losses.append(loss.detach())
    troa.update(torch.stack([rows[name] for name in troa.tasks]))
    return torch.stack(losses)


def _warn(losses: list[NDArray[np.float64]]) -> None:
    if not np.isfinite(losses[-1]).all():
        warn(
            "The losses of the last step are not finite: the training diverged. Take a smaller learning rate.",
            NumericsWarning,
        )


def _check(
    model: AdaptedModel | PlainModel,
    images: Tensor,
    targets: Mapping[str, Tensor],
    tasks: Mapping[str, DenseTask],
    troa: Troa | None,
) -> None:
    if not len(images):
        raise SettingError("Parameter `images` should hold at least one image. Found none.")
    for name in tasks:
        if name not in model.tasks or model.specs[name] is None or len(targets.get(name, ())) != len(images):
            raise SettingError(
                f"Task {name!r} should have a head in the model and labels for all {len(images)} images. The model "
                f"has heads for {list(model.tasks)}; labels are there for "
                f"{ {task: len(values) for task, values in targets.items()} }."
            )
    if not tasks or not model.trainable():
        raise SettingError("There is nothing to train: give `tasks`, and a model with parameters that have gradients.")
    if troa is not None and (
        not isinstance(model, AdaptedModel) or troa.tasks != model.tasks or set(tasks) != set(model.tasks)
    ):
        raise SettingError(
            "Parameter `troa` needs an adapted model and all of its tasks, in their order. "
            f"Found a {type(model).__name__} of {list(model.tasks)}, trained on {list(tasks)}, and Omega of "
            f"{list(troa.tasks)}."
        )
    shared = model.shared_parameters() if isinstance(model, AdaptedModel) else []
    if troa is not None and not any(parameter.requires_grad for parameter in shared):
        raise SettingError(
            "Parameter `troa` needs gradients of the adapters' shared parameters. Found all of them frozen. The likely "
            "cause is that the model was grown, whose new task is trained without TROA: leave `troa` out."
        )
