"""The losses with which a `PersonEncoder` trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastreid.config import CfgNode
from fastreid.methods.sd_reid.encoder import PersonEncoder
from fastreid.modeling.backbones import with_feature_dim
from fastreid.modeling.losses import LossTerms, cross_entropy_loss, loss_options, require_losses
from fastreid.structures import PersonFeatures

# Names of the release.
_NAMES = {"loss_cls": "loss_identity"}


class PersonLosses(LossTerms):
    """The losses of MODEL.LOSSES.NAME (as published, identity and triplet loss) + lambda * view cross-entropy.

    Args:
        options: as `loss_options` returns them.
        view_weight: lambda; 0 does not train the view head.
    """

    def __init__(self, options: Mapping[str, Any], view_weight: float) -> None:
        super().__init__(options)
        self.view_weight = view_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, person: PersonEncoder) -> PersonLosses:
        """Return the losses of a config.

        Args:
            cfg: the config.
            person: the encoder, which decides the sizes of losses with a state.

        Raises:
            ConfigError: there are no losses.
        """
        cross_entropy = cfg.MODEL.LOSSES.CE
        options = loss_options(with_feature_dim(cfg, person))
        view_weight = cross_entropy.VIEW_LAMBDA if cross_entropy.VIEW_ID else 0.0
        if not view_weight:
            require_losses(options)
        return cls(options, view_weight)

    def freeze_unused(self, person: PersonEncoder) -> None:
        """Freeze the parts of an encoder that no loss reaches."""
        person.identity_head.freeze_unused(self.inputs)
        if not self.view_weight:
            person.view_head.requires_grad_(False)

    def of(self, person: PersonEncoder, features: PersonFeatures, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the weighted losses of a batch, and move the view centres.

        Args:
            person: the encoder, in train mode.
            features: its features of the images.
            batch: `targets` and `viewids`.
        """
        people, views = batch["targets"].to(person.device), batch["viewids"].to(person.device)
        person.memory.update(features.view, views)
        head = person.identity_head
        neck, logits = head(features.identity)
        outputs = {"cls_outputs": logits, "features": neck if head.has_neck_features else features.identity}
        losses = {_NAMES.get(name, name): loss for name, loss in self(outputs, people).items()}
        if self.view_weight:
            view_logits = person.view_head(features.view).logits
            losses["loss_view"] = self.view_weight * cross_entropy_loss(view_logits, views, eps=0.0)
        return losses
