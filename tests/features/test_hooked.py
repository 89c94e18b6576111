"""Reverse mode by hooks: equal to the plain loop where it is used, given up where it would be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coterie import Context
from coterie.features import FeatureOptions, RandomDirections, compute_features, layers
from coterie.features.directions import Directions, StackedDirections
from coterie.features.hooked import Hooks
from coterie.features.plan import Demand, PassCost, TensorSizes, make_plan, working_bytes
from coterie.features.probe import _few
from coterie.features.program import MarginProgram
from coterie.features.storage import labelled_pairs
from coterie.workload import Task, Workload
from reference.models import make, workload_for
from reference.plain_features import plain_features

pytestmark = pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
TASKS = (Task("a"), Task("b"), Task("c", "regression"))
TOKENS, WORDS = 5, 23
REVERSE = FeatureOptions(heads="projected", mode="reverse")


def error(workload: Workload, model: nn.Module, directions: Directions, **given: Any) -> tuple[float, str]:
    """Largest difference to the plain loop, relative to each task's largest feature; and the way that was taken."""
    found = compute_features(workload, model, directions, REVERSE, Context(**given))
    plain = plain_features(workload, model, directions)
    worst = [
        float((found.task(t).g - want).abs().max() / want.abs().max()) for t, want in enumerate(plain) if len(want)
    ]
    return max(worst), found.plan.way


class Text(nn.Module):
    """An encoder or decoder of transformers, mean over the tokens, one fused head."""

    def __init__(self, body: nn.Module, width: int, tasks: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, tasks)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.body(input_ids=input_ids).last_hidden_state.mean(1))


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=WORDS,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=24,
        )
    )


def text(body: nn.Module, missing: float = 0.5) -> tuple[Workload, nn.Module]:
    model = Text(body, 16, len(TASKS))
    inputs = {"input_ids": torch.randint(0, WORDS, (9, TOKENS))}
    return workload_for(TASKS, inputs, model, missing=missing), model


def adapted(body: nn.Module, targets: list[str]) -> nn.Module:
    peft = pytest.importorskip("peft")
    net = peft.get_peft_model(body, peft.LoraConfig(r=3, target_modules=targets, lora_dropout=0.1))
    for name, parameter in net.named_parameters():
        if "lora_B" in name:  # they start at zero, which hides the gradients of the others
            nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize("kind", ["mlp", "multiclass", "linear heads", "deep heads", "conv", "dict"])
def test_small_models_go_by_hooks(kind: str) -> None:
    workload, model = make(kind)
    difference, way = error(workload, model, RandomDirections.of(model, 7, seed=3))
    assert way == "hooks"
    assert difference < 1e-5


@pytest.mark.parametrize(
    ("body", "targets"), [(bert, ["query", "value"]), (llama, ["q_proj", "v_proj"])], ids=["bert", "llama"]
)
def test_language_models_with_low_rank_adapters(body: Callable[[], nn.Module], targets: list[str]) -> None:
    torch.manual_seed(0)
    workload, model = text(adapted(body(), targets))
    names = tuple(name for name, p in model.named_parameters() if p.requires_grad and "lora" in name)
    directions = RandomDirections.of(model, 6, 0, names)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    difference, way = error(workload, model, directions)
    assert way == "hooks"
    assert difference < 1e-5
    features = compute_features(workload, model, directions, FeatureOptions(mode="reverse"))  # exact heads beside it
    assert features.plan.way == "hooks"
    assert features.head_width(0) == 17
    assert frozen == [name for name, p in model.named_parameters() if not p.requires_grad]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("body", [bert, llama])
def test_whole_language_models(body: Callable[[], nn.Module]) -> None:
    """Embeddings of words and of positions (which all examples share), both kinds of normalisation, all products."""
    torch.manual_seed(0)
    workload, model = text(body())
    difference, way = error(workload, model, RandomDirections.of(model, 6))
    assert way == "hooks"
    assert difference < 1e-5


def test_half_precision_base_with_single_precision_adapters() -> None:
    torch.manual_seed(0)
    workload, model = text(adapted(bert(), ["query", "value"]))
    names = tuple(name for name, _ in model.named_parameters() if "lora" in name)
    directions = RandomDirections.of(model, 8, 0, names)
    exact = torch.cat(plain_features(workload, model, directions))
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.float() if "lora" in name or "head" in name else parameter.data.bfloat16()
    forward = lambda net, batch: net.head(net.body(**batch).last_hidden_state.float().mean(1))  # noqa: E731
    workload = Workload(
        "half", workload.tasks, workload.inputs, workload.labels, workload.split, workload.build_model, forward=forward
    )
    found = compute_features(workload, model, directions, REVERSE)
    assert found.plan.way == "hooks"
    assert found.g.dtype == torch.float32
    assert float((found.g - exact).norm() / exact.norm()) < 0.05


class Tied(nn.Module):
    """A module called twice, and a weight that two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
        self.two.weight = self.one.weight
        self.head = nn.Linear(5, len(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.two(torch.tanh(self.one(x))))
        return self.head(torch.tanh(self.one(x)))


class InPlace(nn.Module):
    """Layers whose outputs and sums are overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 6)
        self.head = nn.Linear(6, len(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)[:, None].repeat(1, 2, 1)
        y = self.two(self.norm(x).relu_())
        y += x
        return self.head(y.relu_().mean(1))


class Windows(nn.Module):
    """Examples cut into parts, which a layer takes for rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 4)
        self.head = nn.Linear(12, len(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x.reshape(-1, 2)).tanh().reshape(len(x), -1))


class Norms(nn.Module):
    """A learned root mean square normalisation, one over two dimensions, and words with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 4, padding_idx=0)
        self.rms, self.wide, self.group = nn.RMSNorm(4), nn.LayerNorm((TOKENS, 4)), nn.GroupNorm(2, TOKENS + 1)
        self.head = nn.Linear(4, len(TASKS))
        self.last = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.wide(self.rms(self.words(x)))
        z = self.group(torch.cat([z, self.last(z[:, :1])], 1).tanh())
        return self.head(z.square().mean(1))


@pytest.mark.parametrize("kind", [Tied, InPlace, Windows, Norms])
def test_unusual_but_supported(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    inputs = torch.randint(0, 4, (9, TOKENS)) if kind is Norms else torch.randn(9, 6 if kind is Windows else 5)
    workload = workload_for(TASKS, inputs, model)
    difference, way = error(workload, model, RandomDirections.of(model, 9))
    assert way == "hooks"
    assert difference < 1e-5


def test_the_transposed_layer_of_transformers() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    torch.manual_seed(0)
    model = nn.Sequential(utils.Conv1D(6, 5), nn.Tanh(), nn.Linear(6, len(TASKS)))
    workload = workload_for(TASKS, torch.randn(9, 5), model)
    difference, way = error(workload, model, RandomDirections.of(model, 9))
    assert way == "hooks"
    assert difference < 1e-5


class Functional(nn.Module):
    """A weight that is also used without its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(5, 5), nn.Linear(5, len(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.one(x)) @ self.one.weight)


class Mixing(nn.Module):
    """Each example reads a little of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(5, 5), nn.Linear(5, len(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.one(x))
        return self.head(z + 0.05 * z.mean(0))


class TimeFirst(nn.Module):
    """Positions before examples."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(1, 4), nn.Linear(4, len(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x.T[..., None]).tanh().sum(0))


class Own(nn.Module):
    """A parameter of the outermost module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.head = nn.Linear(5, len(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x * self.scale))


@pytest.mark.parametrize(("kind", "width"), [(Functional, 5), (Mixing, 5), (TimeFirst, 6), (TimeFirst, 5), (Own, 5)])
def test_given_up_where_it_would_be_wrong(kind: type[nn.Module], width: int) -> None:
    torch.manual_seed(0)
    model = kind()
    workload = workload_for(TASKS, torch.randn(9, width), model)
    difference, way = error(workload, model, RandomDirections.of(model, 9))
    assert way == "stacked"
    if kind is not Mixing:  # vmap sees every example alone, and so does the plain loop
        assert difference < 1e-5
    program = MarginProgram(workload, model, [name for name, _ in model.named_parameters()])
    with pytest.raises(layers.HooksUnsupportedError):
        Hooks(program).check(torch.arange(3))


def test_attention_with_packed_weights_is_given_up() -> None:
    workload, model = make("attention")
    difference, way = error(workload, model, RandomDirections.of(model, 5))
    assert way == "stacked"
    assert difference < 1e-5
    only = RandomDirections.of(model, 5, 0, ("layer.linear1.weight", "layer.norm1.weight", "embedding.weight"))
    difference, way = error(workload, model, only)  # without the attention's own
    assert way == "hooks"
    assert difference < 1e-5


class Experts(nn.Module):
    """Positions are sent to the one or the other layer by what they hold; some examples send all of them to one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(1, 4), nn.Linear(1, 4), nn.Linear(4, len(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, 1)
        mask = flat[:, 0] > 0
        z = flat.new_zeros(len(flat), 4)
        z[mask] = self.one(flat[mask]).tanh()
        if not bool(mask.all()):
            z[~mask] = self.two(flat[~mask]).tanh()
        return self.head(z.reshape(len(x), -1, 4).mean(1))


def test_what_shows_in_a_later_batch_only() -> None:
    """The trial's examples use one layer for all positions; others do not, and in numbers that divide by chance."""
    torch.manual_seed(0)
    model, inputs = Experts(), torch.rand(9, 6) + 0.1
    workload = workload_for(TASKS, inputs, model, missing=0.0)
    others = workload.split.train[[n for n in range(len(workload.split.train)) if n not in (0, 2, 5)]]
    inputs[others, :3] *= -1  # 3 of 6 positions of half of the examples
    directions = RandomDirections.of(model, 9)
    Hooks(MarginProgram(workload, model, directions.names)).check(_few(labelled_pairs(workload, "train")))
    difference, way = error(workload, model, directions)
    assert way == "one by one"
    assert difference < 1e-5


@settings(max_examples=15, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    count=st.integers(1, 12),
    seed=st.integers(0, 3),
    share=st.floats(0.0, 1.0),
    missing=st.sampled_from([0.0, 0.7]),
)
def test_any_perceptron_in_any_chunks(widths: list[int], count: int, seed: int, share: float, missing: float) -> None:
    torch.manual_seed(seed)
    sizes = [5, *widths]
    parts = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in zip(sizes, widths, strict=False)]
    model = nn.Sequential(*parts, nn.Linear(sizes[-1], len(TASKS)))
    workload = workload_for(TASKS, torch.randn(9, 5), model, missing=missing)
    directions = RandomDirections.of(model, count, seed)
    large = compute_features(workload, model, directions, REVERSE)
    memory = int(large.plan.feature_bytes + 3_000 + share * large.plan.bytes)
    difference, way = error(workload, model, directions, memory=memory)
    assert way == "hooks"
    assert difference < 1e-4


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(6)))
def test_order_of_rows_does_not_matter(order: list[int]) -> None:
    workload, model = make("deep heads", missing=0.0)
    directions = RandomDirections.of(model, 4)
    hooks = Hooks(MarginProgram(workload, model, directions.names))
    rows, tasks = torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])
    hooks.check(rows)

    def features(which: Tensor) -> Tensor:
        total = torch.zeros(len(which), 4)

        def receive(name: str, gradient: layers.LayerGradient) -> None:
            total.add_(gradient.project(directions.part(name, 0, 4)))

        hooks.backward(rows[which], tasks[which], receive)
        return total

    assert torch.allclose(features(torch.tensor(order)), features(rows)[order], atol=1e-6)


def test_blocks_of_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that are too large to be held are formed block by block."""
    workload, model = make("mlp")
    directions = RandomDirections.of(model, 60)
    monkeypatch.setattr(layers, "_FORMED", 100)
    monkeypatch.setattr(layers, "_KEPT", 200)
    difference, way = error(workload, model, directions)
    assert way == "hooks"
    assert difference < 1e-5


def test_frozen_parameters_and_given_directions() -> None:
    workload, model = make("mlp")
    model[0].weight.requires_grad_(False)
    given_directions = StackedDirections({"0.weight": torch.randn(3, 8, 5), "2.bias": torch.randn(3, 6)})
    found = compute_features(workload, model, given_directions, REVERSE)
    assert found.plan.way == "hooks"
    assert not model[0].weight.requires_grad
    model[0].weight.requires_grad_(True)
    for task, want in enumerate(plain_features(workload, model, given_directions)):
        assert torch.allclose(found.task(task).g, want, atol=1e-5)


def test_hooks_are_removed_after_a_failure() -> None:
    workload, model = make("mlp")
    hooks = Hooks(MarginProgram(workload, model, ["0.weight"]))
    rows, tasks = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    hooks.check(rows)

    def fail(name: str, gradient: layers.LayerGradient) -> None:
        raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError, match=r"0\.weight"):
        hooks.backward(rows, tasks, fail)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model[0].register_forward_hook(lambda *_: fail("hook", None))  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        hooks.backward(rows, tasks, fail)
    assert len(model[0]._forward_hooks) == 1


def test_embedding_that_rescales_its_weights_is_given_up() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(WORDS, 4, max_norm=1.0)
            self.head = nn.Linear(4, len(TASKS))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.words(x).mean(1))

    model = Words()
    program = MarginProgram(workload_for(TASKS, torch.randint(0, WORDS, (9, 3)), model), model, ["words.weight"])
    with pytest.raises(layers.HooksUnsupportedError, match="words"):
        Hooks(program).check(torch.arange(3))


def test_the_plan_says_the_way_and_needs_less_memory() -> None:
    workload, model = make("mlp")
    plan = compute_features(workload, model, RandomDirections.of(model, 3), REVERSE).plan
    assert plan.way == plan.to_dict()["way"] == "hooks"
    assert "Hooks" in plan.reason
    need = Demand(1000, 1000, 1, 10**7, 200, 4, PassCost(2e7, 2560, 6000), largest=10**6)
    for memory in (2**26, 2**30):
        plan = make_plan(need, mode="reverse", memory=memory, spill=False, way="hooks")
        assert plan.bytes == working_bytes(need, "reverse", plan.rows_per_chunk, plan.directions_per_chunk, "hooks")
        assert plan.bytes + plan.feature_bytes <= memory
        other = make_plan(need, mode="reverse", memory=2**30, spill=False)
        assert other.bytes > working_bytes(need, "reverse", other.rows_per_chunk, other.directions_per_chunk, "hooks")


def test_large_tables_take_few_directions_at_a_time() -> None:
    """Many pairs share the directions of a layer, which are costly to draw."""
    need = Demand(1000, 1000, 1, 3 * 10**7, 200, 4, PassCost(1e9, 10**5, 2 * 10**6), largest=10**7)
    plan = make_plan(need, mode="reverse", memory=2**30, spill=False, way="hooks")
    assert plan.directions_per_chunk < 8
    assert plan.rows_per_chunk >= 32
    assert plan.bytes + plan.feature_bytes <= 2**30


@pytest.mark.parametrize("memory", [2**30, 2**20])
def test_the_plan_bounds_what_adapters_use(memory: int) -> None:
    torch.manual_seed(0)
    workload, model = text(adapted(bert(), ["query", "value"]))
    names = tuple(name for name, _ in model.named_parameters() if "lora" in name)
    directions = RandomDirections.of(model, 64, 0, names)
    with TensorSizes() as sizes:
        plan = compute_features(workload, model, directions, REVERSE, Context(memory=memory)).plan
    assert plan.way == "hooks"
    assert sizes.peak <= 1.1 * (plan.bytes + plan.feature_bytes) + 2**15
    assert plan.bytes + plan.feature_bytes <= memory


@pytest.mark.gpu
def test_on_a_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    workload, model = text(adapted(bert(), ["query", "value"]))
    names = tuple(name for name, _ in model.named_parameters() if "lora" in name)
    directions = RandomDirections.of(model, 6, 0, names)
    expected = torch.cat(plain_features(workload, model, directions))
    found = compute_features(workload.to("cuda"), model.cuda(), directions, REVERSE)
    assert found.plan.way == "hooks"
    assert float((found.g.cpu() - expected).abs().max() / expected.abs().max()) < 1e-3


def test_rows_of_the_trial() -> None:
    workload, _ = make("mlp", missing=0.6)
    pairs = labelled_pairs(workload, "train")
    assert _few(pairs).tolist() == pairs.rows[[0, (len(pairs.rows) - 1) // 2, -1]].tolist()
    one = labelled_pairs(workload, "train", pairs.rows[:1])
    assert _few(one).tolist() == [int(one.rows[0])] * 3


class LateTask(nn.Module):
    """The head of the last of five tasks uses its weight twice, once without its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.late, self.heads = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.trunk(x))
        last = torch.tanh(self.late(z)) @ self.late.weight
        return torch.cat([self.heads(z)[:, :4], self.heads(last)[:, 4:]], 1)


def test_the_trial_sees_the_heads_of_all_tasks() -> None:
    torch.manual_seed(0)
    model = LateTask()
    workload = workload_for(tuple(Task(name) for name in "abcde"), torch.randn(12, 5), model)
    difference, way = error(workload, model, RandomDirections.of(model, 9))
    assert way == "stacked"
    assert difference < 1e-5


class SomeMix(nn.Module):
    """Rows with a large first number read the others."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(5, 5), nn.Linear(5, len(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.one(x))
        return self.head(z + (x[:, :1] > 2) * z.sum(0))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_that_mix_later_are_noticed(dtype: str) -> None:
    """The trial has none of them; one pair of each batch is compared with itself alone."""
    torch.manual_seed(0)
    model, inputs = SomeMix(), torch.randn(40, 5).clamp(-1, 1)
    workload = workload_for(TASKS, inputs, model)
    inputs[workload.split.train[[7, 8]], 0] = 3.0
    directions = RandomDirections.of(model, 9)
    program = MarginProgram(workload, model, directions.names)
    Hooks(program).check(_few(labelled_pairs(workload, "train")))
    found = compute_features(
        workload, model, directions, FeatureOptions(heads="projected", mode="reverse", dtype=dtype)
    )
    assert found.plan.way == "stacked"
    plain = plain_features(workload, model, directions)
    for task, want in enumerate(plain):
        assert float((found.task(task).g - want).abs().max() / want.abs().max()) < 1e-3


def test_the_trial_holds_one_gradient_at_a_time() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(24)), nn.Linear(64, len(TASKS)))
    workload = workload_for(TASKS, torch.randn(9, 64), model)
    hooks = Hooks(MarginProgram(workload, model, [name for name, _ in model.named_parameters()]))
    with TensorSizes() as sizes:
        hooks.check(torch.arange(3))
    assert sizes.peak < sum(4 * p.numel() for p in model.parameters())
