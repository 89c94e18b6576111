"""Heads that fit the untrained trunk: with random heads the gradients at the start would mean nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coterie.features.heads import HeadFeatures, capture, head_displacement
from coterie.features.storage import labelled_pairs
from coterie.workload import Workload
from coterie.workload.losses import MarginLoss
from coterie.workload.structure import HeadSpec, Structure

#: weight of the squared head on standardised representations, against the mean loss
RIDGE = 1e-2
_ITERATIONS = 100
#: passes over the training rows for heads that are not linear, and their step size
EPOCHS, _RATE, _BATCH = 3, 1e-2, 256


def fit_heads(workload: Workload, model: nn.Module, structure: Structure, seed: int) -> float:
    """Fit every head to its task in place, the trunk frozen as it is.

    A linear head minimises the mean training loss plus ``RIDGE / 2`` times its squared length on standardised
    representations, to the optimum. Other heads take a few passes of Adam. Call in evaluation mode.

    Args:
        workload: tasks and data.
        model: changed in place.
        structure: trunk and heads of the model.
        seed: of the order of the rows, for heads that are not linear.

    Returns:
        FLOPs of the solver for linear heads, without the passes through the model.

    Cost: one forward pass over the training rows; three and their backward passes where a head is not linear.
    """
    flops = 0.0
    pairs = labelled_pairs(workload, "train")
    features = capture(workload, model, structure, pairs, torch.float64)[1]
    named = dict(model.named_parameters())
    with torch.no_grad():
        for task, head in enumerate(structure.heads):
            if not head.linear:
                continue
            local = pairs.local[pairs.starts[task] : pairs.starts[task + 1]]
            if not len(local):
                continue
            coefficients, evaluations = _fit_task(workload, features, task, local, pairs.rows[local])
            flops += 6.0 * evaluations * len(local) * len(coefficients)
            for name, (rows, values) in head_displacement(structure, task, coefficients).items():
                target = named[name] if rows is None else named[name][list(rows)]
                values = values.reshape(target.shape).to(target)
                if rows is None:
                    target.copy_(values)
                else:
                    named[name][list(rows)] = values
    others = tuple(head for head in structure.heads if not head.linear and head.parameters)
    if others:
        _train(workload, model, others, pairs.rows, seed)
    return flops


def _fit_task(workload: Workload, features: HeadFeatures, task: int, local: Tensor, rows: Tensor) -> tuple[Tensor, int]:
    """Coefficients of a task's head, output by output with the bias last, and how often its loss was evaluated."""
    spec = workload.tasks[task]
    inputs, bias = features.representations[features.source[task]][local], features.bias[task]
    targets = workload.targets[rows, task].double()
    weight, shift, evaluations = fit_linear(inputs, targets, spec.loss, spec.width, bias=bias)
    return (torch.cat([weight, shift[:, None]], 1) if bias else weight).flatten(), evaluations


def fit_linear(
    inputs: Tensor, targets: Tensor, loss: MarginLoss, width: int, *, bias: bool = True
) -> tuple[Tensor, Tensor, int]:
    """The linear head with the least mean loss plus ridge, by L-BFGS in double precision.

    Args:
        inputs: (n, q) representations.
        targets: (n,) labels.
        loss: of the task.
        width: outputs of the task.
        bias: whether there is one; it is not penalised.

    Returns:
        weights (width, q) and biases (width,) for the representations as they are, and the number of evaluations.
    """
    center = inputs.mean(0) if bias else torch.zeros_like(inputs[0])
    scale = (inputs - center).square().mean(0).sqrt()
    scale = torch.where(scale > 1e-9 * scale.max().clamp_min(1e-30), scale, torch.inf)  # a constant input says nothing
    standard = (inputs - center) / scale
    evaluations = 0
    with torch.enable_grad():
        weight = inputs.new_zeros(width, inputs.shape[1]).requires_grad_()
        shift = inputs.new_zeros(width).requires_grad_()
        unknown = [weight, shift] if bias else [weight]
        solver = torch.optim.LBFGS(
            unknown, max_iter=_ITERATIONS, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def objective() -> Tensor:
            nonlocal evaluations
            evaluations += 1
            solver.zero_grad()
            margins = loss.margin(standard @ weight.T + shift, targets)
            value = loss.value(margins, targets).mean() + RIDGE / 2 * weight.square().sum()
            value.backward()
            return value

        solver.step(objective)  # pyright: ignore[reportArgumentType] - the closure may return a tensor
    found = weight.detach() / scale
    return found, shift.detach() - found @ center, evaluations


def _train(workload: Workload, model: nn.Module, heads: tuple[HeadSpec, ...], rows: Tensor, seed: int) -> None:
    """A few passes of Adam over the parameters of the heads; nothing else moves."""
    named = dict(model.named_parameters())
    parameters = [named[name] for name in dict.fromkeys(name for head in heads for name, _ in head.parameters)]
    solver = torch.optim.Adam(parameters, lr=_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        for batch in rows[order].split(_BATCH):
            targets, seen = workload.targets[batch], workload.observed[batch]
            margins = workload.margins(workload.outputs(model, workload.batch(batch)), targets)
            losses = torch.where(seen, workload.losses(margins, targets), 0.0).sum(0) / seen.sum(0).clamp_min(1)
            gradients = torch.autograd.grad(losses.sum(), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            solver.step()
