"""Input attribution: do two single-task models look at the same inputs?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from coterie._process_lock import process_lock
from coterie._surface import known_arguments
from coterie._units import Payload
from coterie.affinity.costs import Prepared
from coterie.affinity.scores.single_tasks import SingleTaskScore, floating_inputs, models_of
from coterie.errors import ModelError
from coterie.training.job import Fit
from coterie.workload import Workload

PURPOSE = "Input attribution"


def attribution_maps(workload: Workload, model: nn.Module, task: int, rows: Tensor) -> Tensor:
    """(rows, numbers of an input) absolute input times gradient of a task's output, float64.

    The output is the prediction or the logit; for several classes, whose logits mean nothing one by one, it is the
    log-odds of the class that the model predicts. No label is read. Images (rows, channels, height, width) are averaged
    over their channels. Inputs that are no floating-point numbers are left as they are and out of the map.

    Raises:
        WorkloadError: when no input is a floating-point number.
        ModelError: when the output cannot be differentiated by the inputs.

    Cost: one forward and one backward pass over the rows.
    """
    names = list(floating_inputs(workload, PURPOSE))
    batch = workload.batch(rows)
    leaves = [(batch if name == "" else batch[name]).detach().clone().requires_grad_() for name in names]
    given = leaves[0] if names == [""] else {**batch, **dict(zip(names, leaves, strict=True))}
    with torch.enable_grad(), process_lock, torch.backends.cudnn.flags(enabled=False):
        outputs = workload.outputs(model, given)[:, workload.columns[task]]
        value = outputs
        if workload.tasks[task].loss.per_class:
            value = workload.tasks[task].loss.margin(outputs, outputs.detach().argmax(-1))
        grads: Sequence[Tensor | None] = [None] * len(leaves)
        if value.requires_grad:
            grads = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    if all(grad is None for grad in grads):
        raise ModelError(
            f"The output of task {workload.task_names[task]!r} does not depend on the inputs in a way that can be "
            "differentiated. Whole numbers given as floating-point inputs are the likely cause. Choose another score, "
            "such as rsa."
        )
    return torch.cat([_map(leaf.detach(), grad) for leaf, grad in zip(leaves, grads, strict=True)], 1)


def _map(values: Tensor, grad: Tensor | None) -> Tensor:
    product = (torch.zeros_like(values) if grad is None else values * grad).abs().double()
    return (product.mean(1) if product.dim() == 4 else product).flatten(1)


def summed_cosines(maps: Tensor) -> Tensor:
    """(T, T) cosines of the maps of every two tasks, summed over rows; `maps` is (T, rows, numbers).

    A map without any attribution has cosine 0 with all others.
    """
    norms = maps.norm(dim=2, keepdim=True)
    unit = torch.where(norms > 0, maps / torch.where(norms > 0, norms, 1.0), 0.0).flatten(1)
    return unit @ unit.T


@known_arguments
@dataclass(frozen=True)
class Attribution(SingleTaskScore):
    """Similarity of what single-task models look at; symmetric, from 0 to 1, larger is more alike.

    The attribution of an example is the absolute value of input times gradient of the task's output, see
    :func:`attribution_maps`; the score of two tasks is the cosine of their maps, averaged over K examples. The diagonal
    of the affinity is 0.

    Args:
        rows: number K of validation rows, the same for all tasks. Where every task has rows of its own they are drawn
            from those of all tasks.

    Raises:
        SettingError: when `rows` is below 1.
        WorkloadError: when it estimates and no input is a floating-point number.
        ModelError: when it estimates and the outputs cannot be differentiated by the inputs.

    Cost: one training a task, and K forward and backward passes a task.

    Limits: a symmetric score cannot say who gains from whom. Inputs must be floating-point numbers. Tasks that hang on
    the same input in opposite ways score high.

    Source: "It's a MATCH!", arXiv 2301.02873 (input-attribution similarity); J. Song et al., Deep model transferability
    from attribution maps, NeurIPS 2019. The log-odds for several classes are ours.

    Example:
        >>> Attribution(rows=100).name
        'attribution'
    """

    needs_one_output: ClassVar[bool] = True
    measured: ClassVar[str] = "attribution"
    stage: ClassVar[str] = "similarity of attributions"

    def _check(self, workload: Workload, rows: int, memory: int) -> None:
        del rows, memory
        floating_inputs(workload, PURPOSE)

    def _compare(self, prepared: Prepared, fits: list[Fit], rows: Tensor) -> Payload:
        chunk = max(1, min(256, prepared.context.memory // (32 * len(fits) * _size(prepared.workload))))
        total = torch.zeros(len(fits), len(fits), dtype=torch.float64, device=rows.device)
        done = 0
        for part in rows.split(chunk):
            models = enumerate(models_of(prepared, fits))
            total += summed_cosines(
                torch.stack([attribution_maps(prepared.workload, model, task, part) for task, model in models])
            )
            done += len(part)
            prepared.context.progress(self.stage, done, len(rows))
        return Payload({"values": (total / len(rows)).cpu().numpy()})

    def _flops(self, prepared: Prepared, rows: int, payload: Payload) -> float:
        del payload
        n = prepared.workload.n_tasks
        return n * rows * prepared.costs.unit.training + 2.0 * n * n * rows * _size(prepared.workload)


def _size(workload: Workload) -> int:
    """Numbers of an input that can be attributed to."""
    return sum(value[0].numel() for value in floating_inputs(workload, PURPOSE).values())
