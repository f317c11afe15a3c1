"""Identity losses on generated vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid.modeling.losses import cross_entropy_loss, triplet_loss


class GeneratedLosses(nn.Module):
    """Cross-entropy over people and triplet loss, each over real and generated latents together.

    DiffReID (Wang et al.) trains its generator with both. The triplet loss has a soft margin and hard pairs, which may
    be of a real and a generated latent.

    Args:
        dim: D.
        num_classes: number of people.
        ce_weight: weight of the cross-entropy, with a linear classifier of its own; 0 leaves it out.
        triplet_weight: weight of the triplet loss; 0 leaves it out.
    """

    def __init__(self, dim: int, num_classes: int, *, ce_weight: float, triplet_weight: float) -> None:
        super().__init__()
        self.ce_weight, self.triplet_weight = ce_weight, triplet_weight
        self.classifier: nn.Linear | None = None
        if ce_weight:
            self.classifier = nn.Linear(dim, num_classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, real: Tensor, generated: Tensor, people: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses.

        Args:
            real: [B, D], latents of the images.
            generated: [B, D], latents that are generated from the images.
            people: [B], class labels.
        """
        latents, labels = torch.cat([real, generated]).float(), people.repeat(2)
        losses = {}
        with torch.autocast(latents.device.type, enabled=False):
            if self.classifier is not None:
                loss = cross_entropy_loss(self.classifier(latents), labels, eps=0.0)
                losses["loss_generated_identity"] = self.ce_weight * loss
            if self.triplet_weight:
                loss = triplet_loss(latents, labels, margin=0.0, norm_feat=False, hard_mining=True)
                losses["loss_generated_triplet"] = self.triplet_weight * loss
        return losses
