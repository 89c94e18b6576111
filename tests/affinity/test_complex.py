"""Models with complex parameters: the same as with pairs of real numbers, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import coterie
from coterie.errors import ModelError
from coterie.serving import load
from coterie.training import fit
from coterie.training.job import Job
from coterie.workload import Recipe, Workload, from_arrays
from coterie.workload.structure import find_structure

METHODS = ("secants", "tag", "cosine", "attribution")
SLOW = ("etap", "rsa", "taxonomy", "kernel-surrogate", "label-injection")


class Spectrum(nn.Module):
    """Scales the frequencies of its inputs; the scales are complex, or pairs of real numbers."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        scale = torch.randn(2, 4, dtype=torch.cfloat)
        self.pairs = pairs
        self.scale = nn.Parameter(torch.view_as_real(scale).clone() if pairs else scale)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.view_as_complex(self.scale) if self.pairs else self.scale
        parts = torch.fft.irfft(torch.fft.rfft(x)[:, None] * scale, n=6)
        return self.head(parts.flatten(1).tanh())


def work_for(pairs: bool) -> Workload:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 6)).astype("float32")
    y = (x[:, [0, 0, 1]] + 0.5 * rng.normal(size=(120, 3)) > 0).astype(float)
    recipe = Recipe(epochs=4, check_every=3, learning_rate=0.02, weight_decay=0.05)
    return from_arrays(x, y, tasks=["a", "b", "c"], build_model=lambda seed: Spectrum(pairs), recipe=recipe)


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
@pytest.mark.filterwarnings("error:Casting complex")
@pytest.mark.parametrize("method", [*METHODS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_estimates_are_those_of_pairs_of_real_numbers(method: str) -> None:
    options = {"bases": 1} if method == "secants" else {}
    found, expected = (
        coterie.estimate_affinity(work_for(pairs), method=method, order="pairwise", **options)[0].values
        for pairs in (False, True)
    )
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
@pytest.mark.parametrize("method", ["task-vectors", "grad-tag", "grad-tag-blocks", "landscape"])
def test_gradients_of_single_examples_are_refused_before_anything_is_trained(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.affinity.grad_tae.train_bases", pytest.fail)
    with pytest.raises(ModelError, match=r"complex ones: scale.*view_as_complex"):
        coterie.estimate_affinity(work_for(False), method=method)


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_trainings_and_structure_are_those_of_pairs() -> None:
    jobs = [Job((0,), 0), Job((1, 2), 1)]
    for backend in ("loop", "population"):
        for a, b in zip(*(fit(work_for(pairs), jobs, backend=backend) for pairs in (False, True)), strict=True):
            np.testing.assert_allclose(a.test, b.test, rtol=1e-4)
            torch.testing.assert_close(torch.view_as_real(a.state["scale"]), b.state["scale"], rtol=1e-3, atol=1e-4)
    assert find_structure(work_for(False), Spectrum(False)).trunk == ("scale",)


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_a_run_is_served(tmp_path: Path) -> None:
    work = work_for(False)
    coterie.run(work, method="tag", groups=2, seeds=1, out=tmp_path / "run")
    x = np.random.default_rng(1).normal(size=(5, 6))
    found = load(tmp_path / "run", build_model=lambda seed: Spectrum(False)).predict(x)
    assert all(np.isfinite(found[name]).all() for name in work.task_names)
