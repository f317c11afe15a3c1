"""AttrBaseline: a backbone and a head with one logit for each attribute of a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, configurable
from fastreid.methods.attributes.shares import AttributeShares
from fastreid.methods.attributes.weighted_bce import weighted_bce
from fastreid.modeling.backbones import build_backbone, with_feature_dim
from fastreid.modeling.epoch_task import EpochTask
from fastreid.modeling.heads import AttrHead, build_heads
from fastreid.modeling.image_module import ImageModule
from fastreid.modeling.model import ATTRIBUTES, ReidModel
from fastreid.structures import PersonImage

LOSS = "BinaryCrossEntropyLoss"


class AttrBaseline(ImageModule, ReidModel):
    """Images -> backbone -> one logit for each attribute; the model of fast-reid's project FastAttr.

    `forward(batch)` returns the binary cross-entropy in training, and the probabilities [B, A] otherwise.

    Args:
        backbone: normalised images [B, 3, H, W] -> maps [B, C, h, w].
        heads: maps -> logits.
        pixel_mean: mean of each channel of images in 0..255.
        pixel_std: standard deviation of each channel.
        is_weighted: whether attributes are weighed by the share of training images that have them.
        scale: weight of the loss.

    Attributes:
        shares: p [A], the share of training images that have each attribute. An epoch task counts it; before, it is 0.5
            for all, so that the weights are equal.
    """

    # Attributes are the labels; the persons of the images may be unknown.
    needs_labels = False
    evaluation = ATTRIBUTES
    # The probabilities are those of the classifier.
    evaluates_classes = True
    shares: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        heads: AttrHead,
        pixel_mean: list[float],
        pixel_std: list[float],
        is_weighted: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone, self.heads = backbone, heads
        self.is_weighted, self.scale = is_weighted, scale
        # Equal weights until the epoch task has counted.
        self.register_buffer("shares", torch.full((len(heads.class_weights),), 0.5), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config.

        Raises:
            ConfigError: another head than AttrHead, or another loss than BinaryCrossEntropyLoss.
        """
        if list(cfg.MODEL.LOSSES.NAME) != [LOSS]:
            raise ConfigError(
                f"AttrBaseline trains with one loss: set MODEL.LOSSES.NAME to ['{LOSS}'], got "
                f"{list(cfg.MODEL.LOSSES.NAME)}"
            )
        backbone = build_backbone(cfg)
        heads = build_heads(with_feature_dim(cfg, backbone))
        if not isinstance(heads, AttrHead):
            raise ConfigError(f"AttrBaseline needs MODEL.HEADS.NAME AttrHead, got {cfg.MODEL.HEADS.NAME}")
        return {
            "backbone": backbone,
            "heads": heads,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "is_weighted": cfg.MODEL.LOSSES.BCE.WEIGHT_ENABLED,
            "scale": cfg.MODEL.LOSSES.BCE.SCALE,
        }

    def check_data(self, images: Sequence[PersonImage]) -> None:
        """Check that each image has as many attributes as the head has logits.

        Raises:
            ConfigError: one has another number.
        """
        count = len(self.heads.class_weights)
        if strange := next((image for image in images if len(image.attributes) != count), None):
            raise ConfigError(
                f"the model has {count} attributes (MODEL.HEADS.NUM_CLASSES), but image {strange.path} of the training "
                f"set has {len(strange.attributes)}"
            )

    def epoch_tasks(self) -> Sequence[EpochTask]:
        """Return the count of the images that have each attribute, if the loss is weighted."""
        return [AttributeShares(self.take_shares)] if self.is_weighted else []

    def take_shares(self, shares: Tensor) -> None:
        """Weigh the loss by these shares of training images that have each attribute, [A]."""
        self.shares.copy_(shares)

    def forward(self, batched_inputs: Any) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and probabilities otherwise.

        Args:
            batched_inputs: a batch (`images`, in training `attributes` [B, A]) or, in eval mode, images.
        """
        logits = self.heads(self.backbone(self.preprocess_image(batched_inputs)))
        if not self.training:
            return logits.sigmoid()
        attributes = batched_inputs["attributes"].to(self.device)
        shares = self.shares if self.is_weighted else None
        return {"loss_bce": self.scale * weighted_bce(logits, attributes, shares)}
