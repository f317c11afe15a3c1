"""What both stages of SD-ReID declare about their `PersonEncoder`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastreid.methods.sd_reid.encoder import PersonEncoder
from fastreid.methods.sd_reid.release import from_release
from fastreid.modeling.model import RatePart, ReidModel
from fastreid.structures import PersonImage
from fastreid.utils.state_dicts import State


class PersonModel(ReidModel):
    """Base class of the stages: a model with an encoder called `person`."""

    person: PersonEncoder

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.person.device

    def adapt_checkpoint(self, state: State) -> State:
        """Translate the names of checkpoints of the SD-ReID release."""
        return from_release(state)

    def check_data(self, images: Sequence[PersonImage]) -> None:
        """Check that every view of the images has a place in the memory bank.

        Raises:
            ConfigError: an image is of another view.
        """
        self.person.check_views(images)

    def rate_parts(self) -> Sequence[RatePart]:
        """Return both heads, which train at SOLVER.HEADS_LR_FACTOR."""
        return self.person.rate_parts()
