"""ResNets and ResNeXts on timm's blocks; IBN, squeeze-and-excitation and non-local blocks where fast-reid has them."""

from __future__ import annotations

from dataclasses import dataclass

from timm.models import ResNet as TimmResNet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, require_unread
from fastreid.layers import IBN, NonLocal, SqueezeExcite, get_norm
from fastreid.modeling.backbones.pretrained import READ_BY_ALL, load_pretrained
from fastreid.utils.suggest import explain_choice
from fastreid.utils.weights import WeightsError

# Keys of MODEL.BACKBONE.
_READS = (*READ_BY_ALL, "DEPTH", "LAST_STRIDE", "NORM", "NORM_SPLIT", "WITH_IBN", "WITH_SE", "WITH_NL")
_STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class ResNetSize:
    """Size of a ResNet.

    Args:
        block: class of the blocks.
        blocks: number of blocks of each stage.
        non_local: number of last blocks of each stage that a non-local block follows (AGW, fast-reid).
        groups: groups of the 3x3 convolutions.
        group_width: channels of a group in the first stage.
        ibn_stages: number of first stages that have instance norms, if any.
        pool_padding: border of the first pooling. fast-reid's ResNets have none, unlike those of torchvision, and its
            published weights were trained without it; its ResNeXts have it.
    """

    block: type[nn.Module]
    blocks: tuple[int, int, int, int]
    non_local: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    group_width: int = 64
    ibn_stages: int = 3
    pool_padding: int = 0


RESNETS = {
    "18x": ResNetSize(BasicBlock, (2, 2, 2, 2)),
    "34x": ResNetSize(BasicBlock, (3, 4, 6, 3)),
    "50x": ResNetSize(Bottleneck, (3, 4, 6, 3), (0, 2, 3, 0)),
    "101x": ResNetSize(Bottleneck, (3, 4, 23, 3), (0, 2, 9, 0)),
}
RESNEXTS = {
    depth: ResNetSize(Bottleneck, blocks, (0, 2, 3, 0), groups=32, group_width=4, ibn_stages=4, pool_padding=1)
    for depth, blocks in {"50x": (3, 4, 6, 3), "101x": (3, 4, 23, 3)}.items()
}


class ResNet(TimmResNet):
    """Normalised images [B, 3, H, W] -> maps [B, C, H/16, W/16], or /32 with a last stride of 2.

    Names of parameters are those of torchvision. Those of IBN (`bn1.IN`, `bn1.BN`) are the names of IBN-Net; those of
    squeeze-and-excitation (`se.fc.*`) and non-local blocks (`NL_2.0.*`) are the names of fast-reid.

    Args:
        size: a row of the tables above.
        last_stride: 1 or 2, of the last stage (Luo et al., "Bag of Tricks", section 3.5).
        norm: name of the norms, as of `get_norm`.
        num_splits: parts of a batch, of GhostBN.
        with_ibn: IBN-a: half instance norm after the first convolution of every block of the stages that `size` says.
        with_se: squeeze-and-excitation in every block.
        with_nl: non-local blocks, as `size` says.
    """

    def __init__(
        self,
        size: ResNetSize,
        *,
        last_stride: int = 1,
        norm: str = "BN",
        num_splits: int = 1,
        with_ibn: bool = False,
        with_se: bool = False,
        with_nl: bool = False,
    ) -> None:
        def make_norm(channels: int, **timms: object) -> nn.Module:
            return get_norm(norm, channels, num_splits=num_splits)

        super().__init__(
            size.block,  # type: ignore[arg-type]  # timm asks for an instance, and calls it
            size.blocks,
            num_classes=0,
            global_pool="",
            cardinality=size.groups,
            base_width=size.group_width,
            norm_layer=make_norm,
            zero_init_last=False,
            block_args={"attn_layer": SqueezeExcite} if with_se else None,
        )
        self.maxpool = nn.MaxPool2d(3, 2, padding=size.pool_padding, ceil_mode=not size.pool_padding)  # type: ignore[assignment]
        self.with_ibn = with_ibn
        if with_ibn:
            for stage in _STAGES[: size.ibn_stages]:
                for block in getattr(self, stage):
                    block.bn1 = IBN(block.conv1.out_channels, norm, num_splits=num_splits)
        if last_stride == 1:
            remove_strides(self.get_submodule("layer4"))
        for number, (stage, count) in enumerate(zip(_STAGES, size.non_local if with_nl else (0,) * 4, strict=True), 1):
            width = getattr(self, stage)[-1].conv1.in_channels
            blocks = [NonLocal(width, norm, num_splits=num_splits) for _ in range(count)]
            self.add_module(f"NL_{number}", nn.ModuleList(blocks))

    @property
    def feature_dim(self) -> int:
        """Channels C of the maps."""
        return self.num_features

    @property
    def num_layers(self) -> int:
        """Depth of the last block."""
        return sum(len(getattr(self, stage)) for stage in _STAGES)

    def layer_of(self, name: str) -> int:
        """Return the depth of a parameter: 0 for the stem, 1 … `num_layers` for blocks.

        A non-local block has the depth of the block before it.
        """
        part, _, rest = name.partition(".")
        if part not in (*_STAGES, *(f"NL_{number}" for number in range(1, 5))):
            return 0
        stage, index = int(part[-1]) - 1, int(rest.partition(".")[0])
        lengths = [len(getattr(self, stage)) for stage in _STAGES]
        if part.startswith("NL_"):
            index += lengths[stage] - len(getattr(self, part))
        return sum(lengths[:stage]) + index + 1

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps of normalised images."""
        maps = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        for number, stage in enumerate(_STAGES, 1):
            blocks, non_local = getattr(self, stage), getattr(self, f"NL_{number}")
            first = len(blocks) - len(non_local)
            for index, block in enumerate(blocks):
                maps = block(maps)
                if index >= first:
                    maps = non_local[index - first](maps)
        return maps


def remove_strides(stage: nn.Module) -> None:
    """Set the strides of a stage to 1, so that it keeps height and width; no weight changes its shape."""
    for parent in list(stage.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (1, 1)
            elif isinstance(module, nn.AvgPool2d) and module.stride in (2, (2, 2)):
                # Without padding it would not keep the size.
                setattr(parent, name, nn.AvgPool2d(3, 1, 1) if module.kernel_size in (3, (3, 3)) else nn.Identity())


def build_resnet_backbone(cfg: CfgNode) -> ResNet:
    """Return the ResNet of `MODEL.BACKBONE`, with its pretrained file loaded.

    Raises:
        ConfigError: unknown DEPTH, another LAST_STRIDE, or a key of other backbones was changed.
        WeightsError: `PRETRAIN_PATH` fills too little of it, or only one of file and model has IBN.
    """
    return _build(cfg, RESNETS)


def build_resnext_backbone(cfg: CfgNode) -> ResNet:
    """Return the ResNeXt of `MODEL.BACKBONE`: 32 groups of 4 channels; errors as of `build_resnet_backbone`."""
    return _build(cfg, RESNEXTS)


def _build(cfg: CfgNode, sizes: dict[str, ResNetSize]) -> ResNet:
    keys = cfg.MODEL.BACKBONE
    if keys.DEPTH not in sizes:
        raise ConfigError(explain_choice("MODEL.BACKBONE.DEPTH", keys.DEPTH, sizes))
    check_last_stride(keys)
    require_unread(cfg, "MODEL.BACKBONE", _READS, f"{keys.NAME} builds a ResNet")
    model = ResNet(
        sizes[keys.DEPTH],
        last_stride=keys.LAST_STRIDE,
        norm=keys.NORM,
        num_splits=keys.NORM_SPLIT,
        with_ibn=keys.WITH_IBN,
        with_se=keys.WITH_SE,
        with_nl=keys.WITH_NL,
    )
    if keys.PRETRAIN:
        load_pretrained(model, keys.PRETRAIN_PATH, adapt=fit_resnet_names, min_coverage=keys.PRETRAIN_MIN_COVERAGE)
    return model


def check_last_stride(keys: CfgNode) -> None:
    """Check MODEL.BACKBONE.LAST_STRIDE.

    Raises:
        ConfigError: it is neither 1 nor 2.
    """
    if keys.LAST_STRIDE not in (1, 2):
        raise ConfigError(f"MODEL.BACKBONE.LAST_STRIDE must be 1 or 2, got {keys.LAST_STRIDE}")


def fit_resnet_names(model: ResNet, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt a state of torchvision, IBN-Net or fast-reid: drop `backbone.` and the classifier.

    Args:
        model: the model that it is for.
        state: the state.

    Raises:
        WeightsError: only one of file and model has IBN: most tensors would fit, but not the norms.
    """
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    has_ibn = any(".bn1.IN." in name for name in state)
    if has_ibn != model.with_ibn and "conv1.weight" in state:
        raise WeightsError(
            f"the pretrained file is of a network {'with' if has_ibn else 'without'} instance norms, but "
            f"MODEL.BACKBONE.WITH_IBN is {model.with_ibn}: set it to {has_ibn}, or take another file"
        )
    return {name: tensor for name, tensor in state.items() if not name.startswith(("fc.", "heads.", "classifier."))}
