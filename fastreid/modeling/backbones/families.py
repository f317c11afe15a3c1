"""Backbones of fast-reid that are models of timm, under the parameter names of fast-reid."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, image_size, require_unread
from fastreid.modeling.backbones.pretrained import READ_BY_ALL, load_pretrained
from fastreid.modeling.backbones.resnet import check_last_stride
from fastreid.modeling.backbones.timm_models import TimmBackbone, named_by_order, with_weights
from fastreid.utils.suggest import explain_choice

Rename = Callable[[str, TimmBackbone], str]
"""(path of a layer in timm's model, the model) -> its path in fast-reid's."""


@dataclass(frozen=True)
class Family:
    """One of the backbones of fast-reid.

    Args:
        models: DEPTH of fast-reid -> name of timm.
        last_stages: the stage of timm's model that LAST_STRIDE changes; several where it depends on the size. None
            where fast-reid's builder does not read it.
        absent: values of DEPTH that timm has no model for.
        rename: gives the names of fast-reid; None where they are not known, and the names are timm's below `model`.
        finish: makes the model as fast-reid's is, if LAST_STRIDE is 1.
        changes: what differs from earlier versions of this library, if LAST_STRIDE is 1.
    """

    models: Mapping[str, str]
    last_stages: tuple[str, ...] = ()
    absent: str = "none"
    rename: Rename | None = None
    finish: Callable[[TimmBackbone], None] | None = None
    changes: str = ""


class RenamedBackbone(nn.Module):
    """A model of timm whose layers are registered under the names of fast-reid.

    Args:
        source: the model.
        rename: gives the names.
        changes: what differs from earlier versions of this library, in which names were timm's; "" if nothing does.
    """

    def __init__(self, source: TimmBackbone, rename: Rename, changes: str = "") -> None:
        super().__init__()
        self.changes = changes
        # In a tuple, so that it is not a child: its layers are registered one by one.
        self._source = (source,)
        self._names: dict[str, str] = {}
        for path, layer in source.model.named_modules():
            if len([*layer.parameters(recurse=False), *layer.buffers(recurse=False)]):
                self._names[path] = rename(path, source)
                self._register(self._names[path], layer)

    def _register(self, path: str, layer: nn.Module) -> None:
        holder: nn.Module = self
        *parents, name = path.split(".")
        for parent in parents:
            if parent not in holder._modules:
                holder.add_module(parent, nn.Module())
            holder = holder.get_submodule(parent)
        holder.add_module(name, layer)

    @property
    def feature_dim(self) -> int:
        """Channels C of the maps."""
        return self._source[0].feature_dim

    @property
    def num_layers(self) -> int:
        """The greatest `layer_of`."""
        return self._source[0].num_layers

    def layer_of(self, name: str) -> int:
        """Return the depth of a parameter by the groups of timm: 0 for the stem."""
        path, _, last = name.rpartition(".")
        theirs = next(timms for timms, own in self._names.items() if own == path)
        return self._source[0].layer_of(f"{theirs}.{last}")

    def current_name(self, name: str) -> str:
        """Return the name of a tensor that has timm's name, as earlier versions of this library had it."""
        path, _, last = name.removeprefix("model.").rpartition(".")
        return f"{self._names[path]}.{last}" if path in self._names else name

    def train(self, mode: bool = True) -> RenamedBackbone:
        """Set training or eval mode, also of the parts without parameters."""
        super().train(mode)
        self._source[0].train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps of normalised images."""
        return self._source[0](images)


def _timms(path: str, source: TimmBackbone) -> str:
    return path


def _by_patterns(*patterns: tuple[str, str]) -> Rename:
    """Return a function that replaces the patterns one after the other, each in the whole path."""

    def rename(path: str, source: TimmBackbone) -> str:
        for pattern, new in patterns:
            path = re.sub(pattern, new, path)
        return path

    return rename


def _mobilenet_v2(path: str, source: TimmBackbone) -> str:
    """`blocks.S.B.LAYER` -> `features.N.conv.K`, where N counts blocks from 1 and K layers and activations from 0."""
    ends = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "conv.0", "bn2": "conv.1"}
    if path in ends:
        return ends[path]
    _, stage, block, layer = path.split(".")
    stages = source.model.blocks
    number = 1 + sum(len(stages[before]) for before in range(int(stage))) + int(block)
    layers = {"conv_pw": 0, "bn1": 1, "conv_dw": 3, "bn2": 4, "conv_pwl": 6, "bn3": 7}
    if not hasattr(stages[int(stage)][int(block)], "conv_pwl"):  # the first one does not expand its input
        layers = {"conv_dw": 0, "bn1": 1, "conv_pw": 3, "bn2": 4}
    return f"features.{number}.conv.{layers[layer]}"


def _next(prefix: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"{prefix}{int(found[1]) + 1}."


def _efficientnet(path: str, source: TimmBackbone) -> str:
    """`blocks.S.B.LAYER` -> `sS.bB.LAYER`, where stages and blocks count from 1."""
    ends = {"conv_stem": "stem.conv", "bn1": "stem.bn", "conv_head": "head.conv", "bn2": "head.conv_bn"}
    if path in ends:
        return ends[path]
    _, stage, block, layer = path.split(".", 3)
    layers = {
        "conv_pw": "exp", "bn1": "exp_bn", "conv_dw": "dwise", "bn2": "dwise_bn", "conv_pwl": "lin_proj",
        "bn3": "lin_proj_bn", "se.conv_reduce": "se.f_ex.0", "se.conv_expand": "se.f_ex.2",
    }  # fmt: skip
    if stage == "0":  # its blocks do not expand their input
        layers |= {"bn1": "dwise_bn", "conv_pw": "lin_proj", "bn2": "lin_proj_bn"}
    return f"s{int(stage) + 1}.b{int(block) + 1}.{layers[layer]}"


def _repvgg(path: str, source: TimmBackbone) -> str:
    """`stages.S.B.LAYER` -> `stageS.B.rbr_LAYER`, where stages count from 1 and the stem is stage 0."""
    path = re.sub(r"^stages\.(\d+)\.", lambda found: f"stage{int(found[1]) + 1}.", path)
    path = re.sub(r"^stem\.", "stage0.", path)
    for timms, own in (("conv_kxk", "rbr_dense"), ("conv_1x1", "rbr_1x1"), ("identity", "rbr_identity")):
        path = path.replace(timms, own)
    return path


_REGNET = _by_patterns(
    (r"\.conv1\.conv$", ".f.a"), (r"\.conv1\.bn$", ".f.a_bn"),
    (r"\.conv2\.conv$", ".f.b"), (r"\.conv2\.bn$", ".f.b_bn"),
    (r"\.conv3\.conv$", ".f.c"), (r"\.conv3\.bn$", ".f.c_bn"),
    (r"\.se\.fc1$", ".f.se.f_ex.0"), (r"\.se\.fc2$", ".f.se.f_ex.2"),
    (r"\.downsample\.conv$", ".proj"), (r"\.downsample\.bn$", ".bn"),
)  # fmt: skip


def _dilate_last_stage(source: TimmBackbone) -> None:
    """Dilate the 3x3 convolutions of the last stage by 2, except in its first block, as fast-reid's ResNeSt does."""
    for block in list(source.model.layer4)[1:]:
        block.conv2.conv.dilation = block.conv2.conv.padding = (2, 2)


FAMILIES = {
    "build_resnest_backbone": Family(
        {"50x": "resnest50d", "101x": "resnest101e", "200x": "resnest200e", "269x": "resnest269e"},
        ("layer4",),
        rename=_timms,
        finish=_dilate_last_stage,
        changes="the last stage is dilated now, as in fast-reid, so figures differ; train it again",
    ),
    "build_mobilenetv2_backbone": Family(
        {f"{n}x": f"mobilenetv2_{t}" for n, t in {"1.0": "100", "0.75": "075", "0.5": "050", "0.35": "035"}.items()},
        absent="0.25x, 0.1x",
        rename=_mobilenet_v2,
        changes="its maps have half the height and width now, as in fast-reid, so figures differ; train it again",
    ),
    "build_mobilenetv3_backbone": Family(
        {size: f"mobilenetv3_{size.lower()}_100" for size in ("large", "small", "Large", "Small")},
        ("blocks.4", "blocks.5"),
    ),
    "build_repvgg_backbone": Family(
        {n: f"repvgg_{n.lower()}" for n in ("A0", "A1", "A2", "B0", "B1", "B1g4", "B2", "B2g4", "B3", "B3g4")},
        ("stages.3",),
        "those with g2",
        rename=_repvgg,
    ),
    "build_regnet_backbone": Family(
        {
            f"{size}{kind}": f"regnet{kind}_{size // 100:03}"
            for kind in "xy"
            for size in (200, 400, 600, 800, 1600, 3200, 4000, 6400)
        },
        ("s4",),
        rename=_REGNET,
    ),
    "build_effnet_backbone": Family(
        {f"b{n}": f"efficientnet_b{n}" for n in range(6)}, ("blocks.5",), rename=_efficientnet
    ),
}
# Keys that recipes of fast-reid set for every backbone, and that its builders of these do not read.
_SAID = ("WITH_NL",)


def family_builder(name: str, family: Family) -> Callable[[CfgNode], nn.Module]:
    """Return the builder of fast-reid of this name.

    Args:
        name: the name.
        family: its row.
    """

    def build(cfg: CfgNode) -> nn.Module:
        keys = cfg.MODEL.BACKBONE
        if keys.DEPTH not in family.models:
            choice = explain_choice("MODEL.BACKBONE.DEPTH", keys.DEPTH, family.models)
            raise ConfigError(f"{name}: {choice} (of fast-reid's own, timm lacks: {family.absent})")
        check_last_stride(keys)
        reads = (*READ_BY_ALL, *_SAID, "DEPTH", "LAST_STRIDE")
        require_unread(cfg, "MODEL.BACKBONE", reads, f"{name} takes timm's model as it is, but for the last stride")
        is_fine = keys.LAST_STRIDE == 1
        source = TimmBackbone(family.models[keys.DEPTH], image_size(cfg), family.last_stages if is_fine else ())
        if is_fine and family.finish is not None:
            family.finish(source)
        if family.rename is None:
            return with_weights(source, cfg)
        model = RenamedBackbone(source, family.rename, family.changes if is_fine else "")
        if keys.PRETRAIN:
            load_pretrained(model, keys.PRETRAIN_PATH, adapt=_fit_names, min_coverage=keys.PRETRAIN_MIN_COVERAGE)
        return model

    build.__name__, build.__doc__ = name, f"timm's {', '.join(dict.fromkeys(family.models.values()))}."
    return build


def _fit_names(model: RenamedBackbone, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt a state of fast-reid or of timm: drop `backbone.`, and replace timm's names."""
    state = {model.current_name(name.removeprefix("backbone.")): value for name, value in state.items()}
    return named_by_order(model, state) if state.keys().isdisjoint(model.state_dict()) else state
