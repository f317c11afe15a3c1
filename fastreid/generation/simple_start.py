"""Initial weights with which a short training is enough: networks that begin as simple functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Channels of the autoencoder that carry colours through it: red, green, blue, the same with the other sign, and two
# constants, which keep the scale of group normalisation nearly the same for all pictures.
_COLOURS, _OPPOSITE, _CONSTANTS = slice(0, 3), slice(3, 6), slice(6, 8)
_CARRIED = 8
_SCALE = 0.6
_LOG_VARIANCE = -6.0


def silence_residuals(model: nn.Module) -> None:
    """Set the last convolution of every residual block to zero.

    Args:
        model: a UNet or an autoencoder of diffusers.
    """
    for name, part in model.named_modules():
        if name.endswith(".conv2") and isinstance(part, nn.Conv2d):
            nn.init.zeros_(part.weight)


def start_as_mean_colours(vae: Any) -> None:
    """Let an autoencoder begin as the mean colours of squares: latents are these colours, pictures are the squares.

    The other channels keep their random weights. SiLU does not change the colours, as silu(x) - silu(-x) = x.

    Args:
        vae: a `diffusers.AutoencoderKL` with at least eight channels everywhere, and at least three latent channels.
    """
    silence_residuals(vae)
    encoder, decoder = vae.encoder, vae.decoder
    with torch.no_grad():
        for part in (encoder, decoder):
            _spread(part.conv_in)
            for name, layer in part.named_modules():
                if name.endswith("conv_shortcut"):
                    _keep(layer, 1)
                elif name.endswith("downsamplers.0.conv"):
                    _keep(layer, 2)
                elif name.endswith("upsamplers.0.conv"):
                    _keep(layer, 1)
                elif name.endswith("to_out.0"):
                    layer.weight.zero_()
        _gather(encoder.conv_out)
        _gather(decoder.conv_out)
        half = vae.config.latent_channels
        encoder.conv_out.weight[half:] = 0
        encoder.conv_out.bias[half:] = _LOG_VARIANCE
        for layer in (vae.quant_conv, vae.post_quant_conv):
            layer.weight.copy_(torch.eye(layer.in_channels)[:, :, None, None])
            layer.bias.zero_()


def _spread(layer: Any) -> None:
    """Three channels -> these, the same with the other sign, 1 and -1."""
    layer.weight[:_CARRIED] = 0
    layer.weight[_COLOURS, :3, 1, 1] = torch.eye(3)
    layer.weight[_OPPOSITE, :3, 1, 1] = -torch.eye(3)
    layer.bias[:_CARRIED] = 0
    layer.bias[_CONSTANTS] = torch.tensor([1.0, -1.0])


def _keep(layer: Any, size: int) -> None:
    """The mean of size x size pixels of each of the carried channels."""
    layer.weight[:_CARRIED] = 0
    layer.bias[:_CARRIED] = 0
    first = 0 if size == 2 else layer.kernel_size[0] // 2
    for channel in range(_CARRIED):
        layer.weight[channel, channel, first : first + size, first : first + size] = 1 / size**2


def _gather(layer: Any) -> None:
    """The carried channels, after SiLU -> three channels."""
    layer.weight[_COLOURS] = 0
    layer.bias[_COLOURS] = 0
    layer.weight[_COLOURS, _COLOURS, 1, 1] = _SCALE * torch.eye(3)
    layer.weight[_COLOURS, _OPPOSITE, 1, 1] = -_SCALE * torch.eye(3)
