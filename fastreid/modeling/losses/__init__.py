"""Losses, by fast-reid's names and signatures."""

from fastreid.modeling.losses.cross_entropy import cross_entropy_loss
from fastreid.modeling.losses.triplet import triplet_loss

__all__ = ["cross_entropy_loss", "triplet_loss"]
