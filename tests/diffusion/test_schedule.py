"""Noise schedules against those of diffusers."""

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.diffusion.schedule import PREDICTIONS, NoiseSchedule
from coterie.errors import SettingError

STEPS = torch.tensor([0, 1, 300, 640, 999])


def draw(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(5, 2, 3, 3, generator=generator, dtype=dtype) for _ in range(2))


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDPMScheduler(),
        diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
        diffusers.DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="sample"),
        diffusers.DDIMScheduler(beta_schedule="scaled_linear"),
        diffusers.PNDMScheduler(beta_schedule="scaled_linear"),
        diffusers.DPMSolverMultistepScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_noise_is_added_as_in_diffusers(scheduler):
    clean, noise = draw()
    schedule = NoiseSchedule.from_diffusers(scheduler)
    if hasattr(scheduler, "sigma_t"):  # DPM-Solver: add_noise is for its own sampling steps only
        want = scheduler.alpha_t[STEPS].view(-1, 1, 1, 1) * clean + scheduler.sigma_t[STEPS].view(-1, 1, 1, 1) * noise
    else:
        want = scheduler.add_noise(clean, noise, STEPS)
    torch.testing.assert_close(schedule.add_noise(clean, noise, STEPS), want, atol=2e-6, rtol=1e-5)
    assert torch.equal(schedule.model_time(STEPS), STEPS)


def test_targets_are_those_of_diffusers():
    clean, noise = draw(1)
    for word, want in (
        ("epsilon", noise),
        ("sample", clean),
        ("v_prediction", diffusers.DDPMScheduler().get_velocity(clean, noise, STEPS)),
    ):
        schedule = NoiseSchedule.from_diffusers(diffusers.DDPMScheduler(prediction_type=word))
        torch.testing.assert_close(schedule.target(clean, noise, STEPS), want, atol=1e-6, rtol=1e-5)


def test_euler_sees_the_same_input():
    """It adds noise without shrinking the image, and shrinks both before the network sees them."""
    clean, noise = draw(2)
    scheduler = diffusers.EulerDiscreteScheduler()
    found = NoiseSchedule.from_diffusers(scheduler).add_noise(clean, noise, STEPS)
    for row, t in enumerate(STEPS.tolist()):
        fresh = diffusers.EulerDiscreteScheduler()
        time = torch.tensor([float(t)])
        noisy = fresh.add_noise(clean[row : row + 1], noise[row : row + 1], time)
        want = fresh.scale_model_input(noisy, time[0])
        torch.testing.assert_close(found[row : row + 1], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching(shift):
    clean, noise = draw(3)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = NoiseSchedule.from_diffusers(scheduler)
    times = schedule.model_time(STEPS)
    torch.testing.assert_close(schedule.add_noise(clean, noise, STEPS), scheduler.scale_noise(clean, times, noise))
    torch.testing.assert_close(schedule.target(clean, noise, STEPS), noise - clean)
    assert torch.equal(schedule.given.flip(0), scheduler.timesteps)
    assert (schedule.noise.diff() > 0).all()
    assert float(schedule.signal[-1]) == 0
    # one exact step of its sampler from the noisy image along the target arrives at the image
    scheduler.set_timesteps(1)
    t = torch.full((5,), 999)
    end = scheduler.step(schedule.target(clean, noise, t), scheduler.timesteps[0], schedule.add_noise(clean, noise, t))
    torch.testing.assert_close(end.prev_sample, clean, atol=1e-5, rtol=1e-5)


def test_what_set_timesteps_did_does_not_matter():
    for kind in (diffusers.DDPMScheduler, diffusers.FlowMatchEulerDiscreteScheduler, diffusers.EulerDiscreteScheduler):
        scheduler = kind()
        before = NoiseSchedule.from_diffusers(scheduler)
        scheduler.set_timesteps(7)
        after = NoiseSchedule.from_diffusers(scheduler)
        assert torch.equal(before.noise, after.noise)
        assert torch.equal(before.given, after.given)


def test_own_schedules_are_those_of_diffusers():
    for own, other in (
        (NoiseSchedule.linear(), diffusers.DDPMScheduler()),
        (NoiseSchedule.cosine(), diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")),
        (NoiseSchedule.linear(100), diffusers.DDPMScheduler(100, beta_start=1e-3, beta_end=0.2)),
    ):
        theirs = NoiseSchedule.from_diffusers(other)
        torch.testing.assert_close(own.signal, theirs.signal, atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(own.noise, theirs.noise, atol=1e-6, rtol=1e-3)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), prediction=st.sampled_from(PREDICTIONS), n=st.integers(1, 40))
def test_a_perfect_prediction_gives_the_image(seed, prediction, n):
    rng = np.random.default_rng(seed)
    schedule = NoiseSchedule(torch.tensor(rng.uniform(0.1, 1, n)), torch.tensor(rng.uniform(0, 1, n)), prediction)
    t = torch.tensor(rng.integers(0, n, 5))
    clean, noise = draw(seed, torch.float64)
    noisy = schedule.add_noise(clean, noise, t)
    found = schedule.estimate_clean(schedule.target(clean, noise, t), noisy, t)
    torch.testing.assert_close(found, clean, atol=1e-12, rtol=1e-12)


def test_zero_terminal_snr():
    scheduler = diffusers.DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    schedule = NoiseSchedule.from_diffusers(scheduler)
    assert float(schedule.signal[-1]) == 0
    q = schedule.log_snr
    assert q.isfinite().all()
    assert (q.diff() < 0).all()
    assert float(q[-1]) == pytest.approx(float(2 * q[-2] - q[-3]))
    abar = scheduler.alphas_cumprod[:-1].double()
    torch.testing.assert_close(q[:-1], (abar / (1 - abar)).log(), atol=1e-9, rtol=1e-9)
    clean, noise = draw(4)
    last = torch.full((5,), 999)
    noisy = schedule.add_noise(clean, noise, last)
    torch.testing.assert_close(schedule.estimate_clean(schedule.target(clean, noise, last), noisy, last), clean)
    blind = NoiseSchedule(schedule.signal, schedule.noise, "epsilon")
    assert blind.estimate_clean(noise, noisy, last - 1).isfinite().all()
    with pytest.raises(SettingError, match="without signal"):
        blind.estimate_clean(noise, noisy, last)


def test_a_first_step_without_noise():
    q = NoiseSchedule.from_sigmas(torch.linspace(0, 1, 11)).log_snr
    assert q.isfinite().all()
    assert (q.diff() < 0).all()
    with pytest.raises(SettingError, match="too many steps"):
        _ = NoiseSchedule.from_sigmas([0.0, 0.5, 1.0]).log_snr


@pytest.mark.parametrize(
    ("scheduler", "word"),
    [
        (diffusers.EDMEulerScheduler(), "preconditioning"),
        (diffusers.EDMDPMSolverMultistepScheduler(), "sigma_data"),
        (diffusers.CMStochasticIterativeScheduler(), "sigma_data"),
        (diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True), "from_sigmas"),
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas"),
        ("ddpm", "scheduler of diffusers"),
    ],
)
def test_other_families_are_refused(scheduler, word):
    with pytest.raises(SettingError, match=word):
        NoiseSchedule.from_diffusers(scheduler)


def test_what_the_refusal_of_edm_advises():
    sigmas = diffusers.EDMEulerScheduler().sigmas[:-1].flip(0)
    schedule = NoiseSchedule(torch.ones(len(sigmas)), sigmas, "sample", sigmas)
    assert torch.allclose(schedule.log_snr, -2 * sigmas.double().log())


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: NoiseSchedule(torch.ones(3), torch.ones(3), "eps"), "prediction"),
        (lambda: NoiseSchedule(torch.ones(3), torch.ones(2)), "Found shapes"),
        (lambda: NoiseSchedule(torch.ones(0), torch.ones(0)), "Found shapes"),
        (lambda: NoiseSchedule(torch.tensor([1.0, -1.0]), torch.ones(2)), "step 1"),
        (lambda: NoiseSchedule(torch.zeros(2), torch.zeros(2)), "step 0"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.5, 1.5]), "alphas_cumprod"),
        (lambda: NoiseSchedule.cosine(0), "n_steps"),
        (lambda: NoiseSchedule.cosine(5).model_time(torch.tensor([5])), "0 to 4"),
        (lambda: NoiseSchedule.cosine(5).model_time(torch.tensor([-1])), "0 to 4"),
        (lambda: NoiseSchedule.cosine(5).model_time(torch.tensor([0.5])), "whole numbers"),
    ],
)
def test_bad_arguments(make, word):
    with pytest.raises(SettingError, match=word):
        make()


@pytest.mark.parametrize("n_steps", [2.5, "a", 0, True, None])
@pytest.mark.parametrize("make", [NoiseSchedule.linear, NoiseSchedule.cosine])
def test_wrong_numbers_of_steps(make, n_steps):
    with pytest.raises(SettingError, match="`n_steps`"):
        make(n_steps)


def test_lists_and_arrays_are_taken_and_other_things_refused():
    schedule = NoiseSchedule([0.8, 0.6], np.array([0.6, 0.8]), given=[10, 20])
    assert schedule.signal.tolist() == [0.8, 0.6]
    assert schedule.model_time(torch.tensor([1])).tolist() == [20]
    for make, word in (
        (lambda: NoiseSchedule("a", "b"), "`signal`"),
        (lambda: NoiseSchedule(0.5, 0.5), "one entry"),
        (lambda: NoiseSchedule([0.5], [[0.5], [0.5, 0.1]]), "`noise`"),
        (lambda: NoiseSchedule.from_alphas_cumprod("a"), "`alphas_cumprod`"),
        (lambda: NoiseSchedule.from_sigmas(None), "`sigmas`"),
    ):
        with pytest.raises(SettingError, match=word):
            make()


def test_half_precision_keeps_its_type_and_its_digits():
    clean, noise = draw(5)
    schedule = NoiseSchedule.linear()
    want = schedule.add_noise(clean, noise, STEPS)
    found = schedule.add_noise(clean.bfloat16(), noise.bfloat16(), STEPS)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), want, atol=0.03, rtol=0.02)
