"""What a pass over one example costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.utils.flop_counter import FlopCounterMode

from coterie._random import random_numbers
from coterie.training.evaluate import row_losses
from coterie.training.kernels import open_kernels
from coterie.training.stack import Outputs
from coterie.training.stream import derive
from coterie.workload.graph_net import whole_pass
from coterie.workload.workload import Workload

_ROWS = 8


@dataclass(frozen=True)
class UnitCost:
    """FLOPs of one example: multiplications and additions of matrix products and convolutions.

    Attributes:
        forward: a forward pass.
        training: a forward and a backward pass.
        jvp: a forward pass with one forward-mode tangent, the pass without it included; three forward passes where
            every layer is a matrix product of weights and activations, since both have tangents.
    """

    forward: float
    training: float
    jvp: float

    def step(self, passes: tuple[float, float] = (1.0, 1.0)) -> float:
        """One example in a training step of so many forward and backward passes, as balancing may ask for more.

        Example:
            >>> UnitCost(forward=2.0, training=6.0, jvp=4.0).step((2.0, 1.0))
            8.0
        """
        forward, backward = passes
        return self.training + (forward - 1) * self.forward + (backward - 1) * (self.training - self.forward)


def measure_cost(workload: Workload) -> UnitCost:
    """Count the FLOPs of one example with torch's FlopCounterMode, on a few rows of the training part.

    Element-wise work is not counted, as is usual. Where the model has no forward-mode derivative the JVP counts as the
    forward pass and two more, which is what it takes for matrix products.

    Returns:
        The costs of one example.

    Example:
        >>> UnitCost(forward=2.0, training=6.0, jvp=4.0).training
        6.0
    """
    device = workload.labels.device
    train = workload.split.train
    with random_numbers(device):
        model = workload.build_model(0).to(device)
        # rows of a batch share a pass that costs the same for any
        count = min(workload.recipe.batch_size, len(train)) if whole_pass(model) else _ROWS
        rows = train[torch.arange(count, device=train.device) % len(train)]
        model.train()
        training = _count(lambda: row_losses(workload, model, rows)[0].sum().backward())
        model.eval()
        with torch.no_grad():
            forward = _count(lambda: workload.outputs(model, workload.batch(rows)))
        tangent = _tangent_cost(workload, model, rows, forward)
    return UnitCost(forward / count, training / count, tangent / count)


def _tangent_cost(workload: Workload, model: nn.Module, rows: Tensor, forward: float) -> float:
    wrapped = Outputs(workload, model)
    values = {name: value.detach() for name, value in wrapped.named_parameters()}
    generator = torch.Generator().manual_seed(derive(0, 3))
    direction = {name: torch.randn(v.shape, generator=generator).to(v) for name, v in values.items()}
    batch = workload.batch(rows)

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(wrapped, parameters, (batch,))

    try:
        return max(_count(lambda: jvp(outputs, (values,), (direction,))), forward)
    except (RuntimeError, NotImplementedError):
        return 3 * forward


def _count(run: Callable[[], object]) -> float:
    counter = FlopCounterMode(display=False)
    with open_kernels(recurrent=True), counter:
        run()
    return float(counter.get_total_flops())
