"""The ViT of timm as a backbone of fast-reid, and what all ViTs share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import Tensor

from fastreid.config import CfgNode, ConfigError, image_size, require_unread
from fastreid.layers import PATCH_STEMS
from fastreid.modeling.backbones.pretrained import READ_BY_ALL, load_pretrained
from fastreid.utils.suggest import explain_choice
from fastreid.utils.weights import WeightsError

# Keys of MODEL.BACKBONE.
_READS = (*READ_BY_ALL, "DEPTH", "STEM", "OUTPUT", "STRIDE_SIZE", "DROP_PATH_RATIO", "DROP_RATIO", "ATT_DROP_RATE")


@dataclass(frozen=True)
class ViTSize:
    """Size of a ViT.

    Args:
        width: D.
        num_blocks: transformer blocks L.
        num_heads: attention heads.
    """

    width: int
    num_blocks: int
    num_heads: int


VIT_SIZES = {
    "base": ViTSize(768, 12, 12),
    "small": ViTSize(384, 12, 6),
    "tiny": ViTSize(192, 12, 3),
    # Six blocks of the tiny width: trains from scratch on a CPU in minutes.
    "mini": ViTSize(192, 6, 3),
}


class ViT(VisionTransformer):
    """The ViT of timm with patches of 16 pixels: images -> the normalised class token, as a map [B, D, 1, 1].

    Its parameters have the names of timm, which fast-reid has, too.

    Args:
        returns_patches: return the map [B, D, h, w] of the patch tokens instead.
        **options: arguments of `timm.models.VisionTransformer`.
    """

    def __init__(self, *, returns_patches: bool = False, **options: Any) -> None:
        super().__init__(patch_size=16, num_classes=0, **options)
        self.returns_patches = returns_patches

    @property
    def feature_dim(self) -> int:
        """Width D."""
        return self.embed_dim

    @property
    def num_layers(self) -> int:
        """Depth of the last block."""
        return len(self.blocks)

    def layer_of(self, name: str) -> int:
        """Return the depth of a parameter: 0 for the stem, 1 … `num_layers` for blocks and the norm after them."""
        return vit_layer_of(name, self.num_layers)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]  # timm's has options for attention masks
        """Return the class tokens [B, D, 1, 1], or the patch tokens [B, D, h, w], of normalised images [B, 3, H, W]."""
        tokens = self.forward_features(images)
        if self.returns_patches:
            return tokens[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, self.patch_embed.grid_size)
        return tokens[:, 0, :, None, None]


def vit_layer_of(name: str, num_blocks: int) -> int:
    """Return the depth of a parameter of a ViT of timm: 0 for the stem, `num_blocks` for all after the blocks.

    Args:
        name: its name.
        num_blocks: transformer blocks.
    """
    part, _, rest = name.partition(".")
    if part == "blocks":
        return int(rest.partition(".")[0]) + 1
    return num_blocks if part in ("norm", "fc_norm", "head") else 0


def build_vit_backbone(cfg: CfgNode) -> ViT:
    """Return the `ViT` of `MODEL.BACKBONE` for images of the size of training, with its pretrained file loaded.

    Raises:
        ConfigError: unknown DEPTH or STEM, another test size, or a key of other backbones was changed.
        WeightsError: `PRETRAIN_PATH` fills too little of the backbone.
    """
    keys = cfg.MODEL.BACKBONE
    require_unread(cfg, "MODEL.BACKBONE", _READS, "build_vit_backbone builds a plain ViT")
    if keys.DEPTH not in VIT_SIZES:
        raise ConfigError(explain_choice("MODEL.BACKBONE.DEPTH", keys.DEPTH, VIT_SIZES))
    if keys.STEM not in PATCH_STEMS:
        raise ConfigError(explain_choice("MODEL.BACKBONE.STEM", keys.STEM, PATCH_STEMS))
    require_one_size(cfg)
    size = VIT_SIZES[keys.DEPTH]
    vit = ViT(
        returns_patches=keys.OUTPUT == "patches",
        img_size=image_size(cfg),
        embed_layer=partial(PATCH_STEMS[keys.STEM], stride=tuple(keys.STRIDE_SIZE)),
        embed_dim=size.width,
        depth=size.num_blocks,
        num_heads=size.num_heads,
        drop_path_rate=keys.DROP_PATH_RATIO,
        proj_drop_rate=keys.DROP_RATIO,
        pos_drop_rate=keys.DROP_RATIO,
        attn_drop_rate=keys.ATT_DROP_RATE,
    )
    if keys.PRETRAIN:
        load_pretrained(vit, keys.PRETRAIN_PATH, adapt=fit_vit_names, min_coverage=keys.PRETRAIN_MIN_COVERAGE)
    return vit


def require_one_size(cfg: CfgNode) -> None:
    """Check that images have one size in training and in tests.

    Args:
        cfg: the config.

    Raises:
        ConfigError: they have two.
    """
    if image_size(cfg, is_train=False) != image_size(cfg):
        raise ConfigError(
            f"a ViT's position table has one size: INPUT.SIZE_TEST {cfg.INPUT.SIZE_TEST} must equal "
            f"SIZE_TRAIN {cfg.INPUT.SIZE_TRAIN}"
        )


def fit_vit_names(vit: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt the state of a published ViT: drop its classifier, resize its position table bilinearly.

    Args:
        vit: the VisionTransformer of timm that it is for.
        state: with the names of timm (as `jx_vit_base_p16_224-80ecf9dd.pth`), bare or below `backbone.` or `vit.`.
    """
    state = {name.removeprefix("backbone.").removeprefix("vit."): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "heads.", "pre_logits."))}
    return fit_positions(vit, state)


def fit_positions(vit: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resize the position table of a state bilinearly, with half-pixel centres; rows of other tokens stay.

    Args:
        vit: the VisionTransformer or Eva of timm that it is for.
        state: with the names of timm.

    Returns:
        The state, with another `pos_embed` if the grids differ.
    """
    table = state.get("pos_embed")
    if table is None or table.ndim != 3:
        return state
    others = 0 if vit.no_embed_class else vit.num_prefix_tokens
    old, new = _grid_of(table.shape[1] - others), vit.patch_embed.grid_size
    if old == new:
        return state
    resized = resample_abs_pos_embed(
        table, list(new), list(old), num_prefix_tokens=others, interpolation="bilinear", antialias=False
    )
    return {**state, "pos_embed": resized}


def _grid_of(num_patches: int) -> tuple[int, int]:
    """Return height and width of a published position table: square (224x224), or twice as high as wide (256x128).

    Raises:
        WeightsError: neither.
    """
    side, half = math.isqrt(num_patches), math.isqrt(num_patches // 2)
    if side * side == num_patches:
        return side, side
    if 2 * half * half == num_patches:
        return 2 * half, half
    raise WeightsError(f"a position table of {num_patches} patches is neither square nor twice as high as wide")
