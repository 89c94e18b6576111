"""Values by the moved network: displacements made of one draw of the directions, many at a time or one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from coterie import Context
from coterie.affinity import get_estimator
from coterie.affinity.grad_tae_model import GradTAEModel, NetworkValues
from coterie.features.directions import Directions
from coterie.workload import Recipe, Workload, from_arrays

SUBSETS = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1], [1, 0, 1, 0], [1, 1, 1, 1]], dtype=bool)


@pytest.fixture(scope="module")
def work() -> Workload:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    y = (x @ rng.normal(size=(6, 4)) + rng.logistic(size=(300, 4)) > 0).astype(float)
    return from_arrays(x, y, recipe=Recipe(epochs=2, batch_size=50, check_every=2), hidden=(8, 5))


@pytest.fixture(scope="module")
def model(work: Workload) -> GradTAEModel:
    """Published settings; `exact` heads only add moves of rows, which tests of the whole estimator look at."""
    found = get_estimator("grad-tag", count=20, ridge=0.05).estimate(work).model
    assert isinstance(found, GradTAEModel)
    assert found.network is not None
    return found


def again(model: GradTAEModel, together: int) -> tuple[GradTAEModel, NetworkValues]:
    """The same model, nothing remembered, with memory for so many displacements at a time."""
    assert model.network is not None
    memory = 16 * model.network.directions[0].size * together
    prepared = replace(model.network.prepared, context=Context(memory=memory))
    network = replace(model.network, prepared=prepared, known={})
    parts = (model.bases, model.ridge, model.converged, network, model.method, model.kinds)
    return GradTAEModel(model.tasks, *parts), network


def plain(model: GradTAEModel, row: int) -> nn.Module:
    """The network at base + P u for projected heads, P as one dense matrix a parameter."""
    network = model.network
    assert network is not None
    directions: Directions = network.directions[0]
    u = model.bases[0].solve(SUBSETS, model.ridge, converged=True).trunk[row]
    module = network.prepared.workload.build_model(0)
    module.load_state_dict(dict(network.states[0]))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            every = directions.chunk(0, directions.count)[name].double()
            parameter += torch.einsum("d,d...->...", u, every).float()
    return module


def test_the_number_of_displacements_at_a_time_does_not_matter(model: GradTAEModel) -> None:
    expected = model.predict_values(SUBSETS)
    assert np.isfinite(expected[SUBSETS]).all()
    for together in (1, 2):
        other, network = again(model, together)
        np.testing.assert_allclose(other.predict_values(SUBSETS), expected, rtol=1e-5)
        assert len(network.known) == len(SUBSETS)


def test_values_are_those_of_a_network_that_was_moved_by_hand(work: Workload, model: GradTAEModel) -> None:
    found = model.predict_values(SUBSETS)
    rows = work.split.validation
    for row, subset in enumerate(SUBSETS):
        module = plain(model, row).eval()
        with torch.no_grad():
            logits = work.outputs(module, work.batch(rows))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, work.targets[rows].float(), reduction="none")
        np.testing.assert_allclose(found[row, subset], loss.mean(0).numpy()[subset], rtol=1e-4)


def test_nothing_is_evaluated_twice(model: GradTAEModel) -> None:
    first = model.predict_values(SUBSETS)
    assert model.network is not None
    spent = dict(model.network.prepared.costs.entries)["network evaluation"]
    np.testing.assert_array_equal(model.predict_values(SUBSETS[::-1]), first[::-1])
    assert dict(model.network.prepared.costs.entries)["network evaluation"] == spent
