"""SD-ReID's backbone: timm's ViT with a learnable view prompt that only the last block sees."""

import math
from dataclasses import dataclass
from functools import partial

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError
from fastreid.layers import PATCH_STEMS
from fastreid.modeling.backbones.pretrained import load_pretrained
from fastreid.structures import PersonFeatures
from fastreid.utils.suggest import explain_choice
from fastreid.utils.weights import WeightsError


@dataclass(frozen=True)
class ViTSize:
    """A timm name and what differs from it."""

    timm_name: str
    width: int | None = None
    num_blocks: int | None = None
    num_heads: int | None = None

    def options(self) -> dict[str, int]:
        named = {"embed_dim": self.width, "depth": self.num_blocks, "num_heads": self.num_heads}
        return {name: value for name, value in named.items() if value is not None}


VIT_SIZES = {
    "base": ViTSize("vit_base_patch16_224"),
    "small": ViTSize("vit_small_patch16_224"),
    "tiny": ViTSize("vit_tiny_patch16_224"),
    # Six blocks of the tiny width: trains from scratch on a CPU in minutes.
    "mini": ViTSize("vit_tiny_patch16_224", num_blocks=6),
}


class ViewPromptViT(nn.Module):
    """Images -> `PersonFeatures` (SD-ReID stage 1).

    Blocks 1 … L-1 run as in any ViT, and the class token after each is an identity condition. Then the view
    prompt is put before the class token and block L turns it into the view token.

    Args:
        vit: a timm VisionTransformer with a class token.
    """

    def __init__(self, vit: timm.models.VisionTransformer) -> None:
        super().__init__()
        if len(vit.blocks) < 2:
            raise ValueError(
                f"the view prompt enters before the last block, so 2 blocks are needed, got {len(vit.blocks)}"
            )
        self.vit = vit
        self.view_prompt = nn.Parameter(torch.zeros(1, 1, vit.embed_dim))

    @property
    def feature_dim(self) -> int:
        return self.vit.embed_dim

    @property
    def num_blocks(self) -> int:
        return len(self.vit.blocks)

    num_layers = num_blocks

    def layer_of(self, name: str) -> int:
        """Depth of a parameter: 0 before the blocks, the block's number from 1, the last one's for all that it sees."""
        if name.startswith("vit.blocks."):
            return int(name.split(".")[2]) + 1
        return self.num_blocks if name.startswith(("vit.norm.", "view_prompt")) else 0

    def forward(self, images: Tensor) -> PersonFeatures:
        """Normalised images [B, 3, H, W] -> features."""
        vit = self.vit
        tokens = vit.patch_embed(images)
        tokens = torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = vit.norm_pre(vit.pos_drop(tokens + vit.pos_embed))
        id_conditions = []
        for block in vit.blocks[:-1]:
            tokens = block(tokens)
            id_conditions.append(tokens[:, 0])
        tokens = torch.cat([self.view_prompt.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = vit.blocks[-1](tokens)
        return PersonFeatures(
            identity=vit.norm(tokens[:, 1]),
            view=tokens[:, 0],
            id_conditions=torch.stack(id_conditions, dim=1),
        )


def build_vit_backbone(cfg: CfgNode) -> ViewPromptViT:
    """A `ViewPromptViT` from `MODEL.BACKBONE` and `INPUT.SIZE_TRAIN`, with its pretrained file loaded.

    Raises:
        ConfigError: unknown DEPTH or STEM, another test size, a FEAT_DIM that contradicts DEPTH.
        WeightsError: `PRETRAIN_PATH` fills too little of the backbone.
    """
    keys = cfg.MODEL.BACKBONE
    if keys.DEPTH not in VIT_SIZES:
        raise ConfigError(explain_choice("MODEL.BACKBONE.DEPTH", keys.DEPTH, VIT_SIZES))
    if keys.STEM not in PATCH_STEMS:
        raise ConfigError(explain_choice("MODEL.BACKBONE.STEM", keys.STEM, PATCH_STEMS))
    if list(cfg.INPUT.SIZE_TEST) != list(cfg.INPUT.SIZE_TRAIN):
        raise ConfigError(
            f"a ViT's position table has one size: INPUT.SIZE_TEST {cfg.INPUT.SIZE_TEST} must equal "
            f"SIZE_TRAIN {cfg.INPUT.SIZE_TRAIN}"
        )
    size = VIT_SIZES[keys.DEPTH]
    vit = timm.create_model(
        size.timm_name,
        pretrained=False,
        num_classes=0,
        img_size=tuple(cfg.INPUT.SIZE_TRAIN),
        embed_layer=partial(PATCH_STEMS[keys.STEM], stride=tuple(keys.STRIDE_SIZE)),
        drop_path_rate=keys.DROP_PATH_RATIO,
        proj_drop_rate=keys.DROP_RATIO,
        pos_drop_rate=keys.DROP_RATIO,
        attn_drop_rate=keys.ATT_DROP_RATE,
        **size.options(),
    )
    default = 2048  # fast-reid's FEAT_DIM, which nobody sets for the ViT on purpose
    if keys.FEAT_DIM not in (default, vit.embed_dim):
        raise ConfigError(f"MODEL.BACKBONE.FEAT_DIM is {keys.FEAT_DIM}, DEPTH {keys.DEPTH!r} gives {vit.embed_dim}")
    if keys.PRETRAIN:
        load_pretrained(vit, keys.PRETRAIN_PATH, adapt=fit_vit_names, min_coverage=keys.PRETRAIN_MIN_COVERAGE)
    return ViewPromptViT(vit)


def fit_vit_names(vit: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make a published ViT state fit: drop its classifier, resize its position table bilinearly.

    Accepts the names of `jx_vit_base_p16_224-80ecf9dd.pth` (timm's), bare or below `backbone.` or `vit.`.
    """
    state = {name.removeprefix("backbone.").removeprefix("vit."): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "pre_logits."))}
    table = state.get("pos_embed")
    if table is not None and table.ndim == 3:
        old, new = _grid_of(table.shape[1] - 1), vit.patch_embed.grid_size
        if old != new:
            state["pos_embed"] = resample_abs_pos_embed(
                table, list(new), list(old), interpolation="bilinear", antialias=False
            )
    return state


def _grid_of(num_patches: int) -> tuple[int, int]:
    """Height and width of a published position table: square (224x224), or twice as high as wide (256x128).

    Raises:
        WeightsError: neither.
    """
    side, half = math.isqrt(num_patches), math.isqrt(num_patches // 2)
    if side * side == num_patches:
        return side, side
    if 2 * half * half == num_patches:
        return 2 * half, half
    raise WeightsError(f"a position table of {num_patches} patches is neither square nor twice as high as wide")
