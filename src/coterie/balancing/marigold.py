"""MARIGOLD with a probe: a reconstruction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from coterie._surface import known_arguments
from coterie.balancing.criterion import Criterion
from coterie.balancing.shares import complete, everyone, make_shares
from coterie.balancing.weighting import Weighting
from coterie.errors import SettingError


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


@dataclass(frozen=True)
class LowerSettings:
    """Settings of the balancing problem, under the names that they have as options of a balancer.

    Args:
        phi: ``"identity"`` or ``"log"``, see :class:`Criterion`.
        floor: lowest value that a loss can take; only for ``"log"``.
        form: ``"softmax"`` or ``"simplex"``, see :mod:`coterie.balancing.shares`.
        learning_rate: of the shares.
        decay: of the logits; None means 0.001, and 0 for the simplex, which has no logits.
        rho: how strongly shares are pulled to equal ones, in units of q.
        adaptive: whether steps do not depend on the scale of q.
        smoothing: share of the past in a running mean of q; 0 takes each q as it is.
    """

    phi: str
    floor: float
    form: str
    learning_rate: float
    decay: float | None
    rho: float
    adaptive: bool
    smoothing: float

    @staticmethod
    def of(balancer: object) -> LowerSettings:
        """Those of a balancer that has all of them as attributes."""
        return LowerSettings(**{field.name: getattr(balancer, field.name) for field in fields(LowerSettings)})


class LowerLevel(nn.Module):
    """Shares that minimise ``|| sum_i share_i grad phi(loss_i) ||^2 / 2 + rho / 2 || shares - 1 / tasks ||^2``.

    The gradient of the first term with respect to the shares is the vector q of slopes: how fast each phi(loss) falls
    along the direction ``sum_i share_i grad phi(loss_i)``. Whoever has q, or something proportional to it, calls
    :meth:`descend`.

    Args:
        shape: (..., tasks).
        settings: of the problem.

    Raises:
        SettingError: when a value is unknown or out of range.
    """

    mean: Tensor

    def __init__(self, shape: tuple[int, ...], settings: LowerSettings) -> None:
        super().__init__()
        learning_rate, decay, rho, smoothing = (
            settings.learning_rate, settings.decay, settings.rho, settings.smoothing,
        )  # fmt: skip
        if not learning_rate > 0:
            raise SettingError(f"Parameter `learning_rate` should be above 0. Found {learning_rate!r}.")
        if not rho >= 0:
            raise SettingError(f"Parameter `rho` should be at least 0. Found {rho!r}.")
        if not 0 <= smoothing < 1:
            raise SettingError(f"Parameter `smoothing` should be at least 0 and below 1. Found {smoothing!r}.")
        self.criterion = Criterion(settings.phi, settings.floor)
        if decay is None:
            decay = 0.0 if settings.form == "simplex" else 1e-3
        self.shares = make_shares(settings.form, shape, learning_rate, decay, settings.adaptive)
        self.rho, self.smoothing = rho, smoothing
        self.register_buffer("mean", torch.full(shape if smoothing else (*shape[:-1], 0), torch.nan))

    def weights(self, values: Tensor, present: Tensor) -> Tensor:
        """(..., tasks) factors of the losses, see :meth:`Criterion.weights`."""
        return self.criterion.weights(self.shares.forward(present), values)

    def descend(self, slopes: Tensor, present: Tensor) -> None:
        """Move the shares of the tasks that are present and whose slope is finite."""
        if present is not everyone(present.shape) or not complete(slopes):
            present = present & slopes.isfinite()
        if self.smoothing:
            new = torch.where(self.mean.isnan(), slopes, torch.lerp(slopes, self.mean, self.smoothing))
            self.mean.copy_(torch.where(present, new, self.mean))
            slopes = self.mean
        if self.rho:
            number = present.sum(-1, keepdim=True)
            slopes = slopes + self.rho * (self.shares.forward(present) - 1 / number)
        self.shares.descend(slopes, present)


@dataclass(eq=False, repr=False, kw_only=True)
class BilevelWeighting(Weighting):
    """Weights from shares that solve the balancing problem; a subclass finds the slopes.

    A subclass also has `tasks`, `phi` and `form`. The other settings are those of :class:`LowerSettings`, and
    `members` that of :class:`Balancer`.
    """

    learning_rate: float = 0.025
    decay: float | None = None
    rho: float = 0.0
    adaptive: bool = True
    smoothing: float = 0.0
    floor: float = 0.0
    members: int | None = None

    def __post_init__(self) -> None:
        super().__init__(self.tasks, self.members)
        self.lower = LowerLevel(self.shape, LowerSettings.of(self))

    def weigh(self, values: Tensor, present: Tensor) -> Tensor:
        """Factors of the losses, which add up to one."""
        return self.lower.weights(values, present)


#: smallest relative change of the weighted loss that a probe should make, in units of the rounding error
_ROUNDINGS = 100.0


@known_arguments
@dataclass(eq=False, repr=False)
class Marigold(BilevelWeighting):
    """MARIGOLD, probe form: all tasks' slopes along the common gradient from one extra forward pass.

    This is a reconstruction. The paper's text was not at hand; its abstract says that it states balancing as a
    bi-level problem and solves it with a zeroth-order method at a cost that does not grow with the number of tasks.
    The mechanism here has these properties. With d the gradient of the weighted loss, which training computes anyway,
    the gradient of MGDA's criterion with respect to the share of task j is the slope <grad loss_j, d>. One forward pass
    at ``parameters - mu d`` gives the losses of all tasks there, and their differences divided by mu are all the
    slopes, off by at most ``smoothness mu |d|^2 / 2``. MGDA would need one backward pass a task.

    How long may the move be? The weighted sum of the slopes is |d|^2, which is known. What is missing from it is due
    to curvature and grows with mu, so mu is corrected after every probe until the sum is off by `tolerance`, but kept
    above what rounding would hide. A probe that is off by more than |d|^2 itself is not used.

    With ``phi="log"`` the criterion does not depend on the scale of a loss; slopes are then those of the logarithms
    along d. As the factors of the losses in d are scaled to add up to one, they are MGDA's up to a common factor.

    Args:
        tasks: number of tasks.
        every: a probe every so many steps; between them the shares stay.
        phi: ``"identity"``: the losses as they are; ``"log"``: their logarithms, as in FAMO.
        form: ``"softmax"`` shares, or shares on the ``"simplex"``.
        distance: length of the first probe's move in units of the length of the parameters.
        tolerance: relative error of the weighted sum of slopes to which the move is fitted; None gives every move the
            same relative `distance`.
        fresh: True computes the losses before the move again as well (one more forward pass), instead of taking those
            of the training pass; for mixed precision.
        learning_rate: of the shares, for each move. With rare probes the shares move less a step; a larger rate makes
            up for it where a batch tells enough, but where many labels are missing it follows the noise of single
            batches.
        decay, rho, adaptive, smoothing: see :class:`LowerLevel`.
        floor: lowest value that a loss can take, for ``phi="log"``.
        members: see :class:`Balancer`.

    Cost: one more forward pass every `every` steps, without a graph, and one copy of the parameters while it lasts.

    Limits: in bfloat16 the rounding of a forward pass hides the small move. Let the function that gives the losses
        enter ``torch.autocast(..., enabled=torch.is_grad_enabled())``, so that only the training pass has low
        precision, and set `fresh`. The gradient must be that of this batch, neither clipped nor added up over batches.

    Source: reconstruction of MARIGOLD, "Feed m Birds with One Scone" (2026), after its abstract.

    Raises:
        SettingError: when a value is unknown or out of range, or a loss lies below `floor`.

    Example:
        >>> x = torch.tensor([3.0, -1.0], requires_grad=True)
        >>> marigold, optimizer = Marigold(2, every=1), torch.optim.SGD([x], lr=0.1)
        >>> for _ in range(3):
        ...     losses = marigold.step(lambda: torch.stack([(x**2).sum(), ((x - 1) ** 2).sum()]), optimizer)
        >>> marigold.weights.sum().round(decimals=4)
        tensor(1.)
    """

    tasks: int
    every: int = 10
    phi: str = "identity"
    form: str = "softmax"
    distance: float = 1e-3
    tolerance: float | None = 0.03
    fresh: bool = False
    mu: Tensor = field(init=False)
    looks_again = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise SettingError(f"Parameter `every` should be at least 1 step. Found {self.every!r}.")
        if not self.distance > 0:
            raise SettingError(f"Parameter `distance` should be above 0. Found {self.distance!r}.")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise SettingError(f"Parameter `tolerance` should be between 0 and 1, or None. Found {self.tolerance!r}.")
        #: how far the next probe goes, in units of the gradient; NaN before the first
        self.register_buffer("mu", torch.full(self.shape[:-1], torch.nan))
        self._seen: tuple[Tensor, Tensor] | None = None

    @property
    def due(self) -> bool:
        """Whether the coming step has a probe."""
        return self.steps % self.every == 0

    @property
    def passes(self) -> tuple[float, float]:
        """See :attr:`Balancer.passes`: one more forward pass a probe, or two."""
        return 1 + (1 + self.fresh) / self.every, 1.0

    def begin(self, values: Tensor, present: Tensor) -> None:
        """Remember the losses when a probe is due."""
        self.lower.criterion.check(values, present)
        self._seen = (values, present) if self.due else None

    @torch.no_grad()
    def before_step(self, again: Callable[[], Tensor], parameters: Iterable[Tensor]) -> None:
        """Probe, if one is due, and move the shares."""
        if self._seen is None:
            return
        (values, present), self._seen = self._seen, None
        parameters = list(parameters)
        if self.fresh:
            values = torch.where(present, again().to(values), values)
        slopes, off = self.probe(values, present, again, parameters)
        self.lower.descend(slopes, present & (off <= 1).unsqueeze(-1))

    @torch.no_grad()
    def probe(
        self, values: Tensor, present: Tensor, again: Callable[[], Tensor], parameters: Iterable[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """How fast phi of each loss falls along the gradient, and how far the probe can be trusted.

        Args:
            values: (tasks,) losses at the present parameters.
            present: (tasks,) which tasks are in the batch.
            again: gives the losses of the same batch at the parameters of the moment.
            parameters: what moves; each has its ``.grad``.

        Returns:
            (tasks,) slopes per unit of `mu`, and the relative error of their weighted sum, a scalar or (members,).
        """
        moving, gradients = with_gradients(parameters)
        stacked = self.members is not None
        size = length(gradients, stacked).to(values)
        mu = self.mu
        if mu.device.type != "cpu" or bool(mu.isnan().any()):  # elsewhere asking would mean waiting
            first = self.distance * length(moving, stacked).to(values) / size
            mu = torch.where(mu.isnan(), first, mu)
        total = torch.where(present, self.last * values, 0.0).sum(-1)
        if self.tolerance is not None:
            mu = torch.maximum(mu, _ROUNDINGS * torch.finfo(values.dtype).eps * total.abs() / size.square())
        with shifted(parameters, mu):
            there = again().to(values)
        fell = torch.where(present, self.last * (values - there), 0.0).sum(-1)
        off = (1 - fell / (mu * size.square())).abs()
        if self.tolerance is not None:
            better = mu * (self.tolerance / off).clamp(0.25, 2.0)
            self.mu.copy_(torch.where(better.isfinite() & (better > 0), better, self.mu))
        phi = self.lower.criterion
        return (phi(values) - phi(there)) / mu.unsqueeze(-1), off
