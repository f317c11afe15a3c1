"""MGN: a global branch and two that also see halves and thirds of a person (Wang et al., ACM MM 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, configurable, require_defaults
from fastreid.modeling.backbones import ResNet, build_backbone, with_feature_dim
from fastreid.modeling.backbones.resnet import remove_strides
from fastreid.modeling.heads import EmbeddingHead, build_heads
from fastreid.modeling.image_module import ImageModule
from fastreid.modeling.losses import LossTerms, loss_options, require_losses
from fastreid.modeling.model import ReidModel

# Branch -> its stripes, from top to bottom. The descriptor is the three branches, then the stripes, in this order.
STRIPES = {"b1": (), "b2": ("b21", "b22"), "b3": ("b31", "b32", "b33")}
HEADS = (*STRIPES, *(stripe for stripes in STRIPES.values() for stripe in stripes))


class MGN(ImageModule, ReidModel):
    """Images -> shared stem -> three branches, each with heads of its own on the whole map and on its stripes.

    `forward(batch)` returns the weighted losses in training, and the eight features side by side, [B, 8 D], otherwise.
    Parts are called as in fast-reid: `backbone`, `b1` … `b3`, `b1_head` … `b33_head`.

    Args:
        backbone: normalised images -> maps after the first block of stage 3.
        branches: "b1", "b2", "b3": those maps -> maps [B, C, h, w].
        heads: of each of `HEADS`.
        pixel_mean, pixel_std: of images in 0..255.
        loss_kwargs: as for `Baseline`. Losses of logits are the mean over eight heads; losses of features the mean over
            five: the branches, the stripes of b2 side by side, and those of b3.
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
        if (type(self).forward, type(self).losses) == (
            MGN.forward,
            MGN.losses,
        ):  # a subclass may have losses of its own
            require_losses(loss_kwargs)
        self.backbone = backbone
        for branch in STRIPES:
            self.add_module(branch, branches[branch])
        for name in HEADS:
            self.add_module(f"{name}_head", heads[name])
        self.loss_kwargs, self.loss_terms = loss_kwargs, LossTerms(loss_kwargs)
        for head in heads.values():
            if isinstance(head, EmbeddingHead):
                head.learn_for(self.loss_terms.seen)
        if len(self.loss_terms):
            raise ConfigError(f"MGN has eight features per image: {', '.join(self.loss_terms)} cannot choose one")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        require_defaults(cfg, ["MODEL.BACKBONE.WITH_NL"], "MGN cuts its ResNet into branches")
        network = build_backbone(cfg)
        if not isinstance(network, ResNet):
            raise ConfigError(f"MGN cuts a ResNet into branches; {cfg.MODEL.BACKBONE.NAME} gives none")
        cfg = with_feature_dim(cfg, network)
        stem = (network.conv1, network.bn1, network.act1, network.maxpool, network.layer1, network.layer2)
        shared, *rest = network.layer3
        fine = deepcopy(network.layer4)
        remove_strides(fine)  # branches with stripes always have the larger maps
        last = {"b1": network.layer4, "b2": fine, "b3": fine}
        return {
            # A chain, as its numbers are names in checkpoints.
            "backbone": nn.Sequential(*stem, shared),
            "branches": {name: nn.Sequential(deepcopy(nn.Sequential(*rest)), deepcopy(last[name])) for name in STRIPES},
            "heads": {name: build_heads(cfg) for name in HEADS},
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "loss_kwargs": loss_options(cfg),
        }

    def forward(self, batched_inputs: dict[str, Any] | Tensor) -> dict[str, Tensor] | Tensor:
        """A batch (`images`, in training `targets` [B]) or, in eval mode, images alone."""
        maps = self._maps(self.preprocess_image(batched_inputs))
        if not self.training:
            return torch.cat([self._head(name)(maps[name]) for name in HEADS], dim=1)
        targets = batched_inputs["targets"].to(self.device)
        return self.losses({name: self._head(name)(maps[name], targets) for name in HEADS}, targets)

    def _maps(self, images: Tensor) -> dict[str, Tensor]:
        """The map that each head sees."""
        shared = self.backbone(images)
        maps = {}
        for branch, stripes in STRIPES.items():
            maps[branch] = getattr(self, branch)(shared)
            if stripes:
                maps |= zip(stripes, _cut(maps[branch], len(stripes)), strict=True)
        return maps

    def _head(self, name: str) -> nn.Module:
        return getattr(self, f"{name}_head")

    def losses(self, outputs: dict[str, dict[str, Tensor]], gt_labels: Tensor) -> dict[str, Tensor]:
        """What each head made of a batch, and its classes [B] -> {name: weighted scalar}, as "loss_cls_b21"."""
        terms = {}
        for name in HEADS:
            for term, loss in self.loss_terms(outputs[name], gt_labels, sees="cls_outputs").items():
                terms[f"{term}_{name}"] = loss / len(HEADS)
        features = {name: outputs[name]["features"] for name in STRIPES}
        for stripes in STRIPES.values():
            if stripes:  # called by the last, as in fast-reid
                features[stripes[-1]] = torch.cat([outputs[stripe]["features"] for stripe in stripes], dim=1)
        for name, feature in features.items():
            for term, loss in self.loss_terms({"features": feature}, gt_labels, sees="features").items():
                terms[f"{term}_{name}"] = loss / len(features)
        return terms


def _cut(maps: Tensor, count: int) -> tuple[Tensor, ...]:
    """Maps [B, C, h, w] from top to bottom in `count` parts; as in fast-reid the last may be lower."""
    parts = maps.chunk(count, dim=2)
    if len(parts) < count:
        raise ConfigError(
            f"a map of height {maps.shape[2]} cannot be cut into {count} stripes: INPUT.SIZE_TRAIN and SIZE_TEST must "
            "be higher (16 pixels are one of its rows)"
        )
    return parts
