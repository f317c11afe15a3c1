"""The losses of PISL (section 3): refined labels, smoothed part losses, and the semantic-controlled diffusion loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.methods.pisl.diffusion import DiffusedPatches
from fastreid.utils import comm


def refined_targets(targets: Tensor, part_logits: Tensor, scores: Tensor, weight: float) -> Tensor:
    """Return pseudo-labels that are refined by the predictions of the parts, [B, K], without gradient (loss 1).

    Args:
        targets: clusters [B].
        part_logits: [B, P, K].
        scores: consistency of each part [B, P]; their softmax over the parts weighs the predictions.
        weight: weight of the pseudo-label; the rest is the mean prediction.
    """
    with torch.no_grad():
        hard = F.one_hot(targets, part_logits.shape[2]).to(part_logits.dtype)
        predicted = (scores.softmax(dim=1)[:, :, None] * part_logits.softmax(dim=2)).sum(dim=1)
        return weight * hard + (1 - weight) * predicted


def score_smoothed_loss(part_logits: Tensor, targets: Tensor, scores: Tensor) -> Tensor:
    """Return s CE(p, y) + (1 - s) KL(u || p), the mean over images and parts, with u uniform over K (loss 2).

    Args:
        part_logits: [B, P, K].
        targets: clusters [B].
        scores: s, [B, P].
    """
    log_probs = part_logits.log_softmax(dim=2)
    chosen = targets[:, None, None].expand(-1, part_logits.shape[1], 1)
    cross_entropy = -log_probs.gather(2, chosen)[..., 0]
    log_of_clusters = float(torch.tensor(part_logits.shape[2], dtype=log_probs.dtype).log())
    divergence = -log_probs.mean(dim=2) - log_of_clusters
    return (scores * cross_entropy + (1 - scores) * divergence).mean()


def label_smoothed_loss(part_logits: Tensor, targets: Tensor, epsilon: float) -> Tensor:
    """Return the mean cross-entropy of the parts, with smoothing over all K clusters.

    Args:
        part_logits: [B, P, K].
        targets: clusters [B].
        epsilon: share of the uniform distribution.
    """
    parts = part_logits.shape[1]
    return F.cross_entropy(part_logits.flatten(0, 1), targets.repeat_interleave(parts), label_smoothing=epsilon)


@dataclass(frozen=True)
class DiffusionLoss:
    """The semantic-controlled diffusion loss (loss 5).

    Args:
        target: "step" (one denoising step is compared with theta_{t-1}) or "eps" (the noise is compared).
        consistency_of: "denoised" or "noisy": which theta is compared with theta_0 of the localisation network.
        consistency_weight: weight of that comparison.
        cosine_weight: weight of its cosine part.
        contrast_weight: weight of the contrast of part features.
        temperature: of the contrast.
    """

    target: str
    consistency_of: str
    consistency_weight: float
    cosine_weight: float
    contrast_weight: float
    temperature: float

    def __call__(self, patches: DiffusedPatches, part_features: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms, scalars.

        Args:
            patches: what was diffused and predicted.
            part_features: [B, P, D].
            targets: clusters [B].
        """
        moved = patches.denoised if self.consistency_of == "denoised" else patches.noisy
        contrast, _ = part_contrast(part_features, targets, self.temperature)
        return {
            "diffusion": self.diffusion(patches),
            "consistency": self.consistency_weight * self.consistency(moved, patches.clean),
            "contrast": self.contrast_weight * contrast,
        }

    def diffusion(self, patches: DiffusedPatches) -> Tensor:
        """Return the mean squared error of the denoiser."""
        if self.target == "eps":
            return F.mse_loss(patches.predicted_noise, patches.noise)
        return F.mse_loss(patches.step, patches.step_target)

    def consistency(self, theta: Tensor, clean: Tensor) -> Tensor:
        """Return the squared and the cosine distance of matrices [B, P, 2, 3]."""
        cosine = F.cosine_similarity(theta.flatten(1), clean.flatten(1), dim=1).mean()
        return F.mse_loss(theta, clean) + self.cosine_weight * (1 - cosine)


def part_contrast(part_features: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the supervised contrast of part features, and the weight of each part [P].

    Each part is contrasted with the same part of the other images. A part weighs more if its contrast is smaller. With
    several processes the anchors are those of this process, and their pairs are with the images of all.

    Args:
        part_features: [B, P, D].
        targets: clusters [B].
        temperature: of the softmax over images.
    """
    units = F.normalize(part_features.float(), dim=2).transpose(0, 1)  # [P, B, D]
    others = comm.rows_of_all(units.transpose(0, 1).contiguous()).transpose(0, 1)
    similar = units @ others.transpose(1, 2) / temperature
    positive = (targets[:, None] == comm.rows_of_all(targets)[None, :]).to(similar.dtype)
    log_probs = similar - similar.logsumexp(dim=2, keepdim=True)
    losses = -((positive * log_probs).sum(dim=2) / (positive.sum(dim=1) + 1e-6)).mean(dim=1)  # [P]
    # The weights follow from the losses of all processes, the gradient from those of this one.
    mean = comm.sum_over_processes(losses.detach()) / comm.get_world_size()
    losses = losses + (mean - losses.detach())
    weights = (-losses).softmax(dim=0)
    return (weights * losses).sum(), weights
