"""Losses that are negative, zero, infinite or NaN: balancers do right or say why not, and never go on in silence."""

from __future__ import annotations

import warnings

import pytest
import torch

from coterie.balancing import get_balancer, task_means
from coterie.balancing.balancer import ALL_MISSING, ONE_MISSING, MissingLossCounter
from coterie.errors import CoterieWarning, ModelError, SettingError

WEIGHTINGS = ("equal", "uncertainty", "dwa", "rlw", "famo", "marigold", "marigold-next")
RATIOS = {"uncertainty": {}, "dwa": {"window": 5}, "famo": {}, "marigold": {"phi": "log"}}


def bowl(x: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
    """Two losses whose minimum is `shift`."""
    return torch.stack([(x**2).sum(), ((x - 1) ** 2).sum()]) + shift


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_model_that_became_nan_is_no_batch_without_labels(name: str) -> None:
    """Missing labels of NaN that go through the loss: the losses of the first step are right, its gradient is not."""
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    optimizer, balancer = torch.optim.SGD(model.parameters(), lr=0.1), get_balancer(name, tasks=3)
    x, y = torch.randn(16, 5), torch.randn(16, 3)
    observed = torch.rand(16, 3) > 0.4
    y[~observed] = torch.nan

    def losses() -> torch.Tensor:
        return task_means((model(x) - y).square(), observed)

    balancer.step(losses, optimizer)
    with pytest.raises(ModelError, match=r"parameters of the model are NaN.*nan_to_num"):
        balancer.step(losses, optimizer)


def test_one_head_that_became_nan_is_noticed() -> None:
    """The other task goes on, so not all losses are NaN."""
    x = torch.ones(2, requires_grad=True)
    head = torch.full((1,), torch.nan, requires_grad=True)
    optimizer, balancer = torch.optim.SGD([x, head], lr=0.01), get_balancer("equal", tasks=2)

    def train() -> None:
        for _ in range(10):
            balancer.step(lambda: torch.stack([(x**2).sum(), (head**2).sum()]), optimizer)

    with pytest.raises(ModelError, match="diverged"):
        train()


def test_missing_labels_alone_are_no_fault() -> None:
    x = torch.ones(2, requires_grad=True)
    optimizer, balancer = torch.optim.SGD([x], lr=0.01), get_balancer("equal", tasks=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(40):  # every second batch has no label at all, and the second task never has one
            observed = torch.tensor([[step % 2 == 1, False]])
            balancer.step(lambda observed=observed: task_means(bowl(x)[None], observed), optimizer)
    assert balancer.steps == 20


def test_long_silence_is_said_once() -> None:
    x = torch.ones(2, requires_grad=True)
    optimizer, balancer = torch.optim.SGD([x], lr=0.01), get_balancer("equal", tasks=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3 * ALL_MISSING):
            balancer.step(lambda: bowl(x) * torch.nan, optimizer)
    assert [item.category for item in caught] == [CoterieWarning]
    assert "every task" in str(caught[0].message)
    watch = MissingLossCounter(2)
    for _ in range(ONE_MISSING - 1):
        watch(torch.tensor([False, True]), [x])
    with pytest.warns(CoterieWarning, match="task number 1"):
        watch(torch.tensor([False, True]), [x])


def test_only_steps_in_a_row_are_silence() -> None:
    """Every second batch has no label of the second task, or none at all; the others have all of them."""
    x = torch.ones(2, requires_grad=True)
    optimizer, balancer = torch.optim.SGD([x], lr=1e-4), get_balancer("equal", tasks=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(2 * ONE_MISSING + 10):
            observed = torch.tensor([[True, step % 2 == 1]])
            balancer.step(lambda observed=observed: task_means(bowl(x)[None], observed), optimizer)
        for step in range(2 * ALL_MISSING + 10):
            observed = torch.tensor([[step % 2 == 1] * 2])
            balancer.step(lambda observed=observed: task_means(bowl(x)[None], observed), optimizer)


@pytest.mark.parametrize("other", [torch.zeros(0, 3), torch.zeros(2, dtype=torch.cfloat), torch.zeros(2).bfloat16()])
def test_batches_without_labels_pass_whatever_the_parameters_are(other: torch.Tensor) -> None:
    x = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([x, torch.nn.Parameter(other)], lr=0.01)
    losses = get_balancer("equal", tasks=2).step(lambda: bowl(x) * torch.nan, optimizer)
    assert bool(losses.isnan().all())
    empty = torch.optim.SGD([torch.nn.Parameter(torch.zeros(0))], lr=0.01)
    assert bool(get_balancer("equal", tasks=2).step(lambda: bowl(x) * torch.nan, empty).isnan().all())


@pytest.mark.parametrize("name", RATIOS)
@pytest.mark.parametrize("floor", [0.0, -300.0])
def test_losses_below_their_floor_by_rounding_count_as_the_floor(name: str, floor: float) -> None:
    """One minus the cosine of two equal vectors is often -1.2e-7."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=1e-3)
    found = []
    for below in (0.0, 1.2e-7 * max(1.0, -floor)):
        balancer = get_balancer(name, tasks=2, floor=floor, **RATIOS[name])
        for _ in range(12):
            balancer.step(lambda below=below: torch.stack([x[0] * 0 - below, x[0] * 0 + 1.0]) + floor, optimizer)
        found.append(balancer.weights)
    assert torch.allclose(*found, rtol=1e-4)


@pytest.mark.parametrize("name", RATIOS)
def test_negative_losses_are_refused_or_measured_from_their_floor(name: str) -> None:
    x = torch.tensor([1.0, -1.0], requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.01)
    with pytest.raises(SettingError, match=r"at least `floor`, 0\. Found -"):
        get_balancer(name, tasks=2, **RATIOS[name]).step(lambda: bowl(x, -5.0), optimizer)
    assert x.tolist() == [1.0, -1.0]
    plain, moved = (
        get_balancer(name, tasks=2, floor=floor, **RATIOS[name]) for floor in (0.0, -5.0)
    )  # the same problem on another level has the same weights
    weights = []
    for balancer, shift in ((plain, 0.0), (moved, -5.0)):
        y = torch.tensor([1.0, -1.0], dtype=torch.float64, requires_grad=True)
        steps = torch.optim.SGD([y], lr=0.01)
        for _ in range(30):
            balancer.step(lambda y=y, shift=shift: bowl(y, shift), steps)
        weights.append(balancer.weights)
    assert torch.allclose(weights[0], weights[1], rtol=1e-6)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_loss_of_zero_leaves_finite_weights(name: str) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer, balancer = torch.optim.SGD([x], lr=1e-3), get_balancer(name, tasks=2)
    for _ in range(60):
        balancer.step(lambda: torch.stack([(x**2).sum(), (x * 0).sum()]), optimizer)
    assert bool(balancer.weights.isfinite().all())  # type: ignore[union-attr]
    assert bool(x.isfinite().all())


def test_uncertainty_stops_at_a_solved_task() -> None:
    """At a loss of 0 the logarithm of the variance goes to that of 1e-8, and no further."""
    balancer = get_balancer("uncertainty", tasks=1, learning_rate=0.5)
    x = torch.zeros(1, requires_grad=True)
    for _ in range(400):
        balancer.total(x.square())  # type: ignore[operator]
    assert float(balancer.weights) < 1e9  # type: ignore[arg-type]


def test_an_infinite_loss_does_not_stay_in_the_windows() -> None:
    balancer = get_balancer("dwa", tasks=2, window=2)
    one = torch.ones(2, requires_grad=True)
    for step in range(5):
        balancer.total(one * torch.tensor([torch.inf if step == 1 else 2.0, 1.0]))  # type: ignore[operator]
    assert balancer.weights.tolist() == [0.5, 0.5]  # type: ignore[union-attr]


@pytest.mark.parametrize("after", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["famo", "marigold-same"])
def test_a_loss_that_is_no_number_after_the_step_moves_the_others_only(name: str, after: float) -> None:
    x, asked = torch.ones(3, requires_grad=True), []
    balancer = get_balancer(name, tasks=3, **({} if name == "famo" else {"phi": "log"}))
    shares = balancer.shares if name == "famo" else balancer.lower.shares  # type: ignore[union-attr]

    def losses() -> torch.Tensor:
        asked.append(0)
        return (x * torch.tensor([1.0, 2.0, 3.0])).square() * torch.tensor(
            [1.0, after if len(asked) == 2 else 1.0, 1.0]
        )

    optimizer = torch.optim.SGD([x], lr=0.01)
    balancer.step(losses, optimizer)
    logits = shares.logits.clone()  # type: ignore[union-attr]
    assert len(asked) == 2
    assert logits[1] == 0
    assert bool((logits[[0, 2]] != 0).all())
    balancer.step(losses, optimizer)
    assert bool(shares.logits.isfinite().all())  # type: ignore[union-attr]
    assert shares.logits[1] != 0  # type: ignore[union-attr]


def test_losses_are_looked_at_anew_where_a_step_failed_or_others_are_given() -> None:
    """What a step knows about its losses goes with it."""
    x = torch.ones(2, requires_grad=True)
    balancer = get_balancer("famo", tasks=2)
    optimizer = torch.optim.SGD([x], lr=0.1)
    with pytest.raises(SettingError, match="floor"):
        balancer.step(lambda: x.square() - 5, optimizer)
    assert not balancer._whole  # type: ignore[union-attr]  # no graph is kept
    total = balancer.total(x * torch.tensor([torch.nan, 3.0]))  # type: ignore[operator]
    assert float(total.detach()) == 3
