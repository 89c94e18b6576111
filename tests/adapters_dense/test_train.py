"""Training of dense tasks: what moves, what does not, and what TROA sees."""

import numpy as np
import pytest
import torch

from coterie.adapters import Image, Troa, attach, compose_scenes, grow
from coterie.adapters.dense import dense_task
from coterie.adapters.plain import PlainModel
from coterie.adapters.predict import evaluate_dense, predict_dense, shared_gradient
from coterie.adapters.recipe import DenseRecipe, batches, one_cycle
from coterie.adapters.train import train_dense
from coterie.adapters.troa import flat_gradients
from coterie.errors import NumericsWarning, SettingError

transformers = pytest.importorskip("transformers")

TASKS = {"depth": dense_task("depth"), "edges": dense_task("edges"), "normals": dense_task("normals")}
HEADS = {name: task.head for name, task in TASKS.items()}
RECIPE = DenseRecipe(steps=3, batch_size=4, learning_rate=1e-2)


def swin(seed=0):
    config = transformers.SwinConfig(
        image_size=16,
        patch_size=2,
        num_channels=1,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[1, 2],
        window_size=4,
        drop_path_rate=0.0,
    )
    torch.manual_seed(seed)
    return transformers.SwinModel(config, add_pooling_layer=False).eval()


@pytest.fixture(scope="module")
def scenes():
    sklearn = pytest.importorskip("sklearn.datasets")
    pixels, labels = sklearn.load_digits(return_X_y=True)
    digits = torch.from_numpy(pixels).float().reshape(-1, 8, 8) / 16
    return compose_scenes(digits, torch.from_numpy(labels), 12, seed=0, side=16, largest=8, smallest=5)


def adapted(seed=0):
    return attach(swin(), HEADS, layers=[0, 1], decoder=6, seed=seed)


def plain(**more):
    return PlainModel(swin(), HEADS, decoder=6, **more)


def fit(model, scenes, recipe=RECIPE, tasks=TASKS, **more):
    return train_dense(model, scenes.images, scenes.targets, tasks, recipe, **more)


def tensors(model):
    """The state without Omega, which is no tensor."""
    return [(name, value) for name, value in model.state_dict().items() if not name.endswith("_extra_state")]


def state(model):
    return {name: value.clone() for name, value in tensors(model)}


def moved(model, before):
    return {name for name, value in tensors(model) if not torch.equal(value, before[name])}


def test_batches_are_epochs():
    rows = list(batches(10, 4, 5, seed=0))
    for epoch in (rows[:2], rows[2:4]):
        assert len(torch.cat(epoch).unique()) == 8
    assert not torch.equal(rows[0], rows[2])
    assert len(rows) == 5
    assert all(torch.equal(a, b) for a, b in zip(rows, batches(10, 4, 5, seed=0), strict=True))
    assert not torch.equal(rows[0], next(batches(10, 4, 5, seed=1)))
    assert [len(part) for part in batches(3, 8, 2, seed=0)] == [3, 3]  # fewer rows than a batch


def test_plain_predictions_are_those_of_fresh_adapters(scenes):
    """Adapters start as the frozen model: with the same decoder and heads, both predict the same."""
    with_adapters, without = adapted(), plain()
    without.decoder.load_state_dict(with_adapters.decoder.state_dict())
    without.heads.load_state_dict(with_adapters.heads.state_dict())
    with torch.no_grad():
        a, b = with_adapters(scenes.images, task=list(TASKS)), without(scenes.images)
    for name in TASKS:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-5)
        assert torch.equal(without(scenes.images, task=name), b[name])


def test_what_moves(scenes):
    frozen, free, with_adapters = plain(), plain(frozen=False), adapted()
    for model in (frozen, free, with_adapters):
        before = state(model)
        fit(model, scenes)
        names = moved(model, before)
        assert any(name.startswith("backbone") for name in names) == (model is free)
        assert {f"heads.{k}.layers.2.weight" for k in range(3)} <= names
    assert any(name.startswith("adapters") for name in names)


def test_the_same_seed_gives_the_same_model(scenes):
    first, second, other = adapted(), adapted(), adapted()
    a, b, c = fit(first, scenes, seed=3), fit(second, scenes, seed=3), fit(other, scenes, seed=4)
    assert np.array_equal(a.losses, b.losses)
    assert not np.array_equal(a.losses, c.losses)
    assert not moved(first, state(second))


def test_task_by_task_gives_the_same_step(scenes):
    """TROA sees the tasks one by one; the step is that of the sum. Omega moves from the second batch on."""
    troa = Troa(list(TASKS))
    one_by_one, together = adapted(), adapted()
    together.use_affinity(troa.affinity)
    recipe = DenseRecipe(steps=2, batch_size=4)
    a, b = fit(one_by_one, scenes, recipe, troa=troa), fit(together, scenes, recipe)
    np.testing.assert_allclose(a.losses, b.losses, rtol=1e-4)
    other = dict(together.named_parameters())
    for name, parameter in one_by_one.named_parameters():
        torch.testing.assert_close(parameter, other[name], atol=2e-5, rtol=1e-3)
    np.testing.assert_array_equal(a.omega[0], np.full((3, 3), 1 / 3))
    assert not np.array_equal(a.omega[1], a.omega[0])
    np.testing.assert_array_equal(one_by_one.embeddings.omega, a.omega[-1])
    assert b.omega is None


class Spy(Troa):
    """Keeps what it is told."""

    def update(self, gradients):
        self.seen = [*getattr(self, "seen", []), gradients]
        super().update(gradients)


def test_troa_sees_the_gradients_of_the_adapters(scenes):
    troa, model, same = Spy(list(TASKS)), adapted(), adapted()
    fit(model, scenes, DenseRecipe(steps=1, batch_size=4), seed=5, troa=troa)
    same.use_affinity(Troa(list(TASKS)).affinity)
    some = scenes.rows(next(batches(len(scenes), 4, 1, seed=5)))
    losses = [task.loss(same(some.images, task=name), some.targets[name]) for name, task in TASKS.items()]
    torch.testing.assert_close(troa.seen[0], flat_gradients(losses, same.shared_parameters()))


def test_it_learns(scenes):
    done = fit(adapted(), scenes, DenseRecipe(steps=40, batch_size=6, learning_rate=1e-2), troa=Troa(list(TASKS)))
    assert (done.losses[-5:].mean(0) < 0.9 * done.losses[:5].mean(0)).all()


def test_counts_by_hand(scenes):
    model = plain()
    done = fit(model, scenes)
    own = sum(p.numel() for module in (model.decoder, model.heads) for p in module.parameters())
    every = own + sum(p.numel() for p in model.backbone.parameters())
    assert done.trainable == own
    assert done.bytes == 4 * every + 3 * 4 * own
    assert done.tasks == tuple(TASKS)
    assert done.losses.shape == (3, 3)
    assert done.seconds > 0


def test_what_troa_keeps_is_counted(scenes):
    model, troa = adapted(), Troa(list(TASKS))
    done = fit(model, scenes, troa=troa)
    shared = sum(p.numel() for p in model.shared_parameters())
    assert done.troa_bytes == 3 * 4 * shared
    assert done.bytes == fit(adapted(), scenes).bytes
    assert fit(adapted(), scenes).troa_bytes == 0


@pytest.mark.parametrize("steps", range(1, 13))
def test_short_trainings_have_a_learning_rate(steps):
    recipe = DenseRecipe(steps=steps)
    adam = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=recipe.learning_rate)
    schedule, rates = one_cycle(adam, recipe), []
    for _ in range(steps):
        rates.append(adam.param_groups[0]["lr"])
        adam.step()
        schedule.step()
    top = rates.index(max(rates))
    assert top <= 1  # a tenth of these is at most one step
    assert max(rates) <= recipe.learning_rate
    assert max(rates) > 0.95 * recipe.learning_rate
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < adam.param_groups[0]["lr"] < 1e-5 * recipe.learning_rate


@pytest.mark.parametrize("steps", [50, 500])
def test_a_long_warm_up_is_that_of_pytorch(steps):
    def rates(make):
        adam = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1e-3)
        schedule = make(adam)
        for _ in range(steps):
            yield adam.param_groups[0]["lr"]
            adam.step()
            schedule.step()

    cycle = torch.optim.lr_scheduler.OneCycleLR
    want = list(rates(lambda adam: cycle(adam, 1e-3, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False)))
    assert list(rates(lambda adam: one_cycle(adam, DenseRecipe(steps=steps)))) == want


def test_a_plain_model_leaves_no_hook(scenes):
    model = plain(frozen=False)
    hooks = [m._forward_pre_hooks for m in model.backbone.modules()]
    fit(model, scenes)
    assert not any(hooks)
    with pytest.raises((RuntimeError, ValueError), match="channel"):
        model(scenes.images.repeat(1, 2, 1, 1))
    assert not any(hooks)


def test_what_is_around_the_backbone_does_not_move(scenes):
    config = swin().config
    torch.manual_seed(0)
    model = transformers.SwinForImageClassification(config)
    before = state(model)
    with_adapters = attach(model, HEADS, layers=[0, 1], decoder=6)
    fit(with_adapters, scenes, troa=Troa(list(TASKS)))
    assert not moved(model, before)


def test_predictions_do_not_depend_on_the_batch(scenes):
    model = adapted()
    whole = predict_dense(model, scenes.images, TASKS)
    parts = predict_dense(model, scenes.images, TASKS, batch_size=5)
    for name, values in whole.items():
        torch.testing.assert_close(values, parts[name], atol=1e-5, rtol=1e-5)
    found = evaluate_dense(model, scenes.images, scenes.targets, TASKS)
    for name, task in TASKS.items():
        assert found[name] == pytest.approx(task.metric(whole[name], scenes.targets[name]), rel=1e-4)


def test_gradient_of_a_task_that_came_later(scenes):
    model = adapted()
    fit(model, scenes)
    grow(model, "later", HEADS["edges"], similarities={"depth": 1.0})
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    found = shared_gradient(model, scenes.images, scenes.edges, "later", TASKS["edges"])
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}
    for parameter in model.shared_parameters():
        parameter.requires_grad_(True)
    loss = TASKS["edges"].loss(model(scenes.images, task="later"), scenes.edges)
    torch.testing.assert_close(found, flat_gradients([loss], model.shared_parameters())[0])
    assert found.any()


def test_a_later_task_leaves_the_others_as_they_were(scenes):
    model = adapted()
    fit(model, scenes, troa=Troa(list(TASKS)))
    before = predict_dense(model, scenes.images, TASKS)
    grow(model, "later", HEADS["edges"], similarities={"edges": 1.0, "depth": 0.5})
    train_dense(model, scenes.images, {"later": scenes.edges}, {"later": TASKS["edges"]}, RECIPE)
    after = predict_dense(model, scenes.images, TASKS)
    assert all(torch.equal(before[name], after[name]) for name in TASKS)


def test_image_tasks(scenes):
    model = PlainModel(swin(), {"present": Image(10)}, frozen=False)
    assert model.decoder is None
    assert model(scenes.images, task="present").shape == (12, 10)


def test_divergence_is_told(scenes):
    targets = {"depth": torch.full_like(scenes.depth, 3e38)}
    tasks = {"depth": dense_task("depth")}
    with pytest.warns(NumericsWarning, match="diverged"):
        train_dense(plain(), scenes.images, targets, tasks, RECIPE)


def test_bad_input(scenes):
    with pytest.raises(SettingError, match="adapted model"):
        fit(plain(), scenes, troa=Troa(list(TASKS)))
    with pytest.raises(SettingError, match="in their order"):
        fit(adapted(), scenes, troa=Troa(["edges", "depth", "normals"]))
    with pytest.raises(SettingError, match="segmentation"):
        fit(plain(), scenes, tasks={"segmentation": dense_task("segmentation", classes=11)})
    with pytest.raises(SettingError, match="labels"):
        train_dense(plain(), scenes.images, {"depth": scenes.depth[:3]}, {"depth": TASKS["depth"]}, RECIPE)
    with pytest.raises(SettingError, match="nothing to train"):
        fit(plain(), scenes, tasks={})
    with pytest.raises(SettingError, match="at least one image"):
        train_dense(plain(), scenes.images[:0], {"depth": scenes.depth[:0]}, {"depth": TASKS["depth"]}, RECIPE)
    with pytest.raises(SettingError, match="images"):
        predict_dense(plain(), scenes.images[:0], TASKS)
    with pytest.raises(SettingError, match="batch_size=0"):
        predict_dense(plain(), scenes.images, TASKS, batch_size=0)
    with pytest.raises(SettingError, match=r"task.*Found 'other'"):
        plain()(scenes.images, task="other")
    with pytest.raises(SettingError, match="heads"):
        PlainModel(swin(), {"depth": 3})
    with pytest.raises(SettingError, match="head in the model"):
        fit(attach(swin(), ["depth"]), scenes, tasks={"depth": TASKS["depth"]})
    with pytest.raises(SettingError, match="labelled image"):
        shared_gradient(adapted(), scenes.images[:0], scenes.edges[:0], "edges", TASKS["edges"])


def test_a_grown_model_trains_its_new_task_alone(scenes):
    model = adapted()
    grow(model, "later", HEADS["edges"], similarities={"depth": 1.0})
    before = state(model)
    targets = {**scenes.targets, "later": scenes.edges}
    tasks = {**TASKS, "later": TASKS["edges"]}
    with pytest.raises(SettingError, match=r"trains something.*grown"):
        fit(model, scenes)
    with pytest.raises(SettingError, match=r"troa.*frozen.*grown"):
        train_dense(model, scenes.images, targets, tasks, RECIPE, troa=Troa(list(tasks)))
    assert not moved(model, before)
    train_dense(model, scenes.images, targets, tasks, RECIPE)  # together with known ones is no error
    assert {name.split(".")[0] for name in moved(model, before)} == {"embeddings", "heads"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("steps", True),
        ("batch_size", "8"),
        ("learning_rate", float("inf")),
        ("learning_rate", 0),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("betas", (0.9, 1.0)),
        ("betas", 0.9),
        ("betas", (0.9,)),
        ("warm_up", 1),
        ("max_norm", 0),
        ("max_norm", float("nan")),
    ],
)
def test_bad_recipes(name, value):
    with pytest.raises(SettingError, match=f"`{name}` of a recipe should be .* Found"):
        DenseRecipe(**{"steps": 2, name: value})
    assert DenseRecipe(steps=np.int64(2), max_norm=float("inf"), betas=[0.5, 0]).steps == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_losses_on_a_gpu(scenes):
    there = scenes.to("cuda")
    model = attach(swin().cuda(), HEADS, layers=[0, 1], decoder=6)
    a = fit(model, there, troa=Troa(list(TASKS)))
    b = fit(adapted(), scenes, troa=Troa(list(TASKS)))
    np.testing.assert_allclose(a.losses, b.losses, rtol=1e-2)
    np.testing.assert_allclose(a.omega, b.omega, atol=1e-2)
