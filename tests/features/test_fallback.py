"""Modules without forward mode, without batching, with wrong derivatives."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from coterie.errors import FallbackWarning, GradientMismatchError, ModelError
from coterie.features import FeatureOptions, RandomDirections, compute_features, validate_gradients
from coterie.workload import Task, Workload
from coterie.workload.structure import find_structure
from reference.models import make, workload_for
from reference.plain_features import plain_features

TASKS = (Task("a"), Task("b", "regression"))


class NoForward(torch.autograd.Function):
    """Sine, with a backward only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].cos()


class WrongForward(NoForward):
    """Sine, with a forward derivative that is not that of its backward."""

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        return tangent * ctx.saved_tensors[0].cos() * 1.1


class Single(WrongForward):
    """Sine with both derivatives, but no rule for vmap: one direction at a time."""

    generate_vmap_rule = False

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        return tangent * ctx.saved_tensors[0].cos()


class Apply(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class Branching(nn.Module):
    """Control flow that depends on the data, and a number of its own: impossible under vmap, all of it or alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() if float(x.detach().sum()) > 1e9 else x * self.scale


def chain(middle: nn.Module) -> tuple[Workload, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), middle, nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    return workload_for(TASKS, torch.randn(9, 5), model), model


@pytest.mark.parametrize(
    ("middle", "wanted", "mode", "batched"),
    [
        (Apply(NoForward), "forward", "reverse", True),
        (Branching(), "reverse", "reverse", False),
        (Apply(Single), "forward", "forward", False),
    ],
)
def test_one_warning_that_names_the_module(middle: nn.Module, wanted: str, mode: str, batched: bool) -> None:
    workload, model = chain(middle)
    directions = RandomDirections.of(model, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        features = compute_features(workload, model, directions, FeatureOptions(heads="projected", mode=wanted))
    named = [w for w in caught if issubclass(w.category, FallbackWarning)]
    assert len(named) == 1
    assert f"`1` ({type(middle).__name__})" in str(named[0].message)
    assert (features.plan.mode, features.plan.batched) == (mode, batched)
    if mode != wanted:
        assert "not supported" in features.plan.reason
    for task, expected in enumerate(plain_features(workload, model, directions)):
        assert torch.allclose(features.task(task).g, expected, atol=1e-5)


def test_supported_models_do_not_warn() -> None:
    workload, model = make("mlp")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        for mode in ("forward", "reverse"):
            compute_features(
                workload, model, RandomDirections.of(model, 2), FeatureOptions(heads="projected", mode=mode)
            )


def test_batchnorm_without_statistics_is_refused() -> None:
    workload, model = chain(nn.BatchNorm1d(6, track_running_stats=False))
    with pytest.raises(ModelError, match=r"`1` .BatchNorm1d. keeps no running statistics"):
        compute_features(workload, model, RandomDirections.of(model, 2), FeatureOptions(heads="projected"))


def test_gradients_that_are_not_finite_are_refused() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 0).sqrt() + x

    workload, model = chain(Root())
    for mode in ("forward", "reverse"):
        with pytest.raises(ModelError, match="NaN"):
            compute_features(
                workload, model, RandomDirections.of(model, 2), FeatureOptions(heads="projected", mode=mode)
            )


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
@pytest.mark.parametrize("kind", ["mlp", "multiclass", "deep heads", "conv", "lstm", "attention"])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_validate_passes_right_models(kind: str, mode: str) -> None:
    workload, model = make(kind)
    report = validate_gradients(workload, model, mode=mode)
    assert report.mode == mode
    assert report.worst < 1e-4
    assert report.to_dict()["modules"]


def test_validate_names_the_module_at_fault() -> None:
    workload, model = chain(Apply(WrongForward))
    with pytest.raises(GradientMismatchError, match=r"At fault: `0` \(Linear\) or what runs after it: `1` \(Apply\)\."):
        validate_gradients(workload, model, mode="forward")
    validate_gradients(workload, model, mode="reverse")


def test_validate_names_a_module_with_parameters() -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(6))

        def forward(self, x: Tensor) -> Tensor:
            return x * WrongForward.apply(self.scale)

    workload, model = chain(Bad())
    with pytest.raises(GradientMismatchError, match=r"At fault: `1` \(Bad\)"):
        validate_gradients(workload, model, mode="forward")


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_features_carry_no_graph(mode: str) -> None:
    """Heads that are not projected have gradients of their own; features must not remember them."""
    work, model = make("mlp")
    structure = find_structure(work, model)
    directions = RandomDirections.of(model, 3, 0, structure.trunk)
    features = compute_features(work, model, directions, FeatureOptions(mode=mode))
    assert not features.g.requires_grad
    assert not features.head(0).requires_grad
    assert not features.offset.requires_grad
