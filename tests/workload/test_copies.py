"""Models that write into what they are given change nothing for those that are asked after them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import coterie
from coterie.serving.predictor import Predictor
from coterie.serving.saved import describe_inputs
from coterie.workload import Recipe, Workload, from_arrays


class Net(nn.Module):
    """Shifts and clips its inputs, in place or not, as one tensor or as two of a mapping."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.shift = nn.Parameter(torch.full((4,), 0.5))
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, batch: Tensor | dict[str, Tensor]) -> Tensor:
        if isinstance(batch, dict):
            left, right = (batch.pop(name) if self.in_place else batch[name] for name in ("left", "right"))
            if self.in_place:
                right[:, 1] = 0.0
            else:
                right = right * torch.tensor([1.0, 0.0])
            x = torch.cat([left, right], 1)
        else:
            x = batch
        if self.in_place:
            x += self.shift
            x.clamp_(max=1.5)
        else:
            x = (x + self.shift).clamp(max=1.5)
        return self.head(self.first(x).tanh())


def work_for(in_place: bool, form: str) -> Workload:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 4)).astype("float32")
    y = (x[:, :3] + 0.5 * rng.normal(size=(150, 3)) > 0).astype(float)
    inputs = {"left": x[:, :2], "right": x[:, 2:]} if form == "mapping" else x

    def forward(model: Net, batch: Tensor) -> Tensor:
        return model(batch.mul_(2.0) if in_place else batch * 2.0)

    return from_arrays(
        inputs,
        y,
        tasks=["a", "b", "c"],
        build_model=lambda seed: Net(in_place),
        forward=forward if form == "forward" else None,
        standardize=False,
        recipe=Recipe(epochs=3, learning_rate=0.02, check_every=4),
    )


@pytest.mark.parametrize("form", ["array", "mapping", "forward"])
@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_a_batch_can_be_used_again(form: str) -> None:
    work, plain = work_for(True, form), work_for(False, form)
    model = work.build_model(0)
    batch = work.batch(torch.arange(20))
    once, again = work.outputs(model, batch), work.outputs(model, batch)
    assert torch.equal(once, again)
    assert torch.equal(once, plain.outputs(plain.build_model(0), batch))


@pytest.mark.parametrize("form", ["array", "mapping"])
@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_served_groups_read_the_same_inputs(form: str) -> None:
    work = work_for(True, form)
    models = tuple(work.build_model(seed).eval() for seed in (0, 1))
    serves = {"a": 0, "b": 1, "c": 1}
    served = Predictor(work, (("a",), ("b", "c")), serves, models, describe_inputs(work.inputs), None, None)
    given = work.inputs.numpy() if isinstance(work.inputs, Tensor) else {k: v.numpy() for k, v in work.inputs.items()}
    found = served.predict(given)
    alone = work.outputs(models[1], work.batch(torch.arange(150))).sigmoid().detach()
    np.testing.assert_allclose(found["b"], alone[:, 1], rtol=1e-5)


@pytest.mark.parametrize("form", ["array", "mapping"])
@pytest.mark.parametrize("method", ["tag", "attribution", "etap"])
@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_affinities_are_those_of_the_same_model_out_of_place(form: str, method: str) -> None:
    found, expected = (
        coterie.estimate_affinity(work_for(in_place, form), method=method, order="pairwise")[0].values
        for in_place in (True, False)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
