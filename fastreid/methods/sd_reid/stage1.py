"""SD-ReID stage 1: a view-aware re-identification model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastreid.config import CfgNode, configurable
from fastreid.methods.sd_reid.encoder import PersonEncoder
from fastreid.methods.sd_reid.person_losses import PersonLosses
from fastreid.methods.sd_reid.person_model import PersonModel
from fastreid.modeling.image_module import as_batch


class SDReIDStage1(PersonModel):
    """A `PersonEncoder` that trains with `PersonLosses`.

    `forward(batch)` returns the weighted losses in training (and moves the view centres), and the BN-neck
    feature [B, D] otherwise.

    Args:
        person: the encoder.
        loss_terms: its losses.
    """

    @configurable
    def __init__(self, *, person: PersonEncoder, loss_terms: PersonLosses) -> None:
        super().__init__()
        self.person, self.loss_terms = person, loss_terms
        loss_terms.freeze_unused(person)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config; errors as of `PersonEncoder`."""
        person = PersonEncoder(cfg)
        return {"person": person, "loss_terms": PersonLosses.from_config(cfg, person)}

    def forward(self, batch: Mapping[str, Any] | Tensor) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and retrieval features otherwise.

        Args:
            batch: `images`, and in training `targets` and `viewids`; or images, in eval mode.
        """
        batch = as_batch(batch)
        features = self.person(batch["images"])
        if not self.training:
            return self.person.neck(features.identity)
        return self.loss_terms.of(self.person, features, batch)
