"""Initial weights of the small Stable Diffusion."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn import functional as F

from fastreid.generation.simple_start import silence_residuals, start_as_mean_colours


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
    ).eval()


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


@torch.no_grad()
def test_latents_and_pictures_are_the_mean_colours_of_squares(vae):
    pictures = F.interpolate(torch.rand(4, 3, 16, 8) * 2 - 1, scale_factor=4)
    before = vae(pictures).sample
    start_as_mean_colours(vae)
    latents = vae.encode(pictures).latent_dist
    for channel in range(3):
        assert correlation(latents.mean[:, channel], F.avg_pool2d(pictures, 4)[:, channel]) > 0.95
        assert correlation(vae(pictures).sample[:, channel], pictures[:, channel]) > 0.9
        assert correlation(before[:, channel], pictures[:, channel]) < 0.5
    assert latents.std.max() < 0.1


def test_residual_blocks_are_silent():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(32,),
        layers_per_block=1,
        cross_attention_dim=8,
    )
    silence_residuals(unet)
    block = unet.down_blocks[0].resnets[0]
    picture = torch.randn(1, 32, 8, 8)
    shift = block.conv2.bias[None, :, None, None]
    assert torch.allclose(block(picture, torch.randn(1, 128)), picture + shift, atol=1e-6)
