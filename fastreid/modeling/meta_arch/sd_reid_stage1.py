"""SD-ReID stage 1: a view-aware re-identification model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, configurable
from fastreid.modeling.losses import cross_entropy_loss, pairwise_circleloss, pairwise_cosface, triplet_loss
from fastreid.modeling.person import PersonEncoder
from fastreid.modeling.release import from_release
from fastreid.utils.suggest import explain_choice

Objective = Callable[..., Tensor]


class SDReIDStage1(nn.Module):
    """Identity cross-entropy + losses of features + lambda * view cross-entropy on a `PersonEncoder`.

    `forward(batch)` returns the weighted losses in training (and moves the view centres), and the BN-neck
    feature [B, D] otherwise.

    Args:
        person: the encoder.
        identity_loss: (logits [B, C], people [B]) -> scalar, or None.
        feature_losses: name -> (features [B, D], people [B]) -> scalar: triplets, as published, or other pairs.
        after_neck: they see the neck feature instead of the identity vector.
        view_weight: lambda; 0 trains no view head.
    """

    # The released code's checkpoints load too.
    adapt_checkpoint = staticmethod(from_release)

    @configurable
    def __init__(
        self,
        *,
        person: PersonEncoder,
        identity_loss: Objective | None,
        feature_losses: dict[str, Objective],
        after_neck: bool,
        view_weight: float,
    ) -> None:
        super().__init__()
        self.person = person
        self.identity_loss, self.feature_losses = identity_loss, feature_losses
        self.after_neck, self.view_weight = after_neck, view_weight
        # What no loss reaches is not trained.
        head = person.identity_head
        head.classifier.requires_grad_(identity_loss is not None)
        if identity_loss is None and not (after_neck and feature_losses):
            head.requires_grad_(False)
        if not view_weight:
            person.view_head.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_classes: int) -> dict[str, Any]:
        losses = cfg.MODEL.LOSSES
        legal = ("CrossEntropyLoss", *FEATURE_LOSSES)
        for name in losses.NAME:
            if name not in legal:
                raise ConfigError(explain_choice("loss in MODEL.LOSSES.NAME", name, legal))
        if cfg.MODEL.HEADS.NECK_FEAT not in ("before", "after"):
            raise ConfigError(explain_choice("MODEL.HEADS.NECK_FEAT", cfg.MODEL.HEADS.NECK_FEAT, ("before", "after")))
        return {
            "person": PersonEncoder(cfg, num_classes=num_classes),
            "identity_loss": _identity_loss(losses.CE) if "CrossEntropyLoss" in losses.NAME else None,
            "feature_losses": dict(FEATURE_LOSSES[name](losses) for name in losses.NAME if name in FEATURE_LOSSES),
            "after_neck": cfg.MODEL.HEADS.NECK_FEAT == "after",
            "view_weight": losses.CE.VIEW_LAMBDA if losses.CE.VIEW_ID else 0.0,
        }

    @property
    def device(self) -> torch.device:
        return self.person.device

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor] | Tensor:
        features = self.person(batch["images"])
        if not self.training:
            return self.person.neck(features.identity)
        people, views = batch["targets"].to(self.device), batch["viewids"].to(self.device)
        self.person.memory.update(features.view, views)
        neck, logits = self.person.identity_head(features.identity)
        losses = {}
        if self.identity_loss:
            losses["loss_identity"] = self.identity_loss(logits, people)
        for name, loss in self.feature_losses.items():
            losses[name] = loss(neck if self.after_neck else features.identity, people)
        if self.view_weight:
            view_logits = self.person.view_head(features.view).logits
            losses["loss_view"] = self.view_weight * cross_entropy_loss(view_logits, views, eps=0.0)
        return losses


def _identity_loss(keys: CfgNode) -> Objective:
    loss = partial(cross_entropy_loss, eps=keys.EPSILON, alpha=keys.ALPHA)
    return lambda logits, people: keys.SCALE * loss(logits, people)


def _triplet(losses: CfgNode) -> tuple[str, Objective]:
    keys = losses.TRI
    loss = partial(triplet_loss, margin=keys.MARGIN, norm_feat=keys.NORM_FEAT, hard_mining=keys.HARD_MINING)
    return "loss_triplet", lambda features, people: keys.SCALE * loss(features, people)


def _circle(losses: CfgNode) -> tuple[str, Objective]:
    keys = losses.CIRCLE
    loss = partial(pairwise_circleloss, margin=keys.MARGIN, gamma=keys.GAMMA)
    return "loss_circle", lambda features, people: keys.SCALE * loss(features, people)


def _cosface(losses: CfgNode) -> tuple[str, Objective]:
    keys = losses.COSFACE
    loss = partial(pairwise_cosface, margin=keys.MARGIN, gamma=keys.GAMMA)
    return "loss_cosface", lambda features, people: keys.SCALE * loss(features, people)


# Name in MODEL.LOSSES.NAME -> MODEL.LOSSES -> name in the log, and the loss.
FEATURE_LOSSES = {"TripletLoss": _triplet, "CircleLoss": _circle, "Cosface": _cosface}
