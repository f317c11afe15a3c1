"""MGN: a global branch, and two with halves and thirds of a person (Wang et al., ACM MM 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from timm.models import SwinTransformer
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, configurable, require_defaults
from fastreid.modeling.backbones import ResNet, TimmBackbone, build_backbone, with_feature_dim
from fastreid.modeling.backbones.resnet import remove_strides
from fastreid.modeling.heads import EmbeddingHead, build_heads
from fastreid.modeling.image_module import ImageModule
from fastreid.modeling.losses import LossTerms, loss_options, require_losses
from fastreid.modeling.model import ReidModel
from fastreid.utils.compiling import compile_module

# Branch -> its stripes, from top to bottom. The descriptor is the three branches, then the stripes, in this order.
STRIPES = {"b1": (), "b2": ("b21", "b22"), "b3": ("b31", "b32", "b33")}
HEADS = (*STRIPES, *(stripe for stripes in STRIPES.values() for stripe in stripes))


class MGN(ImageModule, ReidModel):
    """Images -> shared stem -> three branches, each with heads on the whole map and on its stripes.

    `forward(batch)` returns the weighted losses in training, and the eight features side by side, [B, 8 D], otherwise.
    Parts have the names of fast-reid: `backbone`, `b1` … `b3`, `b1_head` … `b33_head`.

    Args:
        backbone: normalised images -> maps after the first block of stage 3.
        branches: "b1", "b2", "b3" -> a module from those maps to maps [B, C, h, w].
        heads: a head for each of `HEADS`.
        pixel_mean: mean of each channel of images in 0..255.
        pixel_std: standard deviation of each channel.
        loss_kwargs: as in `Baseline`. Losses of logits are means over eight heads. Losses of features are means over
            five features, those of the branches, the stripes of b2 side by side, and the stripes of b3 side by side.

    Raises:
        ConfigError: no losses, or losses with a state per class.
    """

    # Branches are copies of the backbone's last stages.
    backbone_prefixes = ("backbone.", *(f"{branch}." for branch in STRIPES))

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        branches: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
        pixel_mean: list[float],
        pixel_std: list[float],
        loss_kwargs: dict[str, Any],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        # A subclass may have losses of its own.
        if (type(self).forward, type(self).losses) == (MGN.forward, MGN.losses):
            require_losses(loss_kwargs)
        self.backbone = backbone
        for branch in STRIPES:
            self.add_module(branch, branches[branch])
        for name in HEADS:
            self.add_module(f"{name}_head", heads[name])
        self.loss_kwargs, self.loss_terms = loss_kwargs, LossTerms(loss_kwargs)
        for head in heads.values():
            if isinstance(head, EmbeddingHead):
                head.freeze_unused(self.loss_terms.inputs)
        if len(self.loss_terms):
            raise ConfigError(f"MGN has eight features per image: {', '.join(self.loss_terms)} cannot choose one")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config.

        Raises:
            ConfigError: the backbone is neither a ResNet nor a Swin Transformer, or has non-local blocks.
        """
        require_defaults(cfg, ["MODEL.BACKBONE.WITH_NL"], "MGN cuts its network into branches")
        network = build_backbone(cfg)
        cfg = with_feature_dim(cfg, network)
        if isinstance(network, ResNet):
            shared, branches = _cut_resnet(network)
        elif isinstance(network, TimmBackbone) and isinstance(network.model, SwinTransformer):
            shared, branches = _cut_swin(network.model)
        else:
            raise ConfigError(
                f"MGN cuts a ResNet, or a Swin Transformer of timm, into branches; {cfg.MODEL.BACKBONE.NAME} gives none"
            )
        return {
            "backbone": shared,
            "branches": branches,
            "heads": {name: build_heads(cfg) for name in HEADS},
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "loss_kwargs": loss_options(cfg),
        }

    def forward(self, batched_inputs: Any) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and features otherwise.

        Args:
            batched_inputs: a batch (`images`, in training `targets` [B]) or, in eval mode, images.
        """
        maps = self._maps(self.preprocess_image(batched_inputs))
        if not self.training:
            return torch.cat([self._head(name)(maps[name]) for name in HEADS], dim=1)
        targets = batched_inputs["targets"].to(self.device)
        return self.losses({name: self._head(name)(maps[name], targets) for name in HEADS}, targets)

    def compile_parts(self, batch_size: int) -> None:
        """Compile the stem and the branches."""
        super().compile_parts(batch_size)
        for branch in STRIPES:
            compile_module(self.get_submodule(branch))

    def _maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return the map of each head."""
        shared = self.backbone(images)
        maps = {}
        for branch, stripes in STRIPES.items():
            maps[branch] = self.get_submodule(branch)(shared)
            if stripes:
                maps |= zip(stripes, _cut(maps[branch], len(stripes)), strict=True)
        return maps

    def _head(self, name: str) -> nn.Module:
        return self.get_submodule(f"{name}_head")

    def losses(self, outputs: dict[str, dict[str, Tensor]], gt_labels: Tensor) -> dict[str, Tensor]:
        """Return {name: weighted scalar}, with names as "loss_cls_b21".

        Args:
            outputs: outputs of each head in training.
            gt_labels: classes [B].
        """
        terms = {}
        for name in HEADS:
            for term, loss in self.loss_terms(outputs[name], gt_labels, only="cls_outputs").items():
                terms[f"{term}_{name}"] = loss / len(HEADS)
        features = {name: outputs[name]["features"] for name in STRIPES}
        for stripes in STRIPES.values():
            if stripes:  # named by the last stripe, as in fast-reid
                features[stripes[-1]] = torch.cat([outputs[stripe]["features"] for stripe in stripes], dim=1)
        for name, feature in features.items():
            for term, loss in self.loss_terms({"features": feature}, gt_labels, only="features").items():
                terms[f"{term}_{name}"] = loss / len(features)
        return terms


def _cut_resnet(network: ResNet) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Return the stem up to the first block of stage 3, and a copy of the rest for each branch."""
    parts: Any = network
    stem = (parts.conv1, parts.bn1, parts.act1, parts.maxpool, parts.layer1, parts.layer2)
    shared, *rest = parts.layer3
    fine = deepcopy(parts.layer4)
    remove_strides(fine)  # branches with stripes always have the larger maps
    last = {"b1": parts.layer4, "b2": fine, "b3": fine}
    rest_of_3 = nn.Sequential(*rest)
    branches: dict[str, nn.Module] = {
        name: nn.Sequential(deepcopy(rest_of_3), deepcopy(last[name])) for name in STRIPES
    }
    return nn.Sequential(*stem, shared), branches  # a chain, as its numbers are names in checkpoints


def _cut_swin(model: SwinTransformer) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Return the first two stages, and a copy of the other two for each branch; maps have 1/32 of the image's size."""
    first, second, third, last = model.layers
    rest = nn.Sequential(third, last, model.norm, ChannelsFirst())
    return nn.Sequential(model.patch_embed, first, second), {name: deepcopy(rest) for name in STRIPES}


class ChannelsFirst(nn.Module):
    """Maps [B, h, w, C], as Swin Transformers have them -> [B, C, h, w]."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps of a batch with their channels first."""
        return maps.permute(0, 3, 1, 2)


def _cut(maps: Tensor, count: int) -> tuple[Tensor, ...]:
    """Cut maps [B, C, h, w] from top to bottom into `count` parts; as in fast-reid the last may be lower."""
    parts = maps.chunk(count, dim=2)
    if len(parts) < count:
        raise ConfigError(
            f"a map of height {maps.shape[2]} cannot be cut into {count} stripes: INPUT.SIZE_TRAIN and SIZE_TEST must "
            "be higher (16 pixels are one of its rows, with Swin 32)"
        )
    return parts
