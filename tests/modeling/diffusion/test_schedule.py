"""Schedules against diffusers and closed forms."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from fastreid.modeling.diffusion import OptionError
from fastreid.modeling.diffusion.schedule import COSINE, PREDICTION_TYPES, Schedule

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
}
SOLVERS = ("ddpm", "ddim", "pndm", "euler")


def make(solver="ddpm", steps=1000, prediction="epsilon", spacing="trailing", cubic=True):
    return Schedule(
        CONFIG,
        solver=solver,
        num_timesteps=steps,
        prediction_type=prediction,
        timestep_spacing=spacing,
        cubic=cubic,
    )


def oracle(schedule, clean):
    """A denoiser that knows the sample: from z_t it derives the noise exactly."""
    alphas = DDPMScheduler.from_config({**CONFIG, "num_train_timesteps": schedule.num_timesteps}).alphas_cumprod

    def predict(noisy, timestep):
        t = timestep.long().clamp(max=len(alphas) - 1)
        alpha = alphas[t]
        noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return schedule.target(clean, noise, t.expand(len(clean)))

    return predict


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(("solver", "prediction"), [
    *((s, p) for s in ("ddpm", "ddim") for p in PREDICTION_TYPES),
    ("euler", "epsilon"), ("euler", "v_prediction"), ("pndm", "epsilon"), ("pndm", "v_prediction"),
])  # fmt: skip
def test_an_oracle_recovers_the_sample(solver, prediction, spacing):
    schedule = make(solver, prediction=prediction, spacing=spacing)
    clean = torch.randn(3, 4, 8, 6)
    predict = oracle(schedule, clean)
    reverse = schedule.reverse(10, "cpu")
    sample = torch.randn_like(clean) * reverse.start_scale
    for t in reverse.timesteps:
        scaled = reverse.scale(sample, t)
        sample = reverse.step(predict(scaled, t), t, sample, torch.randn_like(sample))
    # A solver that stops at the first alpha (set_alpha_to_one False) leaves a little noise; PNDM extrapolates.
    tolerance = 0.35 if solver == "pndm" else 0.15
    assert (sample - clean).abs().max() < tolerance


def test_ddpm_steps_equal_diffusers_ancestral_sampler():
    """Ours is DDIM with eta 1 so that noise can be handed in; it must be DDPM all the same."""
    schedule = make("ddpm", steps=600)
    theirs = DDPMScheduler.from_config(
        {**CONFIG, "num_train_timesteps": 600, "timestep_spacing": "trailing", "clip_sample": False}
    )
    theirs.set_timesteps(5)
    reverse = schedule.reverse(5, "cpu")
    assert reverse.timesteps.tolist() == theirs.timesteps.tolist()
    sample = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    for t in reverse.timesteps:
        prediction = torch.randn(sample.shape, generator=torch.Generator().manual_seed(int(t)))
        noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(7))
        ours = reverse.step(prediction, t, sample, noise)
        expected = theirs.step(prediction, t, sample, generator=torch.Generator().manual_seed(7)).prev_sample
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        sample = ours


def test_leading_spacing_is_the_releases_and_trailing_starts_at_the_end():
    assert make(steps=600, spacing="leading").reverse(5, "cpu").timesteps.tolist() == [481, 361, 241, 121, 1]
    assert make(steps=600, spacing="trailing").reverse(5, "cpu").timesteps.tolist() == [599, 479, 359, 239, 119]


def test_cubic_draw_prefers_large_times():
    torch.manual_seed(0)
    cubic, uniform = (make(cubic=c).timesteps_of(torch.rand(20_000)).float() for c in (True, False))
    assert cubic.mean().item() == pytest.approx(750, rel=0.02)  # E[1 - u^3] = 3/4
    assert uniform.mean().item() == pytest.approx(500, rel=0.02)
    assert cubic.min() >= 0 and cubic.max() <= 999


def test_noising_and_targets_are_the_closed_forms():
    schedule = make(prediction="v_prediction")
    clean, noise, t = torch.randn(2, 4, 8, 6), torch.randn(2, 4, 8, 6), torch.tensor([10, 900])
    alpha = DDPMScheduler.from_config(CONFIG).alphas_cumprod[t].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    torch.testing.assert_close(schedule.add_noise(clean, noise, t), noisy)
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    torch.testing.assert_close(schedule.target(clean, noise, t), velocity)
    assert make().target(clean, noise, t) is noise and make(prediction="sample").target(clean, noise, t) is clean


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "ddmp"}, "unknown solver 'ddmp'; did you mean 'ddpm'"),
        ({"prediction": "v"}, "Legal: epsilon, v_prediction, sample"),
        ({"spacing": "trailling"}, "did you mean 'trailing'"),
        ({"solver": "euler", "prediction": "sample"}, "not with euler"),
    ],
)
def test_wrong_settings_are_explained(options, message):
    with pytest.raises(OptionError, match=message):
        make(**options)


@pytest.mark.parametrize("solver", ["pndm", "euler", "dpm++"])
def test_runs_of_a_solver_share_no_state(solver):
    schedule = make(solver)

    def run(steps):
        reverse, sample = schedule.reverse(5, "cpu"), torch.ones(2, 3)
        for time in reverse.times[:steps]:
            sample = reverse.step(0.1 * reverse.scale(sample, time), time, sample, sample)
        return sample

    whole = run(None)
    run(3)
    assert torch.equal(run(None), whole) and not torch.equal(run(3), whole)


def test_more_steps_than_the_diffusion_has_are_refused():
    with pytest.raises(OptionError, match="num_steps must be 1 … num_timesteps=100, got 101"):
        make(steps=100).reverse(101, "cpu")


def test_the_noise_of_ddim_steps_is_an_option():
    def step(solver, eta, noise):
        options = {"num_timesteps": 1000, "prediction_type": "epsilon", "timestep_spacing": "trailing", "cubic": False}
        schedule = Schedule(CONFIG, solver=solver, eta=eta, **options)
        reverse = schedule.reverse(10, "cpu")
        return reverse.step(torch.ones(2, 3), reverse.timesteps[3], torch.ones(2, 3), noise), schedule.stochastic

    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    still, half, full = (step("ddim", eta, noise) for eta in (0.0, 0.5, 1.0))
    assert (still[1], half[1], full[1]) == (False, True, True)
    assert torch.equal(still[0], step("ddim", 0.0, -noise)[0])
    assert not torch.equal(half[0], step("ddim", 0.5, -noise)[0])
    assert not torch.allclose(half[0], full[0])
    assert torch.equal(step("ddpm", 0.0, noise)[0], step("ddpm", 1.0, noise)[0])  # always 1


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_noisy_steps_are_those_of_diffusers(eta, prediction):
    options = {"num_timesteps": 1000, "timestep_spacing": "trailing", "cubic": False}
    reverse = Schedule(CONFIG, solver="ddim", prediction_type=prediction, eta=eta, **options).reverse(10, "cpu")
    shared = {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": prediction}
    theirs = DDIMScheduler.from_config(CONFIG, **shared)
    theirs.set_timesteps(10)
    draw = torch.Generator().manual_seed(0)
    for time in reverse.times:
        predicted, sample, noise = (torch.randn(2, 3, generator=draw) for _ in range(3))
        expected = theirs.step(predicted, time, sample, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(reverse.step(predicted, time, sample, noise), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "euler"])
def test_no_step_begins_after_the_last_time(solver):
    """Stable Diffusion's steps_offset is 1, so that T leading steps would begin at time T."""
    schedule = make(solver, steps=20, spacing="leading")
    assert schedule.reverse(20, "cpu").times == list(range(19, -1, -1))
    assert max(schedule.reverse(19, "cpu").times) == 19
    assert schedule.reverse(10, "cpu").times == list(range(19, 0, -2))
    options = {"solver": solver, "num_timesteps": 20, "prediction_type": "epsilon", "cubic": False}
    far = Schedule({**CONFIG, "steps_offset": 5}, timestep_spacing="leading", **options)
    with pytest.raises(OptionError, match="10 steps begin at time 23, and the last one of the diffusion is 19"):
        far.reverse(10, "cpu")


def test_noise_cannot_be_predicted_where_no_signal_is_left():
    config, options = (
        {**CONFIG, "rescale_betas_zero_snr": True},
        {"solver": "ddim", "num_timesteps": 100, "cubic": False},
    )
    schedule = Schedule(config, prediction_type="epsilon", timestep_spacing="trailing", **options)
    with pytest.raises(OptionError, match="begin at time 99, at which the assets keep no signal"):
        schedule.reverse(5, "cpu")
    Schedule(config, prediction_type="epsilon", timestep_spacing="leading", **options).reverse(5, "cpu")
    Schedule(config, prediction_type="v_prediction", timestep_spacing="trailing", **options).reverse(5, "cpu")


@pytest.mark.parametrize(
    ("config", "num_steps"), [(dict(COSINE), 5), ({**CONFIG, "rescale_betas_zero_snr": True}, 16), (CONFIG, 5)]
)
def test_steps_from_pure_noise_are_finite(config, num_steps):
    """abar is 2e-9 or 0 at the first time, and 1 - abar' - sigma^2 is rounded below 0."""
    options = {"num_timesteps": 1000, "timestep_spacing": "trailing", "cubic": False}
    reverse = Schedule(config, solver="ddpm", prediction_type="sample", **options).reverse(num_steps, "cpu")
    clean, sample = torch.randn(4, 6), torch.randn(4, 6)
    for time in reverse.times:
        sample = reverse.step(clean, time, sample, torch.randn(4, 6))
    torch.testing.assert_close(sample, clean, rtol=0, atol=0.1)
