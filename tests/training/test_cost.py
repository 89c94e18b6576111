import pytest
import torch
from torch import nn

from coterie.training import measure_cost
from coterie.training.evaluate import measure_footprint
from reference.training_workloads import make


def test_costs_of_a_multi_layer_perceptron_are_those_of_its_matrix_products():
    workload = make("mixed")
    cost = measure_cost(workload)
    layers = [5 * 8, 8 * 6, 6 * 6]
    assert cost.forward == 2 * sum(layers)
    # weights of every layer, and activations of all but the first
    assert cost.training == 3 * cost.forward - 2 * layers[0]
    # the pass itself, and tangents of weights and of activations (torch multiplies the inputs' tangents of 0 as well)
    assert cost.jvp == 3 * cost.forward


def test_models_without_forward_mode_count_as_three_passes():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * ctx.saved_tensors[0] * gradient

    class Odd(nn.Linear):
        def forward(self, x):
            return Square.apply(super().forward(x))

    cost = measure_cost(make("binary", build=lambda: Odd(5, 4)))
    assert (cost.forward, cost.jvp) == (40, 120)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.LSTM(1, 3, batch_first=True), nn.Linear(3, 4)

    def forward(self, x):
        return self.last(self.layer(x[..., None])[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(1, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.layer(self.first(x[..., None])).mean(1))


@pytest.mark.parametrize("build", [Recurrent, Attention])
def test_the_counter_sees_into_fused_layers(build):
    cost = measure_cost(make("binary", build=build))
    least = 2 * 5 * sum(p.numel() for p in build().layer.parameters() if p.dim() == 2)
    assert cost.forward > least
    assert 2 * cost.forward < cost.training <= 3 * cost.forward
    assert 2 * cost.forward < cost.jvp <= 3 * cost.forward


def test_the_model_and_the_random_state_are_left_alone():
    state = torch.get_rng_state()
    measure_cost(make("binary", build=lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 4))))
    assert torch.equal(state, torch.get_rng_state())


def test_footprint_grows_with_the_model_and_the_batch():
    small, wide = (
        measure_footprint(
            make("binary", build=lambda w=width: nn.Sequential(nn.Linear(5, w), nn.ReLU(), nn.Linear(w, 4)))
        )
        for width in (8, 800)
    )
    assert small.parameters == 4 * (5 * 8 + 8 + 8 * 4 + 4)
    assert wide.row > 10 * small.row
    assert small.members(2**30) > wide.members(2**30) >= 1
    assert wide.members(wide.member - 1) == 0
