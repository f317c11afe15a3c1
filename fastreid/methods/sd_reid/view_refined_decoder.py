"""View-Refined Decoder: a view token to control maps for the encoder and the decoder of a UNet."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.modeling.diffusion.latent import LatentShape
from fastreid.structures import ControlMaps


class ViewRefinedDecoder(nn.Module):
    """A pyramid of parallel convolutions on the view token, one map per UNet level and side.

    The token [D] is reshaped to 1 x 2h x 2w; level i (h / 2^i x w / 2^i) takes patches of 2^(i+1). The input is the
    view token of the image (instance level) or the centre of the view (global level); `SDReIDStage2` trains it on both,
    because only centres exist when another view is requested.

    Args:
        latent: shape of the latents the UNet works on.
        channels: width of each controlled level, finest first.
        mid_channels: width of the middle block if its residual is learnt (linear, starts at zero), else None.
    """

    def __init__(self, latent: LatentShape, channels: list[int], mid_channels: int | None = None) -> None:
        super().__init__()
        self.latent = latent
        self.down = _pyramid(channels)
        self.up = _pyramid(channels)
        self.mid: nn.Linear | None = None
        if mid_channels is not None:
            self.mid = nn.Linear(latent.feature_dim, mid_channels)
            nn.init.zeros_(self.mid.weight)
            nn.init.zeros_(self.mid.bias)

    def forward(self, view_tokens: Tensor) -> ControlMaps:
        """Return maps [B, C_i, h_i, w_i] per level and side, of view tokens [B, D]."""
        picture = self.latent.fold_token(view_tokens)
        return ControlMaps(
            down=_maps(self.down, picture),
            up=_maps(self.up, picture),
            mid=None if self.mid is None else self.mid(view_tokens)[:, :, None, None],
        )


class ViewEmbedding(nn.Module):
    """The counterpart of `ViewRefinedDecoder` for denoisers of vectors: a linear embedding of the view token.

    Args:
        dim: D, width of the view token.
        width: width of the embedding.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.up = nn.ModuleList()  # vectors have no decoder

    def forward(self, view_tokens: Tensor) -> ControlMaps:
        """Return one map [B, W], of view tokens [B, D]."""
        return ControlMaps(down=(self.down(view_tokens),), up=())


def _pyramid(channels: list[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(1, width, 2 << level, 2 << level) for level, width in enumerate(channels))


def _maps(pyramid: nn.ModuleList, picture: Tensor) -> tuple[Tensor, ...]:
    return tuple(conv(_pad_to(picture, 2 << level)) for level, conv in enumerate(pyramid))


def _pad_to(picture: Tensor, multiple: int) -> Tensor:
    """Pad with zeros below and right, as a UNet rounds odd sizes up when it halves them."""
    height, width = picture.shape[-2:]
    return F.pad(picture, (0, -width % multiple, 0, -height % multiple))
