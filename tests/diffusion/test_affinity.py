"""Affinities of time steps against all gradients kept, and what may be done with them."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coterie import Context
from coterie.diffusion import step_intervals
from coterie.diffusion.affinity import StepAffinity, average, step_affinity
from coterie.diffusion.gradients import USUAL_PROBE, ProbeSettings
from coterie.diffusion.lookahead import lookahead_affinity
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import ModelError, SettingError, StoreError
from reference.diffusion import TinyDenoiser, cosine_matrix, drawn, hat_value

SCHEDULE = NoiseSchedule.linear(40)
ABAR = SCHEDULE.signal**2
IMAGES = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
LABELS = torch.arange(12) % 3


def make(seed=0, **options):
    torch.manual_seed(seed)
    return TinyDenoiser(**options)


@pytest.mark.parametrize("batch", [3, 5, 64])
def test_exact_affinity_equals_all_gradients(batch):
    found = step_affinity(
        make(), IMAGES, SCHEDULE, ProbeSettings(stride=9, examples=8, batch=batch), Context(seed=4), sketch=None
    )
    rows, noise = drawn(IMAGES, 8, 4)
    want = cosine_matrix(make(), ABAR, IMAGES[rows], noise, [0, 9, 18, 27, 36, 39])
    assert found.steps.tolist() == [0, 9, 18, 27, 36, 39]
    np.testing.assert_allclose(found.values, want.numpy(), atol=1e-5)
    assert np.abs(want.numpy() - 1).max() > 0.05  # the steps do differ
    assert found.facts["sketch_error"] == 0


def test_condition_and_subset():
    probe = ProbeSettings(steps=[1, 20, 33], examples=7, condition=(LABELS,))
    found = step_affinity(make(classes=3), IMAGES, SCHEDULE, probe, sketch=None)
    rows, noise = drawn(IMAGES, 7, 0)
    model = make(classes=3)
    want = cosine_matrix(model, ABAR, IMAGES[rows], noise, [1, 20, 33], LABELS[rows])
    np.testing.assert_allclose(found.values, want.numpy(), atol=1e-5)
    probe = replace(probe, parameters=["first", "last.bias"])
    part = step_affinity(model, IMAGES, SCHEDULE, probe, sketch=None)
    for name, value in model.named_parameters():
        value.requires_grad_(name.startswith("first.") or name == "last.bias")
    want = cosine_matrix(model, ABAR, IMAGES[rows], noise, [1, 20, 33], LABELS[rows])
    np.testing.assert_allclose(part.values, want.numpy(), atol=1e-5)
    assert part.facts["parameters"] == 36 + 4 + 1
    assert np.abs(part.values - found.values).max() > 1e-3


def test_the_sketch_errs_as_it_says():
    model = make(width=16)
    probe = ProbeSettings(stride=13, examples=4)
    exact = step_affinity(model, IMAGES, SCHEDULE, probe, sketch=None).values
    size = 64
    assert sum(p.numel() for p in model.parameters()) > 4 * size
    gaps = []
    for seed in range(12):  # other images and noise with each seed: the exact values go along
        truth = step_affinity(model, IMAGES, SCHEDULE, probe, Context(seed=seed), sketch=None).values
        found = step_affinity(model, IMAGES, SCHEDULE, probe, Context(seed=seed), sketch=size)
        assert found.facts["sketch_error"] == 1 / 8
        gaps.append(
            (found.values - truth)[~np.eye(len(truth), dtype=bool)] / (1 - truth[~np.eye(len(truth), dtype=bool)] ** 2)
        )
    assert 0.5 / 8 < np.sqrt(np.mean(np.square(gaps))) < 1.6 / 8
    short = step_affinity(model, IMAGES, SCHEDULE, probe, sketch=10**6)  # longer than the gradient: none is made
    assert np.array_equal(short.values, exact)
    assert short.facts["sketch"] is None


def test_everything_is_left_as_it_was():
    model = make().train()
    model.norm.eval()
    model.time.weight.requires_grad_(False)
    model.last.weight.grad = torch.ones_like(model.last.weight)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    first = step_affinity(model, IMAGES, SCHEDULE, ProbeSettings(stride=20))
    assert torch.equal(torch.rand(3), want)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.last.weight.grad, torch.ones_like(model.last.weight))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "last.weight")
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["time.weight"]
    again = step_affinity(model, IMAGES, SCHEDULE, ProbeSettings(stride=20))
    assert np.array_equal(first.values, again.values)  # dropout would have changed it


def test_a_failure_leaves_the_model_too():
    model = make().train()
    with pytest.raises(ModelError, match="step 0 is not finite"):
        step_affinity(model, IMAGES * float("inf"), SCHEDULE)
    assert all(m.training for m in model.modules())


def test_frozen_weights_of_a_moving_average():
    model = make().requires_grad_(False)
    found = step_affinity(model, IMAGES, SCHEDULE, ProbeSettings(stride=20))
    assert np.array_equal(found.values, step_affinity(make(), IMAGES, SCHEDULE, ProbeSettings(stride=20)).values)
    assert not any(p.requires_grad for p in model.parameters())


def test_progress():
    seen = []
    step_affinity(make(), IMAGES, SCHEDULE, ProbeSettings(stride=20), Context(progress=lambda *a: seen.append(a)))
    assert seen == [("affinity", 1, 3), ("affinity", 2, 3), ("affinity", 3, 3)]


class Flat(nn.Module):
    """Has a parameter that nothing depends on."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Parameter(torch.tensor(0.5)), nn.Linear(2, 2)

    def forward(self, x, t):
        return self.used * x


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"steps": [3, 40]}, "0 to 39"),
        ({"steps": []}, "0 to 39"),
        ({"steps": [0.5]}, "0 to 39"),
        ({"stride": 0}, "stride"),
        ({"examples": 0}, "examples"),
        ({"batch": 0}, "batch"),
        ({"stride": "a"}, "`stride`"),
        ({"stride": 2.5}, "`stride`"),
        ({"examples": 2.5}, "`examples`"),
        ({"batch": 1.5}, "`batch`"),
        ({"seed": 0.5}, "`seed`"),
        ({"sketch": 0}, "`sketch`"),
        ({"sketch": 10.5}, "`sketch`"),
        ({"parameters": []}, "`parameters` is empty"),
        ({"images": IMAGES.numpy()}, "ndarray"),
        ({"parameters": ["encoder"]}, "used, idle"),
        ({"condition": (LABELS[:3],)}, "Found 3 rows"),
        ({"images": IMAGES[:0]}, "images"),
        ({"images": (IMAGES * 255).to(torch.uint8)}, "uint8"),
        ({"model": lambda x, t: x}, "torch.nn.Module"),
        ({"parameters": ["idle"]}, "is zero"),
    ],
)
def test_bad_arguments(options, word):
    given_ = {"model": Flat(), "images": IMAGES, "schedule": SCHEDULE, **options}
    probed = {name: given_.pop(name) for name in options if name in USUAL_PROBE.__dict__}
    with pytest.raises((SettingError, ModelError), match=word):
        step_affinity(**given_, probe=ProbeSettings(**probed))


def test_old_keywords_still_work():
    with pytest.warns(DeprecationWarning, match=r"step_affinity takes `stride`.*give probe=ProbeSettings\(stride"):
        old = step_affinity(make(), IMAGES, SCHEDULE, stride=20)
    assert np.array_equal(old.values, step_affinity(make(), IMAGES, SCHEDULE, ProbeSettings(stride=20)).values)


class Detached(Flat):
    """Its output has no graph."""

    def forward(self, x, t):
        return (self.used * x).detach()


@pytest.mark.parametrize("measure", [step_affinity, partial(lookahead_affinity, learning_rate=0.1)])
def test_a_loss_that_depends_on_no_parameter(measure):
    with pytest.raises(ModelError, match=r"step 0 depends on none of the parameters"):
        measure(Detached(), IMAGES, SCHEDULE)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 14))
def test_full_is_bilinear(seed, n):
    rng = np.random.default_rng(seed)
    steps = np.unique(rng.integers(0, n, rng.integers(1, n + 1)))
    values = rng.normal(size=(len(steps), len(steps)))
    full = StepAffinity(steps, values, n).full()
    assert np.array_equal(full[np.ix_(steps, steps)], values)
    want = [[hat_value(steps.tolist(), values.tolist(), i, j) for j in range(n)] for i in range(n)]
    np.testing.assert_allclose(full, want, atol=1e-12)
    both = StepAffinity(steps, values + values.T, n).full()
    np.testing.assert_allclose(both, both.T, atol=1e-12)


def test_summaries():
    steps = np.array([0, 3, 6, 7])
    values = 1 - np.abs(np.subtract.outer(steps, steps)) / 10
    found = StepAffinity(steps, values, 8)
    gaps, means = found.by_gap()
    assert gaps.tolist() == [0, 1, 3, 4, 6, 7]
    np.testing.assert_allclose(means, 1 - gaps / 10)
    assert found.falling() == pytest.approx(-1)
    schedule = NoiseSchedule.linear(8)
    place = (schedule.signal**2 / schedule.noise**2).log()[steps].numpy()
    distance, affinity = found.against_snr_gap(schedule)
    np.testing.assert_allclose(distance, [place[i] - place[j] for i in range(4) for j in range(i + 1, 4)])
    np.testing.assert_allclose(affinity, [values[i, j] for i in range(4) for j in range(i + 1, 4)])
    with pytest.raises(SettingError, match="8 steps"):
        found.against_snr_gap(SCHEDULE)
    assert np.isnan(StepAffinity(np.array([0, 1]), np.eye(2), 8).falling())


def test_average():
    rng = np.random.default_rng(0)
    parts = [StepAffinity(np.array([0, 4]), rng.normal(size=(2, 2)), 5, facts={"seed": 1}) for _ in range(3)]
    found = average(parts)
    np.testing.assert_allclose(found.values, sum(p.values for p in parts) / 3)
    assert found.facts == {"seed": 1, "averaged": 3}
    with pytest.raises(SettingError, match="empty"):
        average([])
    for other in (
        StepAffinity(np.array([0, 3]), np.eye(2), 5),
        StepAffinity(np.array([0, 4]), np.eye(2), 6),
        StepAffinity(np.array([0, 4]), np.eye(2), 5, "lookahead"),
    ):
        with pytest.raises(SettingError, match="same steps and kind"):
            average([parts[0], other])


def test_save_and_load(tmp_path):
    found = step_affinity(make(), IMAGES, SCHEDULE, ProbeSettings(stride=15))
    found.save(tmp_path / "a.safetensors")
    back = StepAffinity.load(tmp_path / "a.safetensors")
    assert np.array_equal(back.values, found.values)
    assert np.array_equal(back.steps, found.steps)
    assert (back.n_steps, back.kind, back.facts) == (found.n_steps, found.kind, found.facts)
    (tmp_path / "b").write_text("nothing")
    with pytest.raises(StoreError, match="is damaged, or not one of"):
        StepAffinity.load(tmp_path / "b")
    with pytest.raises(StoreError, match="Cannot write"):
        found.save(tmp_path / "none" / "a")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "c")
    with pytest.raises(StoreError, match="not one of 'coterie step affinity 2'"):
        StepAffinity.load(tmp_path / "c")


def test_wrong_matrices():
    for steps, values, kind, word in (
        ([0, 1], np.eye(3), "cosine", "matrix for 2"),
        ([0, 0], np.eye(2), "cosine", "1 different"),
        ([0, 1], np.full((2, 2), np.nan), "cosine", "finite"),
        ([0, 1], np.eye(2), "angle", "kind"),
        ([0, 9], np.eye(2), "cosine", "0 to 4"),
        ([1, 0], np.eye(2), "cosine", "ascending"),
    ):
        with pytest.raises(SettingError, match=word):
            StepAffinity(np.array(steps), values, 5, kind)


def test_plot(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    found = step_affinity(make(), IMAGES, SCHEDULE, ProbeSettings(stride=15))
    axes = found.plot(step_intervals(SCHEDULE, 4))
    assert len(axes.patches) == 4
    assert np.array_equal(axes.images[0].get_array(), found.full())
    plt.close("all")


@pytest.mark.gpu
def test_on_a_device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here = step_affinity(make(), IMAGES, SCHEDULE, ProbeSettings(stride=10))
    there = step_affinity(make().cuda(), IMAGES, SCHEDULE, ProbeSettings(stride=10))
    np.testing.assert_allclose(there.values, here.values, atol=1e-3)
