"""Prototypes of people or clusters: their contrastive loss, and their updates.

Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification" (ACCV 2022), which DCAC takes over (its section
4.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.utils import comm
from fastreid.utils.devices import ReadOnce, to_device
from fastreid.utils.errors import ArgumentError


class PrototypeMemory(nn.Module):
    """One prototype of unit length per person. Prototypes are buffers: they are saved and not trained.

    With several processes each update uses the features of all of them.

    Args:
        num_classes: C.
        feature_dim: D.
        temperature: of the softmax over prototypes.
        momentum: weight of the old prototype in an update.
        update: "hard" (the feature of a batch that is most unlike the prototype moves it) or "all" (one after another).

    Raises:
        ArgumentError: no classes.
    """

    class_prototypes: Tensor

    def __init__(self, num_classes: int, feature_dim: int, *, temperature: float, momentum: float, update: str) -> None:
        super().__init__()
        if num_classes < 1:
            raise ArgumentError(f"prototypes need at least one class, got num_classes={num_classes}")
        self.temperature, self.momentum = temperature, momentum
        self._move = {"hard": self._by_hardest, "all": self._by_all}[update]
        self.register_buffer("class_prototypes", torch.zeros(num_classes, feature_dim))

    @property
    def prototypes(self) -> Tensor:
        """The prototypes that are in use, [C, D]."""
        return self.class_prototypes

    def logits(self, features: Tensor) -> Tensor:
        """Return cosines over temperature [B, C] of features of unit length [B, D], in float32.

        Gradients use the prototypes as they are now: a later `update` does not change them.
        """
        return features.float() @ self.prototypes.clone().T / self.temperature

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the contrastive loss, a scalar: the cross-entropy of `logits`.

        Args:
            features: [B, D], of unit length.
            targets: classes [B].
        """
        return F.cross_entropy(self.logits(features), targets)

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor, positions: Tensor | None = None) -> None:
        """Move the prototypes of the people of a batch.

        Args:
            features: [B, D], of unit length.
            targets: classes [B].
            positions: [B], positions in the batch of all processes; by default their ranks follow each other.
        """
        features, targets = comm.rows_of_all(features.detach().float()), comm.rows_of_all(targets)
        if positions is not None and comm.is_distributed():
            order = comm.rows_of_all(to_device(positions, features.device)).argsort()
            features, targets = features[order], targets[order]
        self._move(features, targets)

    def _by_hardest(self, features: Tensor, targets: Tensor) -> None:
        """Move each prototype towards the feature of its person that has the lowest cosine with it."""
        own = self.class_prototypes[targets]
        cosines = (features * own).sum(dim=1)
        same = targets[:, None] == targets[None, :]
        hardest = torch.where(same, cosines[None, :], torch.inf).argmin(dim=1)
        # Rows of one person are equal, so the order in which they are written does not matter.
        self.class_prototypes[targets] = self._mixed(own, features[hardest])

    def _by_all(self, features: Tensor, targets: Tensor) -> None:
        """Move prototypes by every feature, in the order of the batch."""
        # Parts of one row: a single number as an index would be read from the GPU.
        for feature, target in zip(features.split(1), targets.split(1), strict=True):
            self.class_prototypes[target] = self._mixed(self.class_prototypes[target], feature)

    def _mixed(self, old: Tensor, new: Tensor) -> Tensor:
        return F.normalize(self.momentum * old + (1 - self.momentum) * new, dim=-1)

    @torch.no_grad()
    def rebuild(self, features: Tensor, targets: Tensor) -> None:
        """Set each prototype to the mean feature of its person, scaled to unit length.

        Args:
            features: [N, D], of unit length.
            targets: classes [N]; a class without features keeps its prototype.
        """
        features, targets = features.to(self.class_prototypes), targets.to(self.class_prototypes.device)
        sums = torch.zeros_like(self.class_prototypes).index_add_(0, targets, features)
        counts = torch.bincount(targets, minlength=len(sums))[:, None]
        self.class_prototypes.copy_(torch.where(counts > 0, F.normalize(sums, dim=1), self.class_prototypes))


class ClusterMemory(PrototypeMemory):
    """One prototype of unit length per cluster, for a number of clusters that changes between epochs.

    Args:
        max_clusters: most clusters.
        feature_dim: D.
        temperature: as of `PrototypeMemory`.
        momentum: as of `PrototypeMemory`.
        update: as of `PrototypeMemory`.
    """

    num_clusters: Tensor

    def __init__(
        self, max_clusters: int, feature_dim: int, *, temperature: float, momentum: float, update: str
    ) -> None:
        super().__init__(max_clusters, feature_dim, temperature=temperature, momentum=momentum, update=update)
        self.register_buffer("num_clusters", torch.zeros((), dtype=torch.int64))
        self._count = ReadOnce(int)

    @property
    def prototypes(self) -> Tensor:
        """The prototypes of the clusters there are, [K, D]."""
        return self.class_prototypes[: self._count(self.num_clusters)]

    @torch.no_grad()
    def restart(self, prototypes: Tensor) -> None:
        """Replace all prototypes.

        Args:
            prototypes: [K, D], of unit length.

        Raises:
            ArgumentError: there are more than `max_clusters`.
        """
        if len(prototypes) > len(self.class_prototypes):
            raise ArgumentError(f"{len(prototypes)} clusters do not fit a memory of {len(self.class_prototypes)}")
        self.class_prototypes.zero_()
        self.class_prototypes[: len(prototypes)] = prototypes.to(self.class_prototypes)
        self.num_clusters.fill_(len(prototypes))
