"""ShuffleNetV2 (Ma et al., ECCV 2018) with the structure and the parameter names of the authors' program and fast-reid.

timm has no ShuffleNetV2. That of torchvision shuffles channels after each block instead of before it, so that weights
of one are of no use in the other.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, require_unread
from fastreid.layers import get_norm
from fastreid.modeling.backbones.pretrained import READ_BY_ALL, load_pretrained
from fastreid.utils.suggest import explain_choice

# DEPTH -> channels of the three stages, and of the last convolution.
CHANNELS = {
    "0.5x": (48, 96, 192, 1024),
    "1.0x": (116, 232, 464, 1024),
    "1.5x": (176, 352, 704, 1024),
    "2.0x": (244, 488, 976, 2048),
}
_STEM, _BLOCKS = 24, (4, 8, 4)
# fast-reid's builder does not read the last two, which recipes set for every backbone.
_READS = (*READ_BY_ALL, "DEPTH", "NORM", "NORM_SPLIT", "LAST_STRIDE", "WITH_NL")


class ShuffleBlock(nn.Module):
    """Maps [B, in, h, w] -> [B, out, h, w], or half the height and width with stride 2.

    With stride 1 the channels are shuffled into two halves, of which one is left as it is. With stride 2 both branches
    see all channels.

    Args:
        in_channels: channels of the maps; with stride 1 as many as `out_channels`.
        out_channels: channels of the result, a multiple of 4 if its blocks follow.
        stride: 1 or 2.
        norm: name of the norms, as of `get_norm`.
        num_splits: parts of a batch, of GhostBN.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, norm: str, num_splits: int) -> None:
        super().__init__()
        width = out_channels // 2
        inner = in_channels if stride == 2 else in_channels // 2

        def normed(conv: nn.Conv2d) -> list[nn.Module]:
            return [conv, get_norm(norm, conv.out_channels, num_splits=num_splits)]

        def point(before: int, after: int) -> list[nn.Module]:
            return [*normed(nn.Conv2d(before, after, 1, bias=False)), nn.ReLU(inplace=True)]

        def depth(channels: int) -> list[nn.Module]:
            return normed(nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False))

        # Chains, as their numbers are names in checkpoints.
        self.branch_main = nn.Sequential(*point(inner, width), *depth(width), *point(width, out_channels - inner))
        self.branch_proj = nn.Sequential(*depth(inner), *point(inner, inner)) if stride == 2 else None

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps after the block."""
        if self.branch_proj is not None:
            return torch.cat([self.branch_proj(maps), self.branch_main(maps)], dim=1)
        return torch.cat([maps[:, ::2], self.branch_main(maps[:, 1::2])], dim=1)


class ShuffleNetV2(nn.Module):
    """Normalised images [B, 3, H, W] -> maps [B, C, H/32, W/32].

    Args:
        channels: of the three stages, and of the last convolution.
        norm: name of the norms, as of `get_norm`.
        num_splits: parts of a batch, of GhostBN.
    """

    def __init__(self, channels: tuple[int, int, int, int], *, norm: str = "BN", num_splits: int = 1) -> None:
        super().__init__()
        make = functools.partial(ShuffleBlock, norm=norm, num_splits=num_splits)

        def start(conv: nn.Conv2d) -> nn.Sequential:
            return nn.Sequential(conv, get_norm(norm, conv.out_channels, num_splits=num_splits), nn.ReLU(inplace=True))

        self.first_conv = start(nn.Conv2d(3, _STEM, 3, 2, 1, bias=False))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        blocks, before = [], _STEM
        for width, count in zip(channels, _BLOCKS, strict=False):
            blocks += [make(before, width, 2)]
            blocks += [make(width, width, 1) for _ in range(count - 1)]
            before = width
        self.features = nn.Sequential(*blocks)
        self.conv_last = start(nn.Conv2d(before, channels[-1], 1, bias=False))
        self.feature_dim = channels[-1]

    @property
    def num_layers(self) -> int:
        """Depth of the last convolution."""
        return len(self.features) + 1

    def layer_of(self, name: str) -> int:
        """Return the depth of a parameter: 0 for the stem, then the blocks, then the last convolution."""
        part, _, rest = name.partition(".")
        if part == "features":
            return int(rest.partition(".")[0]) + 1
        return self.num_layers if part == "conv_last" else 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps of normalised images."""
        return self.conv_last(self.features(self.maxpool(self.first_conv(images))))


def build_shufflenetv2_backbone(cfg: CfgNode) -> ShuffleNetV2:
    """Return the ShuffleNetV2 of `MODEL.BACKBONE`, with its pretrained file loaded.

    Raises:
        ConfigError: unknown DEPTH, or a key of other backbones was changed.
        WeightsError: `PRETRAIN_PATH` fills too little of it.
    """
    keys = cfg.MODEL.BACKBONE
    if keys.DEPTH not in CHANNELS:
        raise ConfigError(explain_choice("MODEL.BACKBONE.DEPTH", keys.DEPTH, CHANNELS))
    require_unread(cfg, "MODEL.BACKBONE", _READS, f"{keys.NAME} builds a ShuffleNetV2")
    model = ShuffleNetV2(CHANNELS[keys.DEPTH], norm=keys.NORM, num_splits=keys.NORM_SPLIT)
    if keys.PRETRAIN:
        load_pretrained(model, keys.PRETRAIN_PATH, adapt=_fit_names, min_coverage=keys.PRETRAIN_MIN_COVERAGE)
    return model


def _fit_names(model: ShuffleNetV2, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt a state of fast-reid or of the authors: drop `module.` and `backbone.`, and the classifier."""
    state = {name.removeprefix("module.").removeprefix("backbone."): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if not name.startswith(("heads.", "classifier."))}
