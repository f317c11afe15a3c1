"""OSNet: omni-scale features (Zhou et al., ICCV 2019), and its variants with instance norms (OSNet-IBN, OSNet-AIN)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, require_unread
from fastreid.layers import get_norm
from fastreid.modeling.backbones.pretrained import READ_BY_ALL, load_pretrained
from fastreid.utils.suggest import explain_choice
from fastreid.utils.weights import WeightsError

_STREAMS = ("conv2a", "conv2b", "conv2c", "conv2d")
_STAGES = ("conv2", "conv3", "conv4")
Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class OSNetSize:
    """Size of an OSNet.

    Args:
        channels: of the stem and of the three stages, of two blocks each.
        instance_normed: whether the residuals of each block are instance-normed, of stages 2 to 4.
        is_ain: whether the instance norm is before the addition of the input and replaces the batch norm there
            (OSNet-AIN, Zhou et al., TPAMI 2021, the architecture that was found), not after it (OSNet-IBN).
    """

    channels: tuple[int, int, int, int]
    instance_normed: tuple[tuple[bool, bool], ...] = ((False, False),) * 3
    is_ain: bool = False

    @property
    def has_instance_norms(self) -> bool:
        """Whether there are instance norms, which the stem has then, too."""
        return any(map(any, self.instance_normed))


_PLAIN = {
    "x1_0": OSNetSize((64, 256, 384, 512)),
    "x0_75": OSNetSize((48, 192, 288, 384)),
    "x0_5": OSNetSize((32, 128, 192, 256)),
    "x0_25": OSNetSize((16, 64, 96, 128)),
}
_AIN = ((True, True), (False, True), (True, False))
_IBN = ((True, True), (False, False), (False, False))
OSNETS = _PLAIN | {f"ain_{depth}": replace(size, instance_normed=_AIN, is_ain=True) for depth, size in _PLAIN.items()}


class ConvNorm(nn.Module):
    """Convolution without bias, norm and, unless it is linear, ReLU."""

    def __init__(
        self, channels: int, out_channels: int, norm: nn.Module | None, kernel: int = 1, stride: int = 1,
        *, is_linear: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.bn = norm
        self.is_linear = is_linear

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps."""
        maps = self.conv(maps)
        if self.bn is not None:
            maps = self.bn(maps)
        return maps if self.is_linear else maps.relu()


class LightConv(nn.Module):
    """A 3x3 convolution in two: a 1x1 convolution, then a 3x3 one of each channel (section 3.1)."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = norm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        return self.bn(self.conv2(self.conv1(maps))).relu()


class ChannelGate(nn.Module):
    """The unified aggregation gate: weights of channels, the same layers for all scales (section 3.2, equation 2)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the weighted maps."""
        return maps * self.fc2(self.fc1(maps.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()


class OmniScaleBlock(nn.Module):
    """Residual block of four streams, with receptive fields of 3, 5, 7 and 9 pixels (section 3.2).

    Args:
        channels: of the input.
        out_channels: of the output; streams have a quarter of them.
        norm: makes a norm for a number of channels.
        instance_norm: "none", "after" the addition of the input, or "before" it.
    """

    def __init__(self, channels: int, out_channels: int, norm: Norm, instance_norm: str) -> None:
        super().__init__()
        middle = out_channels // 4
        self.conv1 = ConvNorm(channels, middle, norm(middle))
        self.conv2a: nn.Module = LightConv(middle, norm)
        for length, stream in enumerate(_STREAMS[1:], 2):
            self.add_module(stream, nn.Sequential(*(LightConv(middle, norm) for _ in range(length))))
        self.gate = ChannelGate(middle)
        is_before = instance_norm == "before"
        self.conv3 = ConvNorm(middle, out_channels, None if is_before else norm(out_channels), is_linear=True)
        self.downsample = (
            ConvNorm(channels, out_channels, norm(out_channels), is_linear=True) if channels != out_channels else None
        )
        self.IN = None if instance_norm == "none" else nn.InstanceNorm2d(out_channels, affine=True)
        self.is_before = is_before

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps."""
        narrow = self.conv1(maps)
        residual = self.conv3(sum(self.gate(self.get_submodule(stream)(narrow)) for stream in _STREAMS))
        if self.IN is not None and self.is_before:
            residual = self.IN(residual)
        out = residual + (maps if self.downsample is None else self.downsample(maps))
        if self.IN is not None and not self.is_before:
            out = self.IN(out)
        return torch.relu(out)


class OSNet(nn.Module):
    """Normalised images [B, 3, H, W] -> maps [B, C, H/16, W/16].

    Names of parameters are those of fast-reid and of torchreid's OSNet and OSNet-IBN.

    Args:
        size: a row of `OSNETS`.
        norm: name of the norms, as of `get_norm`.
        num_splits: parts of a batch, of GhostBN.
    """

    def __init__(self, size: OSNetSize, *, norm: str = "BN", num_splits: int = 1) -> None:
        super().__init__()

        def make_norm(channels: int) -> nn.Module:
            return get_norm(norm, channels, num_splits=num_splits)

        stem, *widths = size.channels
        self.size = size
        first = nn.InstanceNorm2d(stem, affine=True) if size.has_instance_norms else make_norm(stem)
        self.conv1 = ConvNorm(3, stem, first, kernel=7, stride=2)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        where = "before" if size.is_ain else "after"
        before = stem
        for stage, width, flags in zip(_STAGES, widths, size.instance_normed, strict=True):
            parts: list[nn.Module] = []
            for is_instance_normed in flags:
                parts.append(OmniScaleBlock(before, width, make_norm, where if is_instance_normed else "none"))
                before = width
            if stage != _STAGES[-1]:
                parts.append(nn.Sequential(ConvNorm(width, width, make_norm(width)), nn.AvgPool2d(2, stride=2)))
            self.add_module(stage, nn.Sequential(*parts))
        self.conv5 = ConvNorm(before, before, make_norm(before))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def feature_dim(self) -> int:
        """Channels C of the maps."""
        return self.size.channels[-1]

    @property
    def num_layers(self) -> int:
        """Depth of the last block."""
        return 2 * len(_STAGES)

    def layer_of(self, name: str) -> int:
        """Return the depth of a parameter: 0 for the stem, 1 … `num_layers` for blocks.

        What follows a block, such as the layer between two stages, has its depth.
        """
        stage, index, *_ = name.split(".")
        if stage == "conv1":
            return 0
        return 2 * _STAGES.index(stage) + min(int(index), 1) + 1 if stage in _STAGES else self.num_layers

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps of normalised images."""
        maps = self.maxpool(self.conv1(images))
        for stage in _STAGES:
            maps = self.get_submodule(stage)(maps)
        return self.conv5(maps)


def build_osnet_backbone(cfg: CfgNode) -> OSNet:
    """Return the OSNet of `MODEL.BACKBONE`, with its pretrained file loaded.

    DEPTH is the width, with "ain_" before it for OSNet-AIN; WITH_IBN makes OSNet-IBN.

    Raises:
        ConfigError: unknown DEPTH, WITH_IBN for an OSNet-AIN, or a key of other backbones was changed.
        WeightsError: `PRETRAIN_PATH` fills too little of it, or is of another variant.
    """
    keys = cfg.MODEL.BACKBONE
    if keys.DEPTH not in OSNETS:
        raise ConfigError(explain_choice("MODEL.BACKBONE.DEPTH", keys.DEPTH, OSNETS))
    # fast-reid's recipes set the last two for every backbone, and its builder of OSNet does not read them.
    reads = (*READ_BY_ALL, "DEPTH", "NORM", "NORM_SPLIT", "WITH_IBN", "LAST_STRIDE", "WITH_NL")
    require_unread(cfg, "MODEL.BACKBONE", reads, f"{keys.NAME} builds an OSNet")
    size = OSNETS[keys.DEPTH]
    if keys.WITH_IBN:
        if size.is_ain:
            raise ConfigError(f"MODEL.BACKBONE.DEPTH {keys.DEPTH} has instance norms of its own: set WITH_IBN to False")
        size = replace(size, instance_normed=_IBN)
    model = OSNet(size, norm=keys.NORM, num_splits=keys.NORM_SPLIT)
    if keys.PRETRAIN:
        load_pretrained(model, keys.PRETRAIN_PATH, adapt=fit_osnet_names, min_coverage=keys.PRETRAIN_MIN_COVERAGE)
    return model


# Names of torchreid's OSNet-AIN -> names here, where all variants have the same.
_OF_AIN = (
    (r"^pool([23])\.0\.", r"conv\1.2.0."),
    (r"\.conv2\.0\.layers\.0\.", ".conv2a."),
    (r"\.conv2\.1\.layers\.", ".conv2b."),
    (r"\.conv2\.2\.layers\.", ".conv2c."),
    (r"\.conv2\.3\.layers\.", ".conv2d."),
)


def fit_osnet_names(model: OSNet, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt a state of torchreid or fast-reid: drop `backbone.`, the last layer and the classifier.

    Args:
        model: the model that it is for.
        state: the state.

    Raises:
        WeightsError: it is of another variant of OSNet: most tensors would fit, but not the norms.
    """
    fitted = {}
    for name, value in state.items():
        name = name.removeprefix("backbone.")
        for pattern, new in _OF_AIN:
            name = re.sub(pattern, new, name)
        if not name.startswith(("fc.", "classifier.", "heads.")):
            fitted[name] = value
    own = {name for name in model.state_dict() if ".IN." in name}
    given = {name for name in fitted if ".IN." in name}
    # `load_pretrained` also tries names without beginnings that are no wrapper's.
    is_whole = all(f"{stage}.{index}.conv3.conv.weight" in fitted for stage in _STAGES for index in range(2))
    if own != given and is_whole:
        raise WeightsError(
            f"the pretrained file is of {_variant(given)}, but this is {_variant(own)}: change MODEL.BACKBONE.WITH_IBN "
            "or DEPTH (OSNet-AIN is DEPTH ain_x1_0 and the like), or take another file"
        )
    return fitted


def _variant(instance_norms: set[str]) -> str:
    if not instance_norms:
        return "an OSNet without instance norms"
    blocks = sorted({name.partition(".IN.")[0] for name in instance_norms})
    return f"an OSNet with instance norms in {', '.join(blocks)}"
