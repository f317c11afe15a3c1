"""Losses, with the names and signatures of fast-reid; those of MODEL.LOSSES.NAME are rows of a table."""

from fastreid.modeling.losses.accuracy import log_accuracy
from fastreid.modeling.losses.center import CenterLoss
from fastreid.modeling.losses.cross_entropy import cross_entropy_loss
from fastreid.modeling.losses.focal import focal_loss
from fastreid.modeling.losses.pairwise import pairwise_circleloss, pairwise_cosface
from fastreid.modeling.losses.table import LOSS_REGISTRY, Loss, LossTerms, loss_options, require_losses
from fastreid.modeling.losses.triplet import triplet_loss

__all__ = [
    "LOSS_REGISTRY",
    "CenterLoss",
    "Loss",
    "LossTerms",
    "cross_entropy_loss",
    "focal_loss",
    "log_accuracy",
    "loss_options",
    "pairwise_circleloss",
    "pairwise_cosface",
    "require_losses",
    "triplet_loss",
]
