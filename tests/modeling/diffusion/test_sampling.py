"""Sampling over a condition: one batched call per step, and an oracle gets the feature back."""

import pytest
import torch
from diffusers import DDPMScheduler

from fastreid.modeling.diffusion import OptionError
from fastreid.modeling.diffusion.guidance import NullCondition, get_guidance
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
    null = NullCondition(torch.zeros_like(condition.tokens), drops_down=False, drops_up=False)
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


@pytest.mark.parametrize(("mode", "branches"), [("full", 1), ("inverse", 2)])
def test_neither_control_nor_null_condition_is_needed(mode, branches):
    sizes = []

    def predict(noisy, timestep, condition):
        assert condition.control is None and len(condition.tokens) == len(noisy)
        sizes.append(len(noisy))
        return 0.1 * noisy

    sampler = Sampler(make("ddim"), num_steps=5, guidance=get_guidance(mode), control_fades=True, micro_batch=3)
    noise = torch.randn(1, 2, 4, 8, 6)
    assert sampler.sample(predict, Condition(torch.randn(2, 3, 5)), None, noise).shape == (2, 4, 8, 6)
    assert sum(sizes) == 5 * 2 * branches


@pytest.mark.parametrize(("options", "said"), [
    ({"micro_batch": -1}, "micro_batch must be 0 .no limit. or more, got -1"),
    ({"num_steps": 10**6}, "num_steps must be 1 … num_timesteps=1000"),
])  # fmt: skip
def test_impossible_numbers_are_refused(options, said):
    with pytest.raises(OptionError, match=said):
        Sampler(make("ddim"), **{"num_steps": 5, "guidance": get_guidance("full"), **options})


@pytest.mark.parametrize(("solver", "noise_steps"), [("ddpm", 6), ("ddim", 1), ("pndm", 1), ("euler", 1)])
def test_only_stochastic_steps_consume_noise(solver, noise_steps):
    assert Sampler(make(solver), num_steps=5, guidance=get_guidance("full")).noise_steps == noise_steps
