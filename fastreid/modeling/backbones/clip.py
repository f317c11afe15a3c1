"""CLIP's image encoder: the ViT of timm, with the projection into the space that images and texts share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, image_size, require_unread
from fastreid.layers import PATCH_STEMS
from fastreid.modeling.backbones.clip_names import fit_clip_names
from fastreid.modeling.backbones.pretrained import READ_BY_ALL, load_pretrained
from fastreid.modeling.backbones.vit import VIT_SIZES, require_one_size, vit_layer_of
from fastreid.utils.suggest import explain_choice

# Keys of MODEL.BACKBONE.
_READS = (
    *READ_BY_ALL,
    *("DEPTH", "STRIDE_SIZE", "DROP_PATH_RATIO", "DROP_RATIO", "ATT_DROP_RATE"),
    *("CLIP_FEATURE", "FREEZE_PATCH_EMBED"),
)
FEATURES = ("before", "after", "both")
_PROJECTION = "head.weight"


@dataclass(frozen=True)
class ClipTower:
    """A CLIP ViT.

    Args:
        timm_name: a name of `timm.create_model`.
        projected_dim: width after the projection; 0 if it is not known.
        options: arguments of `timm.create_model` that differ from those of the name.
    """

    timm_name: str
    projected_dim: int
    options: dict[str, Any] = field(default_factory=dict)


_MINI = VIT_SIZES["mini"]
CLIP_TOWERS = {
    "base": ClipTower("vit_base_patch16_clip_quickgelu_224", 512),
    "large": ClipTower("vit_large_patch14_clip_quickgelu_224", 768),
    # Six blocks of 192 channels, for tests and runs on a CPU; no weights were published for it.
    "mini": ClipTower(
        "vit_base_patch16_clip_quickgelu_224",
        128,
        {"embed_dim": _MINI.width, "depth": _MINI.num_blocks, "num_heads": _MINI.num_heads},
    ),
}


def tower_of(depth: str) -> ClipTower:
    """Return the CLIP tower of a `MODEL.BACKBONE.DEPTH`: a row of `CLIP_TOWERS`, or a CLIP ViT of timm by its name.

    Raises:
        ConfigError: neither; the message names near matches.
    """
    if depth in CLIP_TOWERS:
        return CLIP_TOWERS[depth]
    names = timm.list_models("vit_*_clip_*")
    if depth not in names:
        choice = explain_choice("MODEL.BACKBONE.DEPTH", depth, [*CLIP_TOWERS, *names])
        raise ConfigError(f"{choice}: build_clip_backbone takes these, or a CLIP ViT of timm by its name")
    # Weights that were trained further as classifiers have classes in place of the projection.
    found = [timm.get_pretrained_cfg(tag) for tag in timm.list_pretrained(f"{depth}.*") if "_ft_" not in tag]
    return ClipTower(depth, next((published.num_classes for published in found if published), 0))


class ClipViT(nn.Module):
    """CLIP's image encoder: normalised images [B, 3, H, W] -> a feature of the class token, as a map [B, D, 1, 1].

    Args:
        vit: a VisionTransformer of timm; its `head` is the projection, which "before" does without.
        feature: "before" the projection (after the last LayerNorm), "after" it, or "both" side by side (CLIP-ReID,
            section 3.2).
        freeze_patch_embed: keep the convolution that makes tokens of patches as it is (MoCo v3, section 4).
    """

    def __init__(self, vit: VisionTransformer, feature: str = "after", *, freeze_patch_embed: bool = False) -> None:
        super().__init__()
        self.vit, self.feature = vit, feature
        vit.patch_embed.requires_grad_(not freeze_patch_embed)

    @property
    def feature_dim(self) -> int:
        """Width D of the feature."""
        width, projected = self.vit.embed_dim, self.vit.num_classes
        return {"before": width, "after": projected, "both": width + projected}[self.feature]

    @property
    def num_layers(self) -> int:
        """Depth of the last block."""
        return len(self.vit.blocks)

    def layer_of(self, name: str) -> int:
        """Return the depth of a parameter, as of a `ViT`; the projection is as deep as the last block."""
        return vit_layer_of(name.removeprefix("vit."), self.num_layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features [B, D, 1, 1] of normalised images [B, 3, H, W]."""
        token = self.vit.forward_features(images)[:, 0]
        projected = self.vit.head(token)
        parts = {"before": (token,), "after": (projected,), "both": (token, projected)}
        return torch.cat(parts[self.feature], dim=1)[..., None, None]


def build_clip_backbone(cfg: CfgNode) -> ClipViT:
    """Return the `ClipViT` of `MODEL.BACKBONE` for images of the size of training, with its pretrained file loaded.

    Raises:
        ConfigError: unknown DEPTH or CLIP_FEATURE, a STRIDE_SIZE that leaves out pixels, another test size, or a key of
            other backbones was changed.
        WeightsError: `PRETRAIN_PATH` fills too little of the backbone, or lacks the projection that is asked for.
    """
    keys = cfg.MODEL.BACKBONE
    require_unread(cfg, "MODEL.BACKBONE", _READS, "build_clip_backbone builds a ViT as CLIP has it")
    if keys.CLIP_FEATURE not in FEATURES:
        raise ConfigError(explain_choice("MODEL.BACKBONE.CLIP_FEATURE", keys.CLIP_FEATURE, FEATURES))
    require_one_size(cfg)
    vit = _build_tower(cfg, tower_of(keys.DEPTH), projects=keys.CLIP_FEATURE != "before")
    if keys.PRETRAIN:
        load_pretrained(
            vit,
            keys.PRETRAIN_PATH,
            adapt=fit_clip_names,
            min_coverage=keys.PRETRAIN_MIN_COVERAGE,
            required=(_PROJECTION,) if keys.CLIP_FEATURE != "before" else (),
        )
    return ClipViT(vit, keys.CLIP_FEATURE, freeze_patch_embed=keys.FREEZE_PATCH_EMBED)


def _build_tower(cfg: CfgNode, tower: ClipTower, *, projects: bool) -> VisionTransformer:
    keys = cfg.MODEL.BACKBONE
    if projects and not tower.projected_dim:
        raise ConfigError(
            f"timm knows no projection of {tower.timm_name}: set MODEL.BACKBONE.CLIP_FEATURE before, or name the "
            "model of the size that CLIP was trained with (any INPUT.SIZE_TRAIN fits it)"
        )
    vit: Any = timm.create_model(
        tower.timm_name,
        pretrained=False,
        img_size=image_size(cfg),
        embed_layer=partial(PATCH_STEMS["patch"], stride=tuple(keys.STRIDE_SIZE)),
        num_classes=tower.projected_dim if projects else 0,
        drop_path_rate=keys.DROP_PATH_RATIO,
        proj_drop_rate=keys.DROP_RATIO,
        pos_drop_rate=keys.DROP_RATIO,
        attn_drop_rate=keys.ATT_DROP_RATE,
        **tower.options,
    )
    patch = vit.patch_embed.proj.kernel_size
    if any(step > side for step, side in zip(keys.STRIDE_SIZE, patch, strict=True)):
        raise ConfigError(
            f"MODEL.BACKBONE.STRIDE_SIZE {list(keys.STRIDE_SIZE)} leaves out pixels between the patches of "
            f"{tower.timm_name}: set it to {list(patch)}, or less for patches that overlap"
        )
    if projects:
        # CLIP's projection has no bias. Its rows are drawn as in CLIP.
        vit.head = nn.Linear(vit.embed_dim, tower.projected_dim, bias=False)
        nn.init.normal_(vit.head.weight, std=vit.embed_dim**-0.5)
    return vit
