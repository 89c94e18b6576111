"""Random loss weighting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coterie._surface import known_arguments
from coterie.balancing.balancer import one_each
from coterie.balancing.weighting import Weighting

_BLOCK = 64


@known_arguments
class RandomWeighting(Weighting):
    """Random loss weighting (RLW): at each step the softmax of independent standard normal numbers.

    Args:
        tasks: number of tasks.
        seed: of the weights, which depend on it and the number of the step only, not on PyTorch's own random numbers.
            With `members`, one number for all or a sequence with one for each.
        members: see :class:`Balancer`.

    Cost: as equal weights.

    Source: Lin, Ye, Zhang and Tsang, TMLR 2022, algorithm 2 (normal distribution).

    Raises:
        SettingError: when the number of seeds is not that of the members.

    Example:
        >>> RandomWeighting(3).total(torch.ones(3)).round(decimals=4)
        tensor(1.)
    """

    def __init__(self, tasks: int, seed: int | Sequence[int] = 0, *, members: int | None = None) -> None:
        super().__init__(tasks, members)
        self._seeds = one_each(seed, "seed", members)
        self._block, self._number = torch.empty(0), -1

    def weigh(self, values: Tensor, present: Tensor) -> Tensor:
        """Softmax of this step's numbers."""
        number, offset = divmod(self.steps, _BLOCK)
        if number != self._number or self._block.device != values.device:
            self._block, self._number = self._draw(number).to(values), number
        return torch.softmax(self._block[offset].masked_fill(~present, -torch.inf), -1)

    def select(self, index: Tensor) -> None:
        """See :meth:`Weighting.select`."""
        super().select(index)
        self._seeds = [self._seeds[i] for i in index.tolist()]
        self._number = -1

    def _draw(self, number: int) -> Tensor:
        """(steps, ..., tasks) normal numbers of one block of steps, made on the CPU so that devices agree."""
        blocks: list[Tensor] = []
        for seed in self._seeds:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
            blocks.append(torch.randn(_BLOCK, self.tasks, generator=generator))
        return torch.stack(blocks, 1).view(_BLOCK, *self.shape)
