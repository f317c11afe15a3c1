"""Losses, by fast-reid's names and signatures."""

from fastreid.modeling.losses.cross_entropy import cross_entropy_loss
from fastreid.modeling.losses.pairwise import pairwise_circleloss, pairwise_cosface
from fastreid.modeling.losses.triplet import triplet_loss

__all__ = ["cross_entropy_loss", "pairwise_circleloss", "pairwise_cosface", "triplet_loss"]
