"""PersonEncoder: the part of SD-ReID that embeds people, shared by both stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from fastreid.config import CfgNode, ConfigError, configurable, require_defaults
from fastreid.layers import NORMS_ON_VECTORS
from fastreid.methods.sd_reid.view_memory import ViewMemoryBank
from fastreid.modeling.backbones import ViewAwareBackbone, build_backbone, with_view_prompt
from fastreid.modeling.heads import VectorHead
from fastreid.modeling.image_module import ImageModule
from fastreid.modeling.model import RatePart
from fastreid.structures import PersonFeatures, PersonImage
from fastreid.utils.suggest import explain_choice

# Keys that only heads on maps read.
_OTHER_HEADS = ("NAME", "NORM_SPLIT", "EMBEDDING_DIM", "CLS_LAYER", "SCALE", "MARGIN")


class PersonEncoder(ImageModule):
    """Backbone, identity head, view head and view memory bank.

    Args:
        backbone: images -> `PersonFeatures`. From a config it is a ViT with a view prompt, or a backbone that returns
            them itself.
        identity_head: on the identity vector, over people.
        view_head: on the view token, over views.
        memory: the centres of the views.
        pixel_mean: mean of each channel of images in 0..255.
        pixel_std: standard deviation of each channel.
    """

    backbone: ViewAwareBackbone
    identity_head: VectorHead
    view_head: VectorHead
    memory: ViewMemoryBank

    @configurable
    def __init__(
        self,
        *,
        backbone: ViewAwareBackbone,
        identity_head: VectorHead,
        view_head: VectorHead,
        memory: ViewMemoryBank,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone, self.identity_head = backbone, identity_head
        self.view_head, self.memory = view_head, memory

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        """Return the arguments for a config.

        Raises:
            ConfigError: the backbone does not return view and identity tokens, or a key of heads on maps was changed.
        """
        if cfg.MODEL.HEADS.POOL_LAYER not in ("Identity", "GlobalAvgPool"):
            raise ConfigError(
                "a ViT's class token is not pooled: MODEL.HEADS.POOL_LAYER must be Identity, "
                f"got {cfg.MODEL.HEADS.POOL_LAYER!r}"
            )
        require_defaults(
            cfg,
            [f"MODEL.HEADS.{key}" for key in _OTHER_HEADS],
            "SD-ReID has a BatchNorm neck and a linear classifier on vectors",
        )
        if cfg.MODEL.HEADS.NORM not in NORMS_ON_VECTORS:
            raise ConfigError(
                explain_choice("MODEL.HEADS.NORM of a neck on vectors", cfg.MODEL.HEADS.NORM, NORMS_ON_VECTORS)
            )
        backbone = with_view_prompt(build_backbone(cfg))
        if not isinstance(backbone, ViewAwareBackbone):
            raise ConfigError(
                f"SD-ReID needs view and identity tokens of every block; {cfg.MODEL.BACKBONE.NAME} gives maps. Set "
                "MODEL.BACKBONE.NAME build_vit_backbone or build_clip_backbone, or MODEL.BACKBONE.TIMM_NAME to a ViT "
                "with a class token (VisionTransformer or Eva)"
            )
        dim, views = backbone.feature_dim, cfg.MODEL.SDMODEL.VIEW_NUM
        neck: dict[str, Any] = {"with_bnneck": cfg.MODEL.HEADS.WITH_BNNECK, "norm": cfg.MODEL.HEADS.NORM}
        return {
            "backbone": backbone,
            "identity_head": VectorHead(dim, cfg.MODEL.HEADS.NUM_CLASSES, neck_feat=cfg.MODEL.HEADS.NECK_FEAT, **neck),
            "view_head": VectorHead(dim, views, **neck),
            "memory": ViewMemoryBank(views, dim, cfg.MODEL.SDMODEL.MOMENTUM),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def feature_dim(self) -> int:
        """Width D of the features."""
        return self.backbone.feature_dim

    @property
    def num_blocks(self) -> int:
        """Transformer blocks L of the backbone."""
        return self.backbone.num_blocks

    def forward(self, images: Tensor) -> PersonFeatures:
        """Return the features of images [B, 3, H, W] in 0..255, which are left unchanged."""
        return self.backbone(self.preprocess_image(images))

    def rate_parts(self) -> tuple[RatePart, ...]:
        """Return the heads, which train at SOLVER.HEADS_LR_FACTOR."""
        return (RatePart("SOLVER.HEADS_LR_FACTOR", (self.identity_head, self.view_head)),)

    def check_views(self, images: Iterable[PersonImage]) -> None:
        """Check that the memory bank has a place for the views of some images.

        Args:
            images: the images.

        Raises:
            ConfigError: an image is of another view.
        """
        known = self.memory.num_views
        views = {int(image.view) for image in images}
        if unknown := {view for view in views if not 0 <= view < known}:
            raise ConfigError(
                f"the training images are of views {sorted(views)}, but MODEL.SDMODEL.VIEW_NUM is {known}: set it to "
                f"{max(unknown) + 1}"
            )

    def standardize(self, identity: Tensor) -> Tensor:
        """Transform identity vectors [..., D] to zero mean and unit variance, by the running statistics of the neck."""
        mean, deviation = self._statistics()
        return (identity.float() - mean) / deviation

    def destandardize(self, identity: Tensor) -> Tensor:
        """Invert `standardize`."""
        mean, deviation = self._statistics()
        return identity * deviation + mean

    def _statistics(self) -> tuple[Tensor, Tensor]:
        bottleneck: Any = self.identity_head.bottleneck
        return bottleneck.running_mean, (bottleneck.running_var + bottleneck.eps).sqrt()

    def neck(self, identity: Tensor) -> Tensor:
        """Return retrieval features [B, D], of identity vectors [B, D]."""
        return self.identity_head.neck(identity)
