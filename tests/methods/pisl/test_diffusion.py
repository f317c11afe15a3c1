"""The diffusion of patches: schedule, oracle, what the denoiser sees, sampling."""

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.methods.pisl.denoiser import time_embedding
from fastreid.methods.pisl.diffusion import Signal, cosine_betas
from fastreid.methods.pisl.patches import strips
from fastreid.modeling import build_model
from fastreid.modeling.diffusion import Sampler, Schedule
from fastreid.modeling.diffusion.steps import clean_of
from fastreid.structures import Condition
from fastreid.utils.draws import BatchDraws
from tests.methods.pisl.conftest import pisl_cfg


def schedule_of(**options):
    given = {"solver": "ddim", "prediction_type": "epsilon", "eta": 0.0, **options}
    config = {"trained_betas": cosine_betas(1000, 0.008)}
    return Schedule(config, num_timesteps=1000, timestep_spacing="trailing", cubic=False, **given)


def test_cosine_schedule():
    betas = cosine_betas(1000, 0.008)
    assert [betas[0], betas[500], betas[999]] == pytest.approx([4.1284e-5, 3.15569e-3, 0.999], rel=1e-4)
    kept = schedule_of().kept_signal(torch.arange(1000), torch.zeros(1))[[0, 100, 250, 500, 750, 900]]
    expected = [0.9999587, 0.9715757, 0.845888, 0.492285, 0.143179, 0.0236161]
    torch.testing.assert_close(kept, torch.tensor(expected), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dim", [2, 5, 8])
def test_the_time_embedding_has_sines_then_cosines_in_any_width(dim):
    times, half = torch.tensor([0, 3, 999]), dim // 2
    frequencies = torch.logspace(0, -4, half, dtype=torch.float64) if half > 1 else torch.ones(1, dtype=torch.float64)
    angles = times[:, None] * frequencies
    expected = torch.cat([angles.sin(), angles.cos(), torch.zeros(3, dim % 2)], dim=1)
    torch.testing.assert_close(time_embedding(times, dim), expected.float(), rtol=0, atol=1e-4)


def test_noise_is_taken_away_again():
    schedule = schedule_of()
    theta, noise, timesteps = torch.rand(5, 18), torch.randn(5, 18), torch.tensor([0, 100, 500, 900, 990])
    noisy = schedule.add_noise(theta, noise, timesteps)
    torch.testing.assert_close(clean_of(schedule, noise, noisy, timesteps), theta, rtol=0, atol=1e-4)


def test_an_oracle_finds_theta():
    """It predicts in float64, as the first step divides by the root of 2.4e-9."""
    schedule, theta = schedule_of(), torch.rand(4, 18).double()
    kept = schedule.kept_signal(torch.arange(1000), torch.zeros(1)).double()

    def predict(noisy, timestep, condition):
        now = kept[timestep.long()]
        return (noisy.double() - now.sqrt() * theta) / (1 - now).sqrt()

    reverse, sample = schedule.reverse(50, "cpu"), torch.randn(4, 18).double()
    for timestep in reverse.timesteps:
        sample = reverse.step(predict(sample, timestep, None), timestep, sample, None)
    torch.testing.assert_close(sample, theta, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("predict", "eta"), [("x0", 0.0), ("x0", 1.0), ("eps", 0.0)])
def test_the_sampler_of_the_library_runs_the_denoiser(make_pisl, predict, eta):
    model = make_pisl("PISL.DIFF.PREDICT", predict, "PISL.DIFF.ETA", eta).eval()
    diffusion = model.spatial_diffusion
    assert isinstance(diffusion.sampler, Sampler) and diffusion.sampler.noise_steps == (5 if eta else 1)
    features, images = torch.randn(2, model.heads.weight.shape[1]), torch.rand(2, 3, 8, 8) * 255
    theta = diffusion.sample(features, {"images": images})
    assert theta.shape == (2, 3, 2, 3) and theta.isfinite().all()


def test_a_constant_prediction_of_theta_is_sampled(make_pisl):
    diffusion = make_pisl().spatial_diffusion
    torch.nn.init.zeros_(diffusion.denoiser.net[-1].weight)
    theta = diffusion.sample(torch.randn(2, diffusion.denoiser.feature_dim), {"images": torch.rand(2, 3, 8, 8)})
    torch.testing.assert_close(theta, strips(3).expand(2, 3, 2, 3), rtol=0, atol=1e-5)


def test_a_sample_depends_on_the_image_and_not_on_the_batch(make_pisl):
    diffusion = make_pisl().eval().spatial_diffusion
    features = torch.randn(4, diffusion.denoiser.feature_dim)
    images = torch.rand(4, 3, 8, 8).mul(255).round()
    theta, order = diffusion.sample(features, {"images": images}), torch.tensor([2, 0, 3])
    again = diffusion.sample(features[order], {"images": images[order]})
    torch.testing.assert_close(again, theta[order], rtol=0, atol=1e-5)
    assert not torch.allclose(theta[0], diffusion.sample(features[:1], {"images": images[1:2]})[0])  # its own noise


@pytest.mark.parametrize(("takes_theta", "sees"), [(True, True), (False, False)])
def test_the_denoiser_sees_theta_unless_it_is_the_released_one(make_pisl, takes_theta, sees):
    denoiser = make_pisl("PISL.DIFF.USE_THETA_INPUT", takes_theta).spatial_diffusion.denoiser
    condition = Condition(torch.randn(2, 1, denoiser.feature_dim))
    first, second = (denoiser(torch.randn(2, 18), torch.tensor([5, 5]), condition) for _ in range(2))
    assert torch.equal(first, second) is not sees


@pytest.mark.parametrize("takes_theta", [True, False])
def test_only_a_denoiser_that_sees_theta_learns_to_take_noise_away(make_pisl, takes_theta):
    keys = ("PISL.DIFF.USE_THETA_INPUT", takes_theta, "PISL.DIFF.PREDICT", "eps", "PISL.DIFF.HIDDEN", [64, 64])
    diffusion = make_pisl(*keys).spatial_diffusion
    denoiser, schedule = diffusion.denoiser, diffusion.schedule
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    theta, condition = strips(3).flatten().expand(256, 18), Condition(torch.ones(256, 1, denoiser.feature_dim))
    generator, errors = torch.Generator().manual_seed(0), []
    for _ in range(200):
        timesteps = torch.randint(300, 1000, (256,), generator=generator)
        noise = torch.randn(256, 18, generator=generator)
        predicted = denoiser(schedule.add_noise(theta, noise, timesteps), timesteps, condition)
        error = (predicted - noise).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    last = sum(errors[-20:]) / 20
    assert last < 0.5 if takes_theta else last > 0.95


def test_one_step_is_compared_with_the_step_before(make_pisl):
    """With the true theta_0 the step is exact, whatever the time; 20 steps of 50 lie between."""
    diffusion = make_pisl("PISL.DIFF.SAMPLE_STEPS", 20).spatial_diffusion
    maps, features = torch.randn(6, 128, 4, 3), torch.randn(6, diffusion.denoiser.feature_dim)
    layers = torch.nn.Flatten(), torch.nn.Linear(128 * 12, 18), torch.nn.Unflatten(1, (3, 2, 3))
    diffusion.localizer = torch.nn.Sequential(*layers)
    theta = diffusion.localizer(maps)
    diffusion.denoiser.forward = lambda noisy, timesteps, condition: theta.flatten(1)
    patches = diffusion(maps, features, BatchDraws.of({"images": maps}, maps.device))
    torch.testing.assert_close(patches.step, patches.step_target, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(patches.denoised, patches.clean)
    assert not torch.allclose(patches.noisy, patches.clean, atol=0.1)


def test_one_time_for_the_batch_or_one_for_each_image(make_pisl):
    def kept(per_sample):
        diffusion = make_pisl("PISL.DIFF.T_PER_SAMPLE", per_sample).spatial_diffusion
        seen = []
        add_noise = diffusion.schedule.add_noise
        diffusion.schedule.add_noise = lambda clean, noise, t: (seen.append(t), add_noise(clean, noise, t))[1]
        maps = torch.randn(6, diffusion.localizer.features[0].in_channels, 4, 3)
        diffusion(maps, torch.randn(6, diffusion.denoiser.feature_dim), BatchDraws.of({"images": maps}, maps.device))
        return len(seen[0].unique())

    assert kept(False) == 1 and kept(True) > 1


@pytest.mark.parametrize("signal", [Signal(), Signal(2.0), Signal(1.0, is_box=True), Signal(2.0, is_box=True)])
def test_a_signal_is_decoded_again_and_boxes_are_clamped(signal):
    theta = torch.rand(2, 3, 2, 3)
    torch.testing.assert_close(signal.decode(signal.encode(theta)), theta)
    outside = signal.decode(signal.encode(torch.tensor([-0.5, 1.5])))
    assert outside.tolist() == ([0, 1] if signal.is_box else [-0.5, 1.5])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("PISL.DIFF.SAMPLER", "released"), "set PISL.DIFF.PREDICT eps"),
        (("PISL.DIFF.RENEWAL", True), "RENEWAL and ENSEMBLE belong to PISL.DIFF.SAMPLER released"),
        (("PISL.DIFF.ENSEMBLE", True), "RENEWAL and ENSEMBLE belong to PISL.DIFF.SAMPLER released"),
        (("PISL.DIFF.SAMPLE_STEPS", 1001), "PISL.DIFF.SAMPLE_STEPS"),
        (("PISL.DIFF.TIME_DIM", 7), "PISL.DIFF.TIME_DIM must be even"),
        (("MODEL.HEADS.CLS_LAYER", "CosSoftmax"), "set MODEL.HEADS.CLS_LAYER Linear .* got CosSoftmax and 1"),
        (("MODEL.HEADS.SCALE", 30), "MODEL.HEADS.SCALE 1, got Linear and 30"),
        (("MODEL.HEADS.EMBEDDING_DIM", 16), "one width, got 16 and .* numbers: set MODEL.HEADS.EMBEDDING_DIM 0"),
    ],
)
def test_keys_that_do_not_fit(keys, message):
    with pytest.raises(ConfigError, match=message):
        build_model(pisl_cfg(*keys))
