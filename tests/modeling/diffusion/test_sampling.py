"""Sampling over a condition: one batched call per step, and an oracle gets the feature back."""

import pytest
import torch
from diffusers import DDPMScheduler

from fastreid.config import ConfigError, get_cfg
from fastreid.modeling.diffusion.guidance import NullRows, get_guidance
from fastreid.modeling.diffusion.sampling import Sampler
from fastreid.structures import Condition, ControlMaps
from tests.modeling.diffusion.test_schedule import CONFIG, make

ALPHAS = DDPMScheduler.from_config(CONFIG).alphas_cumprod


def condition_for(rows):
    maps = tuple(torch.ones(rows, 2, 2, 2) for _ in range(3))
    return Condition(torch.randn(rows, 2, 3), ControlMaps(maps, maps))


def run(predict, rows=4, solver="ddim", **options):
    sampler = Sampler(make(solver), num_steps=5, guidance=get_guidance("uc_full"), **options)
    condition = condition_for(rows)
    null = NullRows(torch.zeros_like(condition.tokens), drops_down=False, drops_up=False)
    noise = torch.randn(sampler.noise_steps, rows, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    return sampler.sample(predict, condition, null, noise)


@pytest.mark.parametrize("solver", ["ddpm", "ddim"])
def test_an_oracle_denoiser_recovers_the_feature_through_guidance(solver):
    clean = torch.randn(4, 4, 8, 6)

    def oracle(noisy, timestep, condition):
        alpha, known = ALPHAS[timestep], clean.repeat(len(noisy) // 4, 1, 1, 1)
        return (noisy - alpha.sqrt() * known) / (1 - alpha).sqrt()

    assert (run(oracle, solver=solver) - clean).abs().max() < 0.15


def test_all_rows_and_branches_go_in_one_call_per_step_unless_a_micro_batch_is_asked_for():
    sizes = []

    def predict(noisy, timestep, condition):
        assert len(condition.tokens) == len(condition.control.down[0]) == len(noisy)
        sizes.append(len(noisy))
        return 0.1 * noisy

    whole = run(predict)
    assert sizes == [8] * 5
    sizes.clear()
    assert torch.equal(run(predict, micro_batch=3), whole)
    assert sizes == [3, 3, 2] * 5


def strengths(**options):
    """Per step, how many encoder and decoder maps are not zero."""
    seen = []

    def predict(noisy, timestep, condition):
        control = condition.control
        seen.append((sum(bool(m.any()) for m in control.down), sum(bool(m.any()) for m in control.up)))
        return torch.zeros_like(noisy)

    run(predict, **options)
    return seen


def test_control_acts_in_every_step():
    assert strengths() == [(3, 3)] * 5


def test_released_control_fades_in_the_encoder():
    assert strengths(control_fades=True) == [(3, 3), (1, 3), (0, 3), (0, 3), (0, 3)]


def test_the_conditional_rows_are_the_second_half():
    """uc_full with scale 2: u + 2 (c - u)."""

    def predict(noisy, timestep, condition):
        known = condition.tokens.abs().amax(dim=(1, 2)) > 0
        return known.float().view(-1, 1, 1, 1).expand_as(noisy)

    guided = run(predict, full_scale=2.0)
    plain = run(lambda noisy, timestep, condition: torch.full_like(noisy, 2.0))
    torch.testing.assert_close(guided, plain)


def sampler_of(*options):
    cfg = get_cfg()
    cfg.merge_from_list(list(options))
    return Sampler.from_config(cfg, make("ddim"))


def test_every_field_is_read_from_its_key():
    options = ("FULL_GUIDANCE_SCALE", 1.5, "DOWN_BLOCK_GUIDANCE_SCALE", 3.5, "MICRO_BATCH", 7, "NUM_INFERENCE_STEPS", 4)
    keys = [f"TEST.SDMODEL.{word}" if isinstance(word, str) else word for word in options]
    sampler = sampler_of(*keys, "TEST.SDMODEL.CONTROL_STEPS", "fading")
    assert (sampler.full_scale, sampler.down_scale, sampler.micro_batch, sampler.num_steps) == (1.5, 3.5, 7, 4)
    assert sampler.control_fades
    assert not sampler_of("TEST.SDMODEL.CONTROL_STEPS", "every").control_fades
    assert (Sampler.full_scale, Sampler.down_scale, Sampler.micro_batch) == (2.0, 2.0, 0)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("CONTROL_STEPS", "fades", "Legal: every, fading"),
        ("MICRO_BATCH", -1, "MICRO_BATCH"),
        ("NUM_INFERENCE_STEPS", 10**6, "NUM_INFERENCE_STEPS"),
    ],
)
def test_impossible_keys_are_refused(key, value, said):
    with pytest.raises(ConfigError, match=said):
        sampler_of(f"TEST.SDMODEL.{key}", value)
