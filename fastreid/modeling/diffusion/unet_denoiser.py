"""The Stable Diffusion UNet behind one call: noisy latents, time and a `Condition` to a prediction."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastreid.modeling.diffusion.assets import AssetError
from fastreid.modeling.diffusion.denoiser import Denoiser
from fastreid.modeling.diffusion.latent import CHANNELS, LatentShape
from fastreid.modeling.diffusion.unet_assets import load_unet
from fastreid.structures import Condition, ControlMaps


class UNetDenoiser(Denoiser):
    """A stock `UNet2DConditionModel`, with view control in its encoder and decoder if a condition has it.

    Encoder maps are added inside the down blocks (`down_intrablock_additional_residuals`). Decoder maps are
    added to the skip connections of their level (`down_block_additional_residuals`), which the decoder reads.
    The caller chooses which of them act, through `ControlMaps`.

    Args:
        unet: a `diffusers.UNet2DConditionModel` on latents of 4 channels, with cross-attention to tokens of
            `context_dim` numbers.

    Raises:
        AssetError: the UNet has another number of channels.
    """

    unet: Any  # mypy sees no members of diffusers' models

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        config = self.unet.config
        if config.in_channels != CHANNELS or config.out_channels != CHANNELS:
            raise AssetError(
                f"the UNet works on {config.in_channels} -> {config.out_channels} channels, "
                f"features are folded into {CHANNELS}"
            )

    @classmethod
    def from_pretrained(cls, folder: str, *, key: str = "") -> UNetDenoiser:
        """Read a folder of diffusers (`config.json` and weights).

        Args:
            folder: folder of a UNet, or of a whole pipeline.
            key: config key that names the folder, for error messages.

        Raises:
            AssetError: no such folder, damaged files, or a UNet that does not fit.
        """
        return cls(load_unet(folder, key=key))

    def latent_of(self, feature_dim: int) -> LatentShape:
        """Return the shape [4, h, w] into which features are folded; errors as of `LatentShape.of`."""
        return LatentShape.of(feature_dim)

    @property
    def context_dim(self) -> int:
        """Width of the tokens."""
        return self.unet.config.cross_attention_dim

    @property
    def controlled_levels(self) -> int:
        """Number of levels with cross-attention, which view control acts on.

        Raises:
            AssetError: they are not the finest levels.
        """
        blocks = self.unet.config.down_block_types
        attention = ["CrossAttn" in name for name in blocks]
        if attention != sorted(attention, reverse=True) or not attention[0]:
            raise AssetError(f"view control needs cross-attention in the finest levels, the UNet has {blocks}")
        return sum(attention)

    @property
    def control_channels(self) -> list[int]:
        """Width of each controlled level, finest first."""
        return list(self.unet.config.block_out_channels[: self.controlled_levels])

    @property
    def mid_channels(self) -> int:
        """Width of the middle block."""
        return self.unet.config.block_out_channels[-1]

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Predict from noisy latents.

        Args:
            noisy: latents [B, 4, h, w].
            timesteps: [B], or a scalar.
            condition: condition of the B samples.

        Returns:
            Prediction [B, 4, h, w].
        """
        residuals = {} if condition.control is None else self._residuals(condition.control, noisy.new_zeros(()))
        return self.unet(noisy, timesteps, encoder_hidden_states=condition.tokens, **residuals).sample

    def _residuals(self, control: ControlMaps, zero: Tensor) -> dict[str, Any]:
        """The arguments by which the UNet takes control maps."""
        return {
            # A copy, because the UNet empties the list it is given.
            "down_intrablock_additional_residuals": list(control.down),
            "down_block_additional_residuals": self._skip_residuals(control.up, zero),
            "mid_block_additional_residual": zero if control.mid is None else control.mid,
        }

    def _skip_residuals(self, maps: tuple[Tensor, ...], zero: Tensor) -> tuple[Tensor, ...]:
        """One residual per skip connection: the map of a level for its layers, zero for the down-samplers between."""
        layers = self.unet.config.layers_per_block
        residuals = [zero]  # the first convolution
        levels = len(self.unet.config.block_out_channels)
        for level in range(levels):
            residuals += [maps[level] if level < len(maps) else zero] * layers
            residuals += [zero] * (level < levels - 1)  # the down-sampler
        return tuple(residuals)
