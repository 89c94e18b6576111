"""Adapters in whole backbones."""

import copy

import numpy as np
import pytest
import torch

from coterie.adapters import Dense, Image, attach, grow, summary
from coterie.adapters.plain import PlainModel
from coterie.adapters.sites import find_sites
from coterie.errors import ModelError, SettingError
from reference.adapters import IMAGE, backbone, naive_attention, shake

pytest.importorskip("transformers")

NAMES = ["swin", "swinv2", "vit"]
every_backbone = pytest.mark.parametrize("name", NAMES)
KINDS = [("swin", "eager"), ("swin", "sdpa"), ("swinv2", "eager"), ("vit", "eager"), ("vit", "sdpa")]
every_kind = pytest.mark.parametrize(("name", "attention"), KINDS)
TASKS = {"depth": Dense(1), "normals": Dense(3), "kind": Image(5), "plain": None}


def pixels(rows=2, seed=3):
    return torch.randn(rows, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(seed))


def outputs(model, x):
    with torch.no_grad():
        found = model(x, output_hidden_states=True)
    return [found.last_hidden_state, found.pooler_output, *found.hidden_states]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@every_kind
@pytest.mark.parametrize("layers", [None, [0, 1, 2]])
def test_starts_as_the_frozen_model(name, attention, layers):
    model, x = backbone(name, attention), pixels()
    before = outputs(model, x)
    adapted = attach(model, ["a", "b"], layers=layers)
    for task in adapted.tasks:
        with adapted.task(task):
            assert same(outputs(model, x), before)
    with adapted.task(["a", "b"]):
        stacked = outputs(model, x)[0]
    # other sizes of a batch may take another matrix product: rounding is not ours
    torch.testing.assert_close(stacked, torch.cat([before[0], before[0]]), atol=1e-5, rtol=1e-5)


@every_backbone
def test_exact_with_gradients_too(name):
    model, x = backbone(name), pixels()
    before = model(x).last_hidden_state
    assert torch.equal(attach(model, ["a"], layers=[0, 1, 2])(x, task="a").last_hidden_state, before)


@every_kind
def test_detach_restores(name, attention):
    model, x = backbone(name, attention), pixels()
    frozen = next(model.parameters()).requires_grad_(False)
    model.train()
    modules = dict(model.named_modules())
    state, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    before = outputs(model.eval(), x)
    adapted = shake(attach(model.train(), TASKS, layers=[0, 1, 2]))
    with adapted.task("depth"):
        assert not same(outputs(model, x), before)
    assert same(outputs(model, x), before)  # no task: the frozen model
    assert list(model.state_dict()) == list(state)
    assert adapted.detach() is model
    assert model.training
    assert same(outputs(model.eval(), x), before)
    assert dict(model.named_modules()) == modules
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not frozen.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    ours = [hook for m in model.modules() for hook in m._forward_pre_hooks.values()]
    ours += [hook for m in model.modules() for hook in m._forward_hooks.values()]
    assert not [hook for hook in ours if hook.__module__.startswith("coterie")]
    with pytest.raises(ModelError, match="detached"):
        adapted(x, task="depth")
    attach(model, ["again"])


@every_kind
def test_bias_enters_the_logits(name, attention):
    """The attention of the first block, which has no shift, equals the formula with the backbone's own scale."""
    model, x = backbone(name, attention), pixels()
    adapted = shake(attach(model, ["a", "b"], layers=[0]))
    site, seen = find_sites(model)[0], {}
    site.attention.register_forward_hook(lambda m, args, out: seen.update(x=args[0], y=out[0]))
    for task in adapted.tasks:
        with torch.no_grad(), adapted.task(task):
            model(x)
            bias = adapted.adapters[0].attention(adapted.embeddings([task]))[0]
            want = naive_attention(site.attention, seen["x"], bias, site.prefix)
            without = naive_attention(site.attention, seen["x"], bias * 0, site.prefix)
        torch.testing.assert_close(seen["y"], want, atol=1e-5, rtol=1e-4)
        assert (want - without).abs().max() > 1e-3


@every_backbone
def test_gradients_reach_only_adapters_and_heads(name):
    adapted = shake(attach(backbone(name), TASKS, layers=[0, 1, 2]))
    found = adapted(pixels(), task=["depth", "normals", "kind"])
    sum((out**2).sum() for out in found.values()).backward()
    assert all(p.grad is None for p in adapted.backbone.parameters())
    missing = {name for name, p in adapted.own_parameters() if p.grad is None or not p.grad.any()}
    assert missing == {"embeddings.vectors.3"}  # of the task that was not asked for
    assert {id(p) for p in adapted.trainable()} == {id(p) for _, p in adapted.own_parameters()}


@every_backbone
def test_a_zero_start_can_leave_it(name):
    """What starts at zero keeps no other gradient at zero: after two steps all have one."""
    adapted = attach(backbone(name), {"depth": Dense(1)}, layers=[0, 1])
    optimizer = torch.optim.SGD(adapted.trainable(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (adapted(pixels(), task="depth") - 1).pow(2).mean().backward()
        optimizer.step()
    assert not [key for key, p in adapted.own_parameters() if not p.grad.any()]


@every_kind
def test_stacked_tasks_equal_single_ones(name, attention):
    adapted, x = shake(attach(backbone(name, attention), TASKS, layers=[0, 1, 2])), pixels(3)
    asked = ["kind", "depth", "normals"]
    with torch.no_grad():
        together = adapted(x, task=asked)
        assert list(together) == asked
        for task in asked:
            torch.testing.assert_close(together[task], adapted(x, task=task), atol=1e-4, rtol=1e-4)
        with adapted.task("kind"):
            assert torch.equal(adapted(x), adapted(x, task="kind"))
    shapes = {task: tuple(out.shape) for task, out in together.items()}
    assert shapes == {"kind": (3, 5), "depth": (3, 1, IMAGE, IMAGE), "normals": (3, 3, IMAGE, IMAGE)}
    # tasks differ by more than their heads
    one, two = (adapted.features(x, task)[0][-1] for task in ("depth", "normals"))
    assert (one - two).abs().max() > 1e-3


@every_backbone
def test_blocks_before_the_first_adapter_run_once_for_all_tasks(name):
    model = backbone(name)
    adapted, rows = attach(model, {"a": Dense(1), "b": Dense(1), "c": Image(1)}, layers=[1, 2]), []
    for site in find_sites(model):
        site.norms[0].register_forward_pre_hook(lambda m, args: rows.append(args[0].numel() // args[0].shape[-1]))
    adapted(pixels(), task="a")
    alone, rows[:] = list(rows), []
    adapted(pixels(), task=["a", "b", "c"])
    assert rows == [alone[0], 3 * alone[1], 3 * alone[2]]


def test_skips_pass_between_adapters_and_stages():
    model, x = backbone("swin"), pixels()
    adapted = shake(attach(model, ["a"], layers=[0, 2]), size=0.2)
    handed = []
    for adapter in adapted.adapters:
        adapter.bottleneck.register_forward_pre_hook(lambda m, args: handed.append(args[1]))
    adapted.adapters[0].bottleneck.register_forward_hook(lambda m, args, out: handed.append(out))
    adapted(x, task="a")
    first, h, second = handed
    assert first is None
    assert h.shape == (2, 196, 12)
    assert second.shape == (2, 49, 24)
    from coterie.adapters.merging import merge_skip

    torch.testing.assert_close(second, merge_skip(h, (14, 14), model.encoder.layers[0].downsample.reduction))


@every_backbone
def test_recorded_hidden_states_are_adapted(name):
    """Also where transformers put its own hooks in before ours."""
    model, x = backbone(name), pixels()
    before = outputs(model, x)
    adapted = shake(attach(model, ["a"], layers=[2]))
    with adapted.task("a"):
        found = outputs(model, x)
    assert torch.equal(found[2], before[2])
    assert not torch.equal(found[-1], before[-1])
    # what is recorded last is what goes into the final norm, with all that the adapter does
    torch.testing.assert_close(model.layernorm(found[-1]), found[0], atol=1e-5, rtol=1e-5)


@every_backbone
def test_hooks_that_were_there_before_see_adapted_outputs(name):
    model, early, late = backbone(name), [], []
    modules = [part for site in find_sites(model) for part in (*site.norms, site.block)]

    def keep(where):
        return lambda m, args, out: where.append(out[0] if isinstance(out, tuple) else out)

    for module in modules:
        module.register_forward_hook(keep(early))
    adapted = shake(attach(model, ["a"], layers=[0, 1, 2]))
    for module in modules:
        module.register_forward_hook(keep(late))
    with torch.no_grad():
        adapted(pixels(), task="a")
    assert len(early) == 9
    assert same(early, late)


def test_shapes_of_the_source():
    adapted = attach(backbone("swin"), ["a"])
    assert adapted.embeddings.size == 343
    assert adapted.blocks == (7, 7)
    assert adapted.layers == (1, 2)
    assert adapted.adapters[0].attention.random_weight_matrix.shape == (49, 7)


def test_small_windows_and_stages():
    import transformers

    config = {"image_size": 56, "patch_size": 4, "embed_dim": 12, "depths": [1, 1, 2], "num_heads": [2, 2, 4]}
    for model in (
        transformers.SwinModel(transformers.SwinConfig(**config, window_size=4)),
        transformers.Swinv2Model(transformers.Swinv2Config(**config, window_size=4)),
    ):
        adapted = attach(model, {"a": Dense(2)}, layers=range(4))
        assert adapted(pixels(), task="a").shape == (2, 2, 56, 56)
        assert adapted.embeddings.size == 64


def test_around_a_classifier():
    import transformers

    model = transformers.ViTForImageClassification(backbone("vit").config)
    frozen = model.classifier.bias.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    adapted = attach(model, {"a": Image(2)})
    assert adapted(pixels(), task="a").shape == (2, 2)
    assert not any(p.requires_grad for p in model.parameters())
    own = {id(p) for _, p in adapted.own_parameters()}
    assert {id(p) for p in adapted.trainable()} == own
    assert summary(adapted).trainable == sum(p.numel() for _, p in adapted.own_parameters())
    grow(adapted, "b", Image(1), similarities={"a": 1.0})
    adapted.detach()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert not frozen.requires_grad


def test_detach_restores_the_mode_of_every_part():
    model = backbone("vit").train()
    still = find_sites(model)[1].attention.eval()
    modes = {name: m.training for name, m in model.named_modules()}
    adapted = attach(model, ["a"])
    assert not any(m.training for m in model.modules())
    adapted.train().detach()
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert model.training
    assert not still.training


def test_one_precision_and_nothing_else():
    """What is around the base keeps its own, and a base of two is refused, by both kinds of models."""
    import transformers

    model = transformers.ViTForImageClassification(backbone("vit").config)
    model.classifier.double()
    adapted = attach(model, {"a": Image(2)})
    assert {p.dtype for p in model.classifier.parameters()} == {torch.float64}
    assert {p.dtype for _, p in adapted.own_parameters()} == {torch.float32}
    mixed = backbone("swin")
    mixed.encoder.layers[0].bfloat16()
    types = {name: p.dtype for name, p in mixed.named_parameters()}
    for build in (lambda: attach(mixed, ["a"]), lambda: PlainModel(mixed, {"a": Image(2)})):
        with pytest.raises(SettingError, match=r"one precision. Found torch.bfloat16 on cpu, torch.float32 on cpu"):
            build()
        assert {name: p.dtype for name, p in mixed.named_parameters()} == types
        assert all(p.requires_grad for p in mixed.parameters())
        assert not mixed._forward_pre_hooks


@pytest.mark.parametrize("kind", ["swin", "swinv2", "vit"])
def test_bfloat16_starts_as_the_frozen_model(kind):
    model, x = backbone(kind).bfloat16(), pixels().bfloat16()
    before = outputs(model, x)
    adapted = attach(model, {"a": Image(2), "b": None}, layers=[0, 1, 2])
    assert {p.dtype for p in adapted.parameters()} == {torch.bfloat16}
    with adapted.task("b"):
        assert same(outputs(model, x), before)
    assert adapted(x, task="a").dtype == torch.bfloat16


def test_the_state_has_omega():
    adapted = shake(attach(backbone("vit"), ["a", "b"]))
    adapted.embeddings.set_omega(np.array([[0.9, 0.2], [0.3, 0.8]]))
    again = attach(backbone("vit"), ["a", "b"])
    again.load_state_dict(adapted.state_dict())
    np.testing.assert_array_equal(again.embeddings.omega, adapted.embeddings.omega)
    assert torch.equal(again.embeddings(["a"]), adapted.embeddings(["a"]))
    with pytest.raises(SettingError, match=r"\['b', 'a'\], in this order. Found \['a', 'b'\]"):
        attach(backbone("vit"), ["b", "a"]).load_state_dict(adapted.state_dict())


def test_the_same_seed_gives_the_same_start_and_leaves_random_numbers_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model = backbone("vit")
    torch.set_rng_state(state)
    one = {key: p.clone() for key, p in attach(model, TASKS, seed=4).own_parameters()}
    assert torch.equal(torch.get_rng_state(), state)
    again = attach(backbone("vit"), TASKS, seed=4)
    other = attach(backbone("vit"), TASKS, seed=5)
    assert all(torch.equal(one[key], p) for key, p in again.own_parameters())
    assert not all(torch.equal(one[key], p) for key, p in other.own_parameters())


def test_summary_counts():
    adapted = attach(backbone("vit"), TASKS)
    found = summary(adapted)
    own = sum(p.numel() for _, p in adapted.own_parameters())
    assert found.trainable == own == sum(n for part, n in found.parts.items() if part != "backbone")
    assert found.frozen == found.parts["backbone"] == sum(p.numel() for p in backbone("vit").parameters())
    assert found.trainable_bytes == 4 * own
    assert f"{own:,} of" in str(found)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"tasks": []}, "tasks"),
        ({"tasks": "depth"}, "tasks"),
        ({"tasks": ["a", "a"]}, "tasks"),
        ({"tasks": {"a": 3}}, "head of task 'a'"),
        ({"layers": [3]}, "layers"),
        ({"layers": []}, "layers"),
        ({"layers": [1, 1]}, "layers"),
        ({"block": 5}, "block"),
        ({"embedding": 0}, "embedding"),
    ],
)
def test_bad_settings(arguments, match):
    with pytest.raises(SettingError, match=match):
        attach(backbone("vit"), **{"tasks": ["a"], **arguments})


def test_bad_use():
    with pytest.raises(SettingError, match="model"):
        attach(torch.nn.Linear(2, 2), ["a"])
    model = backbone("vit")
    adapted = attach(model, ["a"])
    with pytest.raises(SettingError, match="already"):
        attach(model, ["b"])
    with pytest.raises(SettingError, match="task"):
        adapted(pixels(), task="b")
    with pytest.raises(SettingError, match="which task"):
        adapted(pixels())
    with pytest.raises(SettingError, match="head each"):
        adapted(pixels(), task=["a"])
    with pytest.raises(ModelError, match="copied"):
        copy.deepcopy(adapted)
    with pytest.raises(ModelError, match="tokens"), adapted.task("a"):
        model(torch.randn(1, 3, 64, 64), interpolate_pos_encoding=True)
    # nothing of the failed call is left
    assert adapted.call is None
    adapted(pixels(), task="a")


def test_attention_without_a_place_for_a_bias_is_refused():
    from transformers import AttentionInterface

    def odd(module, query, key, value, attention_mask, **kwargs):
        return value.transpose(1, 2), None

    AttentionInterface.register("odd", odd)
    model = backbone("vit")
    adapted = attach(model, ["a"])
    model.config._attn_implementation = "odd"
    with pytest.raises(ModelError, match="eager"):
        adapted(pixels(), task="a")


def test_gradient_checkpointing_is_refused():
    model = backbone("vit")
    adapted = attach(model, ["a"])
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    adapted(pixels(), task="a")
    model.train()
    with pytest.raises(ModelError, match="checkpointing"), adapted.task("a"):
        model(pixels())


def test_training_mode_leaves_the_backbone():
    adapted = attach(backbone("vit"), TASKS).train()
    assert adapted.training
    assert adapted.heads[0].training
    assert not any(module.training for module in adapted.backbone.modules())


@pytest.mark.gpu
@every_kind
def test_on_a_device(name, attention):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, x = backbone(name, attention).cuda(), pixels().cuda()
    before = outputs(model, x)
    adapted = attach(model, TASKS, layers=[0, 1, 2])
    assert all(p.is_cuda for p in adapted.parameters())
    with adapted.task("plain"):
        # without a mask, a device may choose another kernel than with a mask of zeros
        exact = attention == "eager" or name != "vit"
        for one, two in zip(outputs(model, x), before, strict=True):
            torch.testing.assert_close(one, two, atol=0 if exact else 1e-5, rtol=0 if exact else 1e-4)
    found = adapted(x, task=["depth", "kind"])
    (found["depth"].mean() + found["kind"].mean()).backward()
    assert all(p.grad is None for p in model.parameters())
