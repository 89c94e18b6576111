"""What the released Grad-TAG scripts compute, against a plain programme that does it with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coterie.affinity import get_estimator
from coterie.affinity.blocks import TaskBlock
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.linearize import CONSTANT, with_constant
from coterie.errors import SettingError
from coterie.workload import Recipe, Workload, from_arrays, get_loss
from reference.grad_tag_released import released_losses
from reference.offset_regression import fit

SUBSETS = ((0,), (0, 1), (1, 2, 3))
MASKS = np.array([[task in subset for task in range(4)] for subset in SUBSETS])


@pytest.fixture(scope="module")
def work() -> Workload:
    """Binary tasks, rare in different measure, with missing labels: subsets differ in N."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 5))
    y = (x @ rng.normal(size=(5, 4)) + rng.logistic(size=(200, 4)) > [0.0, 1.0, 2.0, -1.0]).astype(float)
    y[rng.random(y.shape) < [0.0, 0.5, 0.2, 0.0]] = np.nan
    return from_arrays(x, y, recipe=Recipe(epochs=3, batch_size=50, check_every=2), hidden=(8, 5))


def estimate(work: Workload, method: str, **options: Any) -> GradTAEModel:
    model = get_estimator(method, **options).estimate(work).model
    assert isinstance(model, GradTAEModel)
    return model


@pytest.mark.parametrize(
    ("count", "options"),
    [(12, {}), (12, {"c": 1.0}), (110, {"c": 1e-4}), (110, {"intercept": False, "dtype": "bfloat16"})],
)
def test_values_are_those_of_the_released_procedure(work: Workload, count: int, options: dict[str, Any]) -> None:
    """Few and many directions are solved in different ways; with more than 96 by conjugate gradients."""
    model = estimate(work, "grad-tag-released", count=count, **options)
    found = model.predict_values(MASKS)
    assert model.network is not None
    heads = {name for name in model.network.states[0] if not name.startswith("trunk.")}
    assert heads
    matrices = model.network.directions[0].chunk(0, count)
    c, intercept = options.get("c", 0.01), options.get("intercept", True)
    for row, subset in enumerate(SUBSETS):
        want = released_losses(work, model.network.states[0], matrices, subset, c, heads, intercept)
        np.testing.assert_allclose(found[row, list(subset)], want, rtol=1e-3 if "dtype" in options else 2e-4)
    assert np.isnan(found[~MASKS]).all()


def test_each_difference_from_the_formulas_shows(work: Workload) -> None:
    """Otherwise the comparison above would hold by chance."""
    released = estimate(work, "grad-tag-released", count=12).predict_values(MASKS)[MASKS]
    for option in ({"offset": True}, {"evaluation": "network"}, {"c": 0.1}, {"intercept": False}):
        other = estimate(work, "grad-tag-released", count=12, **option).predict_values(MASKS)[MASKS]
        assert np.abs(other / released - 1).max() > 1e-3, option


@pytest.mark.parametrize("method", ["secants", "grad-tag-blocks"])
def test_the_published_strength_is_one_over_c_and_labels_on_raw_features(work: Workload, method: str) -> None:
    options: dict[str, Any] = {"bases": 1} if method == "secants" else {"count": 12}
    model = estimate(
        work, method, ridge="published", c=0.05, fit="converged", evaluation="linear", share=0.0, **options
    )
    base = model.bases[0]
    blocks, counts = base.train, base.statistics.counts.tolist()
    for subset in SUBSETS:
        mask = np.array([[task in subset for task in range(4)]])
        want = fit(blocks, subset, 1 / (0.05 * sum(counts[task] for task in subset)))
        found = base.solve(mask, model.ridge, converged=True)
        assert found.objective is not None
        assert float(found.objective) == pytest.approx(want.objective, abs=2e-6)
        np.testing.assert_allclose(found.trunk[0].numpy(), want.u, atol=2e-2 * np.abs(want.u).max())


def test_a_saved_model_keeps_the_published_strength(work: Workload, tmp_path: Path) -> None:
    model = estimate(work, "grad-tag-released", count=12, evaluation="linear")
    again = GradTAEModel.load(model.save(tmp_path / "model.safetensors"))
    assert [base.raw for base in again.bases] == [True]
    np.testing.assert_allclose(again.predict_values(MASKS), model.predict_values(MASKS), rtol=1e-5)
    np.testing.assert_array_equal(estimate(work, "grad-tag", count=12).bases[0].raw, False)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_the_constant_column_is_exact_in_every_type(kind: torch.dtype) -> None:
    rows = torch.zeros(3)
    scale = torch.full((2,), 7.0) if kind == torch.float16 else None
    block = TaskBlock(torch.ones(3, 2, dtype=kind), torch.zeros(3, 0), rows, rows, get_loss("binary"), scale)
    (read,) = with_constant(block).chunks(8)
    assert read.g[:, 2].tolist() == [CONSTANT] * 3
    assert read.g[:, :2].unique().tolist() == [7.0 if scale is not None else 1.0]


def test_notes_name_the_strength(work: Workload) -> None:
    notes = get_estimator("grad-tag-released", count=5, c=1e-4).estimate(work).notes
    assert any("1 / (0.0001 N)" in note for note in notes)
    assert get_estimator("grad-tag-released").name == "grad-tag-released"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"c": 0.0}, "`c` should be positive"),
        ({"c": float("nan")}, "`c` should be positive"),
        ({"intercept": 1}, "`intercept` should be True or False"),
        ({"intercept": True, "ridge": 0.1}, "`intercept` needs ridge='published'.*Found ridge=0.1"),
        ({"evaluation": "network-trunk", "directions": "secants", "heads": "exact"}, "secants"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError, match=name):
        get_estimator("grad-tag-released", **options)
