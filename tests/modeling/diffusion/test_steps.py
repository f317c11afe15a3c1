"""Single steps against the forward process."""

import pytest
import torch

from fastreid.modeling.diffusion.schedule import PREDICTION_TYPES
from fastreid.modeling.diffusion.steps import clean_of, noise_of, step_to
from tests.modeling.diffusion.test_schedule import make


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_clean_sample_and_noise_follow_from_each_kind_of_prediction(prediction):
    schedule = make(prediction=prediction)
    clean, noise, timesteps = torch.randn(5, 6), torch.randn(5, 6), torch.tensor([0, 1, 300, 700, 999])
    noisy = schedule.add_noise(clean, noise, timesteps)
    target = schedule.target(clean, noise, timesteps)
    assert torch.allclose(clean_of(schedule, target, noisy, timesteps), clean, atol=1e-4)
    assert torch.allclose(noise_of(schedule, target, noisy, timesteps), noise, atol=1e-4)


def test_a_step_adds_noise_and_ends_at_the_clean_sample():
    schedule = make()
    clean, noise = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    timesteps = torch.tensor([-1, 0, 999])
    found = step_to(schedule, clean, noise, timesteps)
    assert torch.equal(found[0], clean[0])
    assert torch.allclose(found[1:], schedule.add_noise(clean[1:], noise[1:], timesteps[1:]))
