"""Features from the ends of short trainings, and the ridge that each subset chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coterie._progress import silent
from coterie.affinity import GradTAE, get_estimator
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.linear import PATH, at, chosen, mixed, path_values
from coterie.affinity.linearize import secant_blocks
from coterie.errors import SettingError
from coterie.features import compute_features
from coterie.features.directions import StackedDirections
from coterie.training import fit
from coterie.training.job import Job
from coterie.workload import Recipe, Task, Workload, from_arrays
from coterie.workload.structure import find_structure


@pytest.fixture(scope="module")
def work() -> Workload:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(150, 6))
    y = x @ rng.normal(size=(6, 4)) + 0.3 * rng.normal(size=(150, 4))
    y[:, 1] = (y[:, 1] > 0).astype(float)
    y[rng.random(y.shape) < 0.3] = np.nan
    tasks = [Task("a", "regression"), Task("b", "binary"), Task("c", "regression"), Task("d", "regression")]
    recipe = Recipe(epochs=6, batch_size=16, check_every=3, patience=3, learning_rate=3e-3)
    return from_arrays(x, y, tasks=tasks, recipe=recipe, hidden=(8, 5))


def naive_columns(work: Workload, start: dict, ends: list[dict], part: str) -> list[np.ndarray]:
    """Margins of every task's labelled rows at each end minus those at the start, one row at a time."""
    found = []
    for task in range(work.n_tasks):
        rows = [r for r in work.split.part(part).tolist() if bool(work.observed[r, task])]
        table = np.zeros((len(rows), len(ends)))
        for j, end in enumerate(ends):
            for i, row in enumerate(rows):
                margins = []
                for state in (start, end):
                    model = work.build_model(5)
                    model.load_state_dict(state)
                    model.eval()
                    with torch.no_grad():
                        margins.append(float(work.outputs(model, work.batch(torch.tensor([row])))[0, task]))
                table[i, j] = margins[1] - margins[0]
        found.append(table)
    return found


@pytest.mark.parametrize("part", ["train", "validation"])
def test_columns_equal_differences_row_by_row(work, part):
    everything = tuple(range(4))
    (base,) = fit(work, [Job(everything, seed=0)])
    ends = [done.state for done in fit(work, [Job((t,), seed=3, start=base.state) for t in range(3)])]
    structure = find_structure(work, work.build_model(0))
    blocks = secant_blocks(work, base.state, ends, structure, part, silent)
    for block, want in zip(blocks, naive_columns(work, base.state, ends, part), strict=True):
        np.testing.assert_allclose(block.g.numpy(), want, atol=2e-5)
    assert all(block.head.shape[1] == 6 for block in blocks)


def test_short_secants_are_gradients(work):
    """Towards a point at distance e the secant divided by e is the directional derivative, up to O(e)."""
    start = work.build_model(0).state_dict()
    structure = find_structure(work, work.build_model(0))
    generator = torch.Generator().manual_seed(0)
    step = {name: torch.randn(start[name].shape, generator=generator) for name in structure.trunk}
    model = work.build_model(0)
    directions = StackedDirections({name: value[None] for name, value in step.items()})
    slopes = compute_features(work, model, directions, structure=structure, part="train")
    errors = []
    for size in (0.04, 0.01):
        end = {**start, **{name: start[name] + size * step[name] for name in step}}
        blocks = secant_blocks(work, start, [end], structure, "train", silent)
        gap = [float((blocks[t].g / size - slopes.task(t).g).abs().mean()) for t in range(4)]
        errors.append(max(gap))
    assert errors[0] < 0.2
    assert errors[1] < 0.4 * errors[0]


class Rounded(nn.Module):
    """A layer without a forward-mode derivative."""

    class _Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def forward(self, x):
        return Rounded._Same.apply(x)


def test_networks_without_forward_mode_are_served(work):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 3)), (rng.random((80, 3)) > 0.5).astype(float)
    net = nn.Sequential(nn.Linear(3, 4), Rounded(), nn.Linear(4, 3))
    own = from_arrays(x, y, model=net, recipe=Recipe(epochs=3, batch_size=16, check_every=2))
    model = GradTAE(bases=1).estimate(own).model
    assert np.isfinite(model.predict_values(np.ones((1, 3), bool))).all()


def test_path_and_choice(work):
    model = GradTAE(bases=1).estimate(work, subset_size=3).model
    assert isinstance(model, GradTAEModel)
    subsets = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]], bool)
    along = path_values(model.bases[0], subsets, PATH)
    for number, ridge in enumerate(PATH):
        np.testing.assert_allclose(at(along, np.full(3, float(number))), along[number], rtol=1e-12)
        np.testing.assert_allclose(along[number], model.bases[0].values(subsets, ridge), rtol=1e-6)
    place = chosen(along)
    best = np.nanmean(along, 2).argmin(0)
    assert (np.abs(place - best) <= 1 + 1e-9).all()
    want = (at(along, place) + at(along, np.full(3, 1.0))) / 2
    np.testing.assert_allclose(mixed(along, PATH, PATH[1]), want)
    np.testing.assert_allclose(model.predict_values(subsets), mixed(along, PATH, model.ridge), rtol=1e-6)


@given(lowest=st.floats(0.2, 3.8), width=st.floats(0.5, 5))
def test_the_lowest_point_of_a_parabola_is_found(lowest, width):
    place = np.arange(5.0)
    along = np.stack([np.full((1, 2), 2 + width * (p - lowest) ** 2) for p in place])
    along[:, 0, 1] = np.nan
    assert chosen(along)[0] == pytest.approx(lowest, abs=1e-6)
    assert at(along, chosen(along))[0, 0] == pytest.approx(2.0, abs=1e-6)


def test_a_path_that_only_falls_ends_at_its_end():
    falling = np.stack([np.full((1, 1), -float(p)) for p in range(5)])
    assert chosen(falling)[0] == pytest.approx(4.0)
    assert chosen(-falling)[0] == pytest.approx(0.0)


def test_a_saved_model_predicts_the_same(work, tmp_path):
    model = get_estimator("secants", bases=2).estimate(work).model
    again = GradTAEModel.load(model.save(tmp_path / "model.safetensors"))
    subsets = np.array([[1, 1, 0, 1]], bool)
    np.testing.assert_allclose(again.predict_values(subsets), model.predict_values(subsets), rtol=1e-5)


def test_settings_that_secants_cannot_serve():
    for options in ({"ridge": "matched"}, {"evaluation": "network"}):
        with pytest.raises(SettingError, match="secants"):
            GradTAE(**options)
