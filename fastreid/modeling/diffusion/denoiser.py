"""The Stable Diffusion UNet behind one call: noisy latents, time and a `Condition` to a prediction."""

from __future__ import annotations

import diffusers
from torch import Tensor, nn

from fastreid.modeling.diffusion.assets import AssetError
from fastreid.modeling.diffusion.latent import CHANNELS
from fastreid.modeling.diffusion.unet_assets import load_unet
from fastreid.structures import Condition


class Denoiser(nn.Module):
    """A stock `UNet2DConditionModel` with view control in its encoder and decoder.

    Encoder maps are added inside the down blocks (`down_intrablock_additional_residuals`). Decoder maps are
    added to the skip connections of their level (`down_block_additional_residuals`), which the decoder reads.
    Which of the two act is the caller's choice through `ControlMaps`.

    Args:
        unet: takes 4-channel latents and cross-attention tokens of `context_dim` numbers.
    """

    def __init__(self, unet: diffusers.UNet2DConditionModel) -> None:
        super().__init__()
        if unet.config.in_channels != CHANNELS or unet.config.out_channels != CHANNELS:
            raise AssetError(
                f"the UNet works on {unet.config.in_channels} -> {unet.config.out_channels} channels, "
                f"features are folded into {CHANNELS}"
            )
        attention = ["CrossAttn" in name for name in unet.config.down_block_types]
        if attention != sorted(attention, reverse=True) or not attention[0]:
            raise AssetError(
                f"view control needs cross-attention in the finest levels, the UNet has {unet.config.down_block_types}"
            )
        self.unet = unet
        self.controlled_levels = sum(attention)

    @classmethod
    def from_pretrained(cls, folder: str) -> Denoiser:
        """Read a Diffusers folder (`config.json` and weights).

        Raises:
            AssetError: no such folder, damaged files, or a UNet that features or control do not fit.
        """
        return cls(load_unet(folder))

    @property
    def context_dim(self) -> int:
        return self.unet.config.cross_attention_dim

    @property
    def control_channels(self) -> list[int]:
        """Width of each controlled level, finest first."""
        return list(self.unet.config.block_out_channels[: self.controlled_levels])

    @property
    def mid_channels(self) -> int:
        return self.unet.config.block_out_channels[-1]

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Latents [B, 4, h, w] at timesteps [B] (or a scalar) -> prediction [B, 4, h, w]."""
        nothing = noisy.new_zeros(())
        mid = condition.control.mid
        return self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=condition.tokens,
            # A copy, because the UNet empties the list it is given.
            down_intrablock_additional_residuals=list(condition.control.down),
            down_block_additional_residuals=self._skip_residuals(condition.control.up, nothing),
            mid_block_additional_residual=nothing if mid is None else mid,
        ).sample

    def _skip_residuals(self, maps: tuple[Tensor, ...], nothing: Tensor) -> tuple[Tensor, ...]:
        """One residual per skip connection: a level's map for its layers, nothing for the samplers between."""
        layers = self.unet.config.layers_per_block
        residuals = [nothing]  # the first convolution
        levels = len(self.unet.config.block_out_channels)
        for level in range(levels):
            residuals += [maps[level] if level < len(maps) else nothing] * layers
            residuals += [nothing] * (level < levels - 1)  # the down-sampler
        return tuple(residuals)
