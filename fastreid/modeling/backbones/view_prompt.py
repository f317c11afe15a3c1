"""The ViT of SD-ReID: that of a backbone, with a view prompt in the last block."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.modeling.backbones.clip import ClipViT
from fastreid.modeling.backbones.timm_models import TimmBackbone
from fastreid.modeling.backbones.vit import ViT, vit_layer_of
from fastreid.structures import PersonFeatures
from fastreid.utils.errors import ArgumentError


class ViewPromptViT(nn.Module):
    """Images -> `PersonFeatures` (SD-ReID stage 1).

    Blocks 1 … L-1 run as in any ViT, and the class token after each is an identity condition. Then the view
    prompt is put before the class token, and block L turns it into the view token.

    Args:
        vit: a VisionTransformer or Eva of timm with a class token.

    Raises:
        ArgumentError: the ViT has only one block.
    """

    def __init__(self, vit: VisionTransformer | Eva) -> None:
        super().__init__()
        if len(vit.blocks) < 2:
            raise ArgumentError(
                f"the view prompt enters before the last block, so 2 blocks are needed, got {len(vit.blocks)}"
            )
        self.vit = vit
        if isinstance(vit, Eva):
            last: Any = vit.blocks[-1]
            last.attn.num_prefix_tokens += 1  # those before the patches are not rotated
        self.view_prompt = nn.Parameter(torch.zeros(1, 1, vit.embed_dim))

    @property
    def feature_dim(self) -> int:
        """Width D of the tokens."""
        return self.vit.embed_dim

    @property
    def num_blocks(self) -> int:
        """Transformer blocks L."""
        return len(self.vit.blocks)

    @property
    def num_layers(self) -> int:
        """Depth of the last block."""
        return self.num_blocks

    def layer_of(self, name: str) -> int:
        """Return the depth of a parameter, as of a `ViT`; the view prompt enters before the last block."""
        return self.num_layers if name == "view_prompt" else vit_layer_of(name.removeprefix("vit."), self.num_layers)

    def forward(self, images: Tensor) -> PersonFeatures:
        """Return the features of normalised images [B, 3, H, W]."""
        vit: Any = self.vit
        tokens, rotations = self._embed(images)
        id_conditions = []
        for block, rotation in zip(vit.blocks[:-1], rotations[:-1], strict=True):
            tokens = block(tokens, **rotation)
            id_conditions.append(tokens[:, 0])
        tokens = torch.cat([self.view_prompt.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = vit.blocks[-1](tokens, **rotations[-1])
        return PersonFeatures(
            identity=vit.fc_norm(vit.norm(tokens[:, 1])),  # models that were trained with averages have the latter
            view=tokens[:, 0],
            id_conditions=torch.stack(id_conditions, dim=1),
        )

    def _embed(self, images: Tensor) -> tuple[Tensor, list[dict[str, Tensor | None]]]:
        """Return tokens [B, N, D], the class token first, and for each block the rotations of an Eva."""
        vit: Any = self.vit
        embedded = vit._pos_embed(vit.patch_embed(images))  # timm has no public name for it
        if not isinstance(vit, Eva):
            return vit.norm_pre(embedded), [{}] * self.num_blocks
        tokens, rotation = embedded
        rotations = rotation if vit.rope_mixed else [rotation] * self.num_blocks
        return vit.norm_pre(tokens), [{"rope": rotation} for rotation in rotations]


def with_view_prompt(backbone: nn.Module) -> nn.Module:
    """Return the ViT of a backbone with a view prompt; a backbone without such a ViT is returned as it is.

    Args:
        backbone: a ViT, a CLIP encoder, or a model of timm.

    Raises:
        ConfigError: CLIP's feature is not that before the projection, or the ViT returns its patches.
    """
    if isinstance(backbone, ViT) and backbone.returns_patches:
        raise ConfigError("SD-ReID reads the class token of a ViT: set MODEL.BACKBONE.OUTPUT class")
    if isinstance(backbone, ClipViT) and backbone.feature != "before":
        raise ConfigError(
            "SD-ReID reads the class token of a CLIP encoder before the projection: set MODEL.BACKBONE.CLIP_FEATURE "
            f"before, got {backbone.feature}"
        )
    vit = backbone
    if isinstance(backbone, ClipViT | TimmBackbone):
        vit = backbone.vit if isinstance(backbone, ClipViT) else backbone.model
    if isinstance(vit, VisionTransformer | Eva) and vit.cls_token is not None:
        return ViewPromptViT(vit)
    return backbone
