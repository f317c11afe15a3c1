"""Correlation-aware conditions: prompts of people, mixed by what the re-identification model says (section 4.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.modeling.prototypes import PrototypeMemory

_NARROW = 96  # width between the two linear layers of the bottleneck "net"


class IdentityCondition(nn.Module):
    """A table of prompts, and the condition c = p E that its rows are mixed to.

    E [C, K] has one prompt per person. p [B, C] are probabilities: softmax(logits / tau) of the classifier ("fc"),
    softmax(z M^T / temperature) of the prototypes M ("pcl"), or the mean of both ("fc+pcl"). With "feature", p is the
    retrieval feature z [B, D] itself and E is [D, K]. With `hard_label`, c is the prompt of the true person.

    Args:
        source: "fc", "pcl", "fc+pcl" or "feature".
        num_classes: C.
        feature_dim: D.
        dim: K, width of the UNet's tokens.
        tau: temperature of the classifier's probabilities.
        init_std: standard deviation of the initial prompts.
        bottleneck: "identity", "silu", "bn", "bn_silu" or "net".
        hard_label: take the prompt of the true person.
        detached: let no gradient flow to p.

    Raises:
        ConfigError: `hard_label` with the source "feature", which has no prompts of people, or no classes.
    """

    def __init__(
        self,
        *,
        source: str,
        num_classes: int,
        feature_dim: int,
        dim: int,
        tau: float = 1.0,
        init_std: float = 1.0,
        bottleneck: str = "identity",
        hard_label: bool = False,
        detached: bool = False,
    ) -> None:
        super().__init__()
        if hard_label and source == "feature":
            raise ConfigError(
                'DCAC.COND.HARD_LABEL takes the prompt of the true person, and with DCAC.COND.SOURCE "feature" people '
                "have no prompts: set one of them to its default"
            )
        if num_classes < 1:
            raise ConfigError(f"prompts need at least one person, got MODEL.HEADS.NUM_CLASSES {num_classes}")
        self.source, self.tau, self.hard_label, self.detached = source, tau, hard_label, detached
        rows = feature_dim if source == "feature" else num_classes
        table = nn.Parameter(torch.empty(rows, dim).normal_(std=init_std))
        # The name of the prompts of people tells checkpoints that their number depends on the training data.
        self.register_parameter("table" if source == "feature" else "class_prompts", table)
        self.bottleneck = _bottleneck(bottleneck, dim, init_std)

    @property
    def prompts(self) -> nn.Parameter:
        """E, [C, K] or [D, K]."""
        return self.table if self.source == "feature" else self.class_prompts  # type: ignore[return-value]

    def weights(self, logits: Tensor, features: Tensor, memory: PrototypeMemory | None) -> Tensor:
        """Return p, [B, C] or [B, D].

        Args:
            logits: of the classifier, [B, C].
            features: retrieval features of unit length [B, D].
            memory: the prototypes; the sources with "pcl" need them.
        """
        if self.source == "feature":
            return features
        found = []
        if "fc" in self.source:
            found.append((logits / self.tau).softmax(dim=1))
        if "pcl" in self.source:
            assert memory is not None
            found.append(memory.logits(features).softmax(dim=1))
        return torch.stack(found).mean(dim=0)

    def forward(self, logits: Tensor, features: Tensor, targets: Tensor, memory: PrototypeMemory | None) -> Tensor:
        """Return conditions of one token each, [B, 1, K], in float32.

        Args:
            logits: of the classifier, [B, C].
            features: retrieval features of unit length [B, D].
            targets: classes [B].
            memory: the prototypes, or None.
        """
        if self.hard_label:
            # The release computes (p_y E_y) / p_y, which is NaN where p_y is 0.
            mixed = F.embedding(targets, self.prompts)
        else:
            weights = self.weights(logits, features, memory)
            mixed = (weights.detach() if self.detached else weights) @ self.prompts
        return self.bottleneck(mixed)[:, None]


def _bottleneck(name: str, dim: int, init_std: float) -> nn.Module:
    if name != "net":
        layers: dict[str, list[nn.Module]] = {"identity": [], "silu": [nn.SiLU()], "bn": [nn.BatchNorm1d(dim)]}
        layers["bn_silu"] = [nn.BatchNorm1d(dim), nn.SiLU()]
        return nn.Sequential(*layers[name])
    linear = [nn.Linear(dim, _NARROW, bias=False), nn.Linear(_NARROW, dim, bias=False)]
    for layer in linear:
        nn.init.normal_(layer.weight, std=init_std)
    return nn.Sequential(nn.BatchNorm1d(dim), nn.SiLU(), linear[0], nn.BatchNorm1d(_NARROW), nn.SiLU(), linear[1])
