"""SD-ReID stage 1: a view-aware re-identification model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastreid.config import CfgNode, configurable
from fastreid.methods.sd_reid.encoder import PersonEncoder
from fastreid.methods.sd_reid.person_model import PersonModel
from fastreid.modeling.backbones import with_feature_dim
from fastreid.modeling.losses import LossTerms, cross_entropy_loss, loss_options, require_losses

# Names of the release.
_NAMES = {"loss_cls": "loss_identity"}


class SDReIDStage1(PersonModel):
    """A `PersonEncoder` that trains with the losses of MODEL.LOSSES.NAME + lambda * view cross-entropy.

    `forward(batch)` returns the weighted losses in training (and moves the view centres), and the BN-neck
    feature [B, D] otherwise.

    Args:
        person: the encoder.
        loss_terms: losses of logits and features; as published, identity and triplet loss.
        view_weight: lambda; 0 does not train the view head.
    """

    @configurable
    def __init__(
        self,
        *,
        person: PersonEncoder,
        loss_terms: LossTerms,
        view_weight: float,
    ) -> None:
        super().__init__()
        self.person, self.loss_terms = person, loss_terms
        self.view_weight = view_weight
        person.identity_head.freeze_unused(loss_terms.inputs)
        if not view_weight:
            person.view_head.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config; errors as of `PersonEncoder`."""
        person = PersonEncoder(cfg)
        cross_entropy = cfg.MODEL.LOSSES.CE
        options = loss_options(with_feature_dim(cfg, person))
        view_weight = cross_entropy.VIEW_LAMBDA if cross_entropy.VIEW_ID else 0.0
        if not view_weight:
            require_losses(options)
        return {
            "person": person,
            "loss_terms": LossTerms(options),
            "view_weight": view_weight,
        }

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and retrieval features otherwise.

        Args:
            batch: `images`, and in training `targets` and `viewids`.
        """
        features = self.person(batch["images"])
        if not self.training:
            return self.person.neck(features.identity)
        people, views = batch["targets"].to(self.device), batch["viewids"].to(self.device)
        self.person.memory.update(features.view, views)
        head = self.person.identity_head
        neck, logits = head(features.identity)
        outputs = {"cls_outputs": logits, "features": neck if head.has_neck_features else features.identity}
        losses = {_NAMES.get(name, name): loss for name, loss in self.loss_terms(outputs, people).items()}
        if self.view_weight:
            view_logits = self.person.view_head(features.view).logits
            losses["loss_view"] = self.view_weight * cross_entropy_loss(view_logits, views, eps=0.0)
        return losses
