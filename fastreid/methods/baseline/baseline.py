"""Baseline: a backbone, a head and losses; the model of fast-reid, from which users derive theirs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastreid.config import CfgNode, configurable
from fastreid.modeling.backbones import build_backbone, with_feature_dim
from fastreid.modeling.heads import ClasHead, EmbeddingHead, build_heads
from fastreid.modeling.image_module import ImageModule
from fastreid.modeling.losses import LossTerms, loss_options, require_losses
from fastreid.modeling.model import ReidModel


class Baseline(ImageModule, ReidModel):
    """Images -> backbone -> head.

    `forward(batch)` returns the weighted losses in training, and the output of the head, the feature [B, D], otherwise.

    Args:
        backbone: normalised images [B, 3, H, W] -> maps [B, C, h, w].
        heads: (maps, classes [B]) -> dict of outputs in training; (maps) -> feature [B, D] otherwise.
        pixel_mean: mean of each channel of images in 0..255.
        pixel_std: standard deviation of each channel.
        loss_kwargs: losses and their options, as `loss_options` returns them; None for a subclass whose `losses` does
            not use them.

    Attributes:
        takes_outputs: outputs of the head that a subclass uses beside those that the losses take.
    """

    takes_outputs: frozenset[str] = frozenset()

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        heads: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
        loss_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone, self.heads = backbone, heads
        self.loss_kwargs = loss_kwargs
        # A subclass with own losses may name further ones, and use outputs that the losses of the table do not.
        has_own = type(self).losses is not Baseline.losses
        if loss_kwargs and not has_own and type(self).forward is Baseline.forward:
            require_losses(loss_kwargs)
        self.loss_terms = LossTerms(loss_kwargs, skips_unknown=has_own) if loss_kwargs else None
        if self.loss_terms is not None and not has_own and isinstance(heads, EmbeddingHead):
            heads.freeze_unused(self.loss_terms.inputs | self.takes_outputs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config."""
        backbone = build_backbone(cfg)
        cfg = with_feature_dim(cfg, backbone)
        return {
            "backbone": backbone,
            "heads": build_heads(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "loss_kwargs": loss_options(cfg),
        }

    @property
    def evaluates_classes(self) -> bool:
        """Whether the head gives class logits in eval mode."""
        return isinstance(self.heads, ClasHead)

    def forward(self, batched_inputs: Any) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and features otherwise.

        Args:
            batched_inputs: a batch (`images`, in training `targets` [B]) or, in eval mode, images.
        """
        features = self.backbone(self.preprocess_image(batched_inputs))
        if not self.training:
            return self.heads(features)
        targets = batched_inputs["targets"].to(self.device)
        return self.losses(self.heads(features, targets), targets)

    def losses(self, outputs: dict[str, Tensor], gt_labels: Tensor) -> dict[str, Tensor]:
        """Return {name: weighted scalar}.

        Args:
            outputs: outputs of the head in training.
            gt_labels: classes [B].
        """
        if self.loss_terms is None:
            raise TypeError(f"{type(self).__name__} was made without loss_kwargs, so it must define losses()")
        return self.loss_terms(outputs, gt_labels)
