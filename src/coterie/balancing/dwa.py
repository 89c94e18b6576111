"""Dynamic weight average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coterie._surface import known_arguments
from coterie.balancing.balancer import one_each
from coterie.balancing.criterion import check_floor
from coterie.balancing.weighting import Weighting
from coterie.errors import SettingError


@known_arguments
class DynamicWeightAverage(Weighting):
    """Dynamic weight average (DWA): tasks whose loss falls more slowly count for more.

    Weights are the softmax over tasks of ``rate / temperature``, where the rate is the mean loss of the last window of
    steps over that of the window before. They are equal during the first two windows.

    Args:
        tasks: number of tasks.
        window: steps whose losses are averaged; as published, the steps of an epoch. With `members`, one number for
            all or a sequence with one for each.
        temperature: the larger, the more equal the weights.
        floor: lowest value that a loss can take; rates are those of the distance from it.
        members: see :class:`Balancer`.

    Cost: as equal weights.

    Source: Liu, Johns and Davison, CVPR 2019, equation 7; divided by the number of tasks. A task that is missing
        throughout a window has rate 1.

    Raises:
        SettingError: when `window` or `temperature` is out of range, the number of windows is not that of the members,
            or a loss lies below `floor`: a ratio of losses with different signs says nothing.

    Example:
        >>> dwa = DynamicWeightAverage(2, window=1)
        >>> model = torch.ones(2, requires_grad=True)
        >>> for losses in ([4.0, 4.0], [4.0, 1.0], [4.0, 1.0]):
        ...     total = dwa.total(model * torch.tensor(losses))
        >>> dwa.weights
        tensor([0.5927, 0.4073])
    """

    sums: Tensor
    counts: Tensor
    newer: Tensor
    older: Tensor

    def __init__(
        self,
        tasks: int,
        window: int | Sequence[int] = 100,
        temperature: float = 2.0,
        floor: float = 0.0,
        *,
        members: int | None = None,
    ) -> None:
        super().__init__(tasks, members)
        windows = one_each(window, "window", members)
        if min(windows) < 1:
            raise SettingError(f"Parameter `window` should be at least 1 step. Found {window!r}.")
        if not temperature > 0:
            raise SettingError(f"Parameter `temperature` should be above 0. Found {temperature!r}.")
        self.temperature, self.floor = temperature, floor
        self._windows = windows
        for name in ("sums", "counts"):
            self.register_buffer(name, torch.zeros(self.shape))
        for name in ("newer", "older"):
            self.register_buffer(name, torch.full(self.shape, torch.nan))

    def begin(self, values: Tensor, present: Tensor) -> None:
        """Close the last window when it is full, and add the losses to the present one."""
        known = torch.where(present, values, torch.inf)
        check_floor(known, self.floor, "With dynamic weight average every", "or use another method, such as 'equal'")
        full = [self.steps > 0 and self.steps % window == 0 for window in self._windows]
        if any(full):
            close = torch.tensor(full, device=values.device).view(*self.shape[:-1], 1)
            self.older.copy_(torch.where(close, self.newer, self.older))
            self.newer.copy_(torch.where(close, self.sums / self.counts, self.newer))  # NaN without a label in it
            self.sums.masked_fill_(close, 0.0)
            self.counts.masked_fill_(close, 0.0)
        finite = present & values.isfinite()
        self.sums += torch.where(finite, values - self.floor, 0.0).clamp(min=0)
        self.counts += finite

    def weigh(self, values: Tensor, present: Tensor) -> Tensor:
        """Softmax of the rates."""
        rate = (self.newer / self.older).nan_to_num(1.0, 1.0, 1.0) / self.temperature
        return torch.softmax(rate.masked_fill(~present, -torch.inf), -1)

    def select(self, index: Tensor) -> None:
        """See :meth:`Weighting.select`."""
        super().select(index)
        self._windows = [self._windows[i] for i in index.tolist()]
