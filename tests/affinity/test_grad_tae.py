"""The whole estimator on small models: against real retraining, against the network, and its parts."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn

from coterie.affinity import GradTAE, get_estimator
from coterie.affinity.blocks import Penalty, compute_statistics
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.linear import FLOOR, GRID, _match
from coterie.affinity.linearize import displacements, orthonormal, stack, stretch, task_blocks, task_gradients
from coterie.affinity.newton import values
from coterie.affinity.refine import Stopping, iterate
from coterie.errors import SettingError, StoreError
from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.features.directions import StackedDirections
from coterie.workload import Recipe, Split, Task, Workload, from_arrays

P, N_TASKS, ROWS = 12, 4, 240


class Shared(nn.Module):
    """Margins that are linear in one shared parameter vector: h(x, t) = (M_t x) . theta."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.register_buffer("maps", torch.randn(N_TASKS, P, P, generator=generator, dtype=torch.float64) / P**0.5)
        start = torch.Generator().manual_seed(seed)
        self.theta = nn.Parameter(0.3 * torch.randn(P, generator=start, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("tpq,nq,p->nt", self.maps, x, self.theta)


def linear_workload() -> Workload:
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.normal(size=(ROWS, P)))
    model = Shared(1)
    truth = torch.as_tensor(rng.normal(size=(N_TASKS, P)))
    logits = torch.einsum("tpq,nq,tp->nt", model.maps, x, truth)
    labels = (logits + torch.as_tensor(rng.logistic(size=logits.shape)) > 0).double()
    labels[torch.as_tensor(rng.random(labels.shape) < 0.2)] = torch.nan
    rows = torch.arange(ROWS)
    split = Split(rows[:140], rows[140:200], rows[200:])
    tasks = tuple(Task(f"t{i}") for i in range(N_TASKS))
    return Workload("linear", tasks, x, labels, split, Shared, Recipe(epochs=2, batch_size=20))


def retrained(work: Workload, start: np.ndarray, subset: tuple[int, ...], ridge: float) -> np.ndarray:
    """Validation losses after really minimising the subset's regularised training loss over the parameters (scipy)."""
    maps, x = Shared(0).maps.numpy(), work.inputs.numpy()  # type: ignore[union-attr]
    y, seen = work.targets.numpy(), work.observed.numpy()

    def data(part: Tensor, task: int) -> tuple[np.ndarray, np.ndarray]:
        rows = part.numpy()[seen[part.numpy(), task]]
        return x[rows] @ maps[task].T, y[rows, task]

    train = [data(work.split.train, task) for task in subset]
    count = sum(len(labels) for _, labels in train)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = 0.0, np.zeros(P)
        for features, labels in train:
            h = features @ theta
            loss += float((np.logaddexp(0, h) - labels * h).sum())
            slope += features.T @ (1 / (1 + np.exp(-h)) - labels)
        move = theta - start
        return loss / count + ridge / 2 * move @ move, slope / count + ridge * move

    theta = minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-12, "ftol": 0, "maxiter": 2000}
    ).x
    result = np.full(N_TASKS, np.nan)
    for task in subset:
        features, labels = data(work.split.validation, task)
        h = features @ theta
        result[task] = (np.logaddexp(0, h) - labels * h).mean()
    return result


def estimated(work: Workload, model: nn.Module, directions: object, ridge: float, offset: bool = True) -> np.ndarray:
    blocks = {}
    for part in ("train", "validation"):
        features = compute_features(work, model, directions, FeatureOptions(heads="projected"), part=part)  # type: ignore[arg-type]
        blocks[part] = task_blocks(work, features)
    statistics = compute_statistics(blocks["train"], offset=offset)
    solution = iterate(statistics, blocks["train"], MASK, ridge, penalty=Penalty(), stopping=Stopping(1e-12))
    return values(solution, blocks["validation"])


SUBSETS = [s for size in (1, 2, 3, 4) for s in combinations(range(N_TASKS), size)]
MASK = np.array([[task in subset for task in range(N_TASKS)] for subset in SUBSETS])


def test_values_equal_retraining_when_the_model_is_linear_and_nothing_is_projected() -> None:
    work, model, ridge = linear_workload(), Shared(3), 0.01
    unit = StackedDirections({"theta": torch.eye(P, dtype=torch.float64)})
    start = model.theta.detach().numpy()
    truth = np.array([retrained(work, start, subset, ridge) for subset in SUBSETS])
    assert np.array_equal(np.isnan(estimated(work, model, unit, ridge)), np.isnan(truth))
    error = np.nanmax(np.abs(estimated(work, model, unit, ridge) - truth))
    without = np.nanmax(np.abs(estimated(work, model, unit, ridge, offset=False) - truth))
    assert error < 1e-4
    assert without > 100 * error
    assert without > 0.01


def test_projection_error_falls_with_the_number_of_directions() -> None:
    work, model, ridge = linear_workload(), Shared(3), 0.01
    truth = np.array([retrained(work, model.theta.detach().numpy(), subset, ridge) for subset in SUBSETS])
    errors = []
    for count in (4, 32, 512):
        rows = [estimated(work, model, RandomDirections({"theta": (P,)}, count, seed), ridge) for seed in range(3)]
        errors.append(float(np.mean([np.sqrt(np.nanmean((row - truth) ** 2)) for row in rows])))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.fixture(scope="module")
def small() -> Workload:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    recipe = Recipe(learning_rate=5e-3, batch_size=50, check_every=5, patience=2, epochs=6)
    return from_arrays(x[:400], (y[:400, None] == np.arange(4)).astype(float), recipe=recipe, hidden=(16, 12))


def test_linear_and_network_values_agree_for_small_moves(small: Workload) -> None:
    """With a strong ridge the fitted parameters stay near the base, where the network is linear."""
    options = {"directions": "task-gradients", "bases": 2, "share": 0.3}
    difference = []
    for ridge in (100.0, 3.0):
        linear = get_estimator("task-vectors", ridge=ridge, **options).estimate(small).model
        network = get_estimator("task-vectors", ridge=ridge, evaluation="network", **options).estimate(small).model
        a, b = linear.predict_values([[0, 1, 2], [1, 3]]), network.predict_values([[0, 1, 2], [1, 3]])
        moved = np.nanmax(np.abs(a - linear.predict_values(np.array([[1, 1, 1, 0], [0, 1, 0, 1]], bool))))
        assert moved == 0
        difference.append(np.nanmax(np.abs(a - b)))
    assert difference[0] < 1e-4
    assert 10 * difference[0] < difference[1]


def test_gain_is_zero_alone_and_standard_errors_need_two_bases(small: Workload) -> None:
    model = GradTAE(bases=2, ridge=0.01).estimate(small).model
    assert np.nanmax(np.abs(model.predict(np.eye(4, dtype=bool)))) < 1e-12
    pair = [["task 0", "task 2"]]
    assert np.isnan(model.predict(pair)[0, 1])
    error = model.standard_error(pair)
    assert error is not None
    assert error[0, 0] > 0
    assert GradTAE(bases=1, ridge=0.01).estimate(small).model.standard_error(pair) is None


def test_the_order_of_the_tasks_does_not_matter(small: Workload) -> None:
    """Without random directions, permuted label columns and heads give permuted affinities."""
    swap = [2, 0, 3, 1]

    def build(seed: int) -> nn.Module:
        model = small.build_model(seed)
        with torch.no_grad():
            model.head.weight.copy_(model.head.weight[swap])  # type: ignore[union-attr, operator, index, arg-type]
            model.head.bias.copy_(model.head.bias[swap])  # type: ignore[union-attr, operator, index, arg-type]
        return model

    tasks = tuple(small.tasks[t] for t in swap)
    other = Workload("swapped", tasks, small.inputs, small.labels[:, swap], small.split, build, small.recipe)
    settings_ = {"bases": 1, "ridge": 0.01}
    a = GradTAE(**settings_).estimate(small).model.pairwise().values  # type: ignore[arg-type]
    b = GradTAE(**settings_).estimate(other).model.pairwise().values  # type: ignore[arg-type]
    assert b == pytest.approx(a[np.ix_(swap, swap)], abs=2e-3)


def test_task_gradients_equal_autograd(small: Workload) -> None:
    model = small.build_model(0)
    trunk = ["trunk.0.weight", "trunk.0.bias"]
    rows = small.split.train
    got = task_gradients(small, model.state_dict(), trunk)
    parameters = [dict(model.named_parameters())[name] for name in trunk]
    for task in range(4):
        loss = nn.functional.binary_cross_entropy_with_logits(
            model(small.inputs[rows])[:, task], small.labels[rows, task]
        )  # type: ignore[index]
        want = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        assert torch.allclose(got[task].float(), want, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 6), p=st.integers(6, 30), seed=st.integers(0, 1000))
def test_orthonormal_rows_span_the_same_space(n: int, p: int, seed: int) -> None:
    rows = torch.randn(n, p, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis = orthonormal(rows)
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), atol=1e-8)
    assert torch.allclose(rows @ basis.T @ basis, rows, atol=1e-6)
    doubled = orthonormal(torch.cat([rows, 3 * rows[:1]]))
    assert len(doubled) == len(basis)


def test_stacked_task_vectors_give_back_the_displacement(small: Workload) -> None:
    start, end = small.build_model(0).state_dict(), small.build_model(1).state_dict()
    trunk = ["trunk.0.weight", "trunk.2.bias"]
    rows = displacements(start, [end], trunk)
    directions = stack(orthonormal(rows), start, trunk)
    moved = directions.displacement(torch.tensor([float(rows.norm())]))
    assert torch.allclose(
        moved["trunk.0.weight"].abs(), (end["trunk.0.weight"] - start["trunk.0.weight"]).abs(), atol=1e-5
    )
    assert stretch(directions) == 1.0


def test_ridge_is_read_off_where_the_moves_match() -> None:
    moves = np.outer(1 / np.sqrt(GRID), [1.0, 2.0])  # both tasks move as 1 / sqrt(strength)
    goal = [10.0, 20.0]  # reached at strength 0.01
    assert _match(moves, goal) == pytest.approx(0.01, rel=1e-6)
    assert _match(moves, [1e9, 1e9]) == FLOOR
    assert _match(moves, [1e-9, 1e-9]) == pytest.approx(GRID[0])


def test_share_zero_keeps_early_stopped_bases_and_notes_say_so(small: Workload) -> None:
    estimate = get_estimator("grad-tag", count=20).estimate(small)
    assert any("default of the tasks' losses" in note for note in estimate.notes)
    assert any("mode" in note for note in estimate.notes)
    assert estimate.costs.flops > 0


def test_settings_that_do_not_fit_are_named() -> None:
    for options, name in (
        ({"directions": "up"}, "directions"),
        ({"heads": "projected"}, "heads"),
        ({"ridge": 0.0}, "ridge"),
        ({"ridge": "best"}, "ridge"),
        ({"share": 1.0}, "share"),
        ({"bases": 0}, "bases"),
        ({"fork": 0.0}, "fork"),
        ({"evaluation": "guess"}, "evaluation"),
    ):
        with pytest.raises(SettingError, match=name):
            GradTAE(**options)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="nope"):
        get_estimator("nope")
    with pytest.raises(SettingError, match="colour"):
        get_estimator("grad-tag", colour=3)


@pytest.mark.parametrize("fit", ["one-step", "converged"])
def test_a_saved_model_predicts_the_same(small: Workload, tmp_path: Path, fit: str) -> None:
    model = GradTAE(bases=2, ridge=0.01, fit=fit).estimate(small).model
    again = GradTAEModel.load(model.save(tmp_path / "model.safetensors"))
    subsets = [[0, 1, 2], [1, 3], [2]]
    # up to rounding: products of copied and of viewed tensors may add up in another order
    assert np.allclose(again.predict(subsets), model.predict(subsets), atol=1e-6, equal_nan=True)
    assert np.allclose(again.standard_error(subsets), model.standard_error(subsets), atol=1e-6, equal_nan=True)  # type: ignore[arg-type]
    assert again.tasks == model.tasks


def test_files_that_hold_no_model_are_refused(small: Workload, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"no tensors here")
    with pytest.raises(StoreError, match="damaged"):
        GradTAEModel.load(tmp_path / "garbage")
    with pytest.raises(StoreError, match="no file"):
        GradTAEModel.load(tmp_path / "nothing")
    network = get_estimator("task-vectors", bases=1, ridge=0.01, evaluation="network").estimate(small).model
    with pytest.raises(SettingError, match="network"):
        network.save(tmp_path / "model.safetensors")
