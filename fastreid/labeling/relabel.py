"""The epoch task that clusters the training images and gives them the clusters as labels."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.labeling.clustering import Clustering, count_of
from fastreid.labeling.export import export_clusters
from fastreid.labeling.purity import purity_of
from fastreid.labeling.quality import Needs, suspicious, unusable
from fastreid.modeling.epoch_task import EpochPlan, EpochTask, ShapeOf, TrainingSet
from fastreid.retrieval.neighbors import Neighbors
from fastreid.utils import comm
from fastreid.utils.precision import full_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelling:
    """Pseudo-labels of one epoch. All tensors are on the CPU.

    Attributes:
        indices: positions in the training set of the M images that can be read, int64 [M].
        features: what the extractor returned, float32 [M, E].
        labels: clusters int64 [M], 0 … K - 1; -1 for images that are left out.
        cameras: camera of each image, int64 [M].
        num_images: images of the training set, N.
        num_clusters: K.
        nearest: the neighbours by the clustered columns of the features, in the main process, if `Relabel` has
            `num_neighbors` and the clusters are of these features; else None.
    """

    indices: Tensor
    features: Tensor
    labels: Tensor
    cameras: Tensor
    num_images: int
    num_clusters: int
    nearest: Neighbors | None = None


class Relabel(EpochTask):
    """Clusters the features of all training images; the clusters are the labels of the next epochs.

    Each process extracts a part of the features. The main process clusters them.

    Args:
        extractor: in eval mode it returns features [B, E] of a batch.
        clustering: how features are clustered.
        take: what the model does with new labels, as setting its memory; it is called in all processes.
        clustered_dim: number of the first columns of the features that are clustered; None for all.
        num_neighbors: neighbours of each image, itself included, that `take` needs (`Labelling.nearest`); 0 for none.
        period: epochs between two clusterings.
        max_clusters: most clusters.
        min_clusters: fewest clusters.
        exports: whether clusters are written after training.
        exported: as `extractor`, for the clusters that are written: it needs to return the clustered columns only.
            None takes `extractor`.
    """

    in_all_processes = True

    def __init__(
        self,
        extractor: nn.Module,
        clustering: Clustering,
        *,
        take: Callable[[Labelling], None],
        clustered_dim: int | None = None,
        num_neighbors: int = 0,
        period: int = 1,
        max_clusters: int,
        min_clusters: int = 1,
        exports: bool = True,
        exported: nn.Module | None = None,
    ) -> None:
        self._extractor, self._clustering, self._take = extractor, clustering, take
        self._clustered_dim, self._period, self._exports = clustered_dim, period, exports
        self._num_neighbors, self._exported = num_neighbors, exported or extractor
        self._needs = Needs(max_clusters, min_clusters)
        self._has_labels, self._epoch = False, 0

    def is_due(self, epoch: int) -> bool:
        """Return True for every `period`-th epoch, the first one included."""
        self._epoch = epoch
        return epoch % self._period == 0

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Cluster the images, give the labels to the model, and return them; None keeps those of the epoch before.

        Raises:
            ConfigError: the first clusters of a run cannot be trained on.
        """
        start = time.perf_counter()
        indices, features = training_set.features(self._extractor)
        cameras, clusters, nearest = self._clusters(training_set, indices, features, self._num_neighbors)
        labels = self._clustering.settle(clusters)
        self._log(training_set, indices, clusters, time.perf_counter() - start)
        if not self._is_usable(labels, clusters):
            return None
        with full_precision():
            num_images, num_clusters = len(training_set.images), count_of(labels)
            self._take(Labelling(indices, features, labels, cameras, num_images, num_clusters, nearest))
        self._has_labels = True
        plan = torch.full((len(training_set.images),), -1)
        plan[indices] = labels
        return EpochPlan(plan.tolist())

    def rehearse(self, training_set: TrainingSet, shape_of: ShapeOf) -> None:
        """Give the model clusters of random features, as many as if each had 16 images."""
        images = training_set.images
        num_clusters = min(max(len(images) // 16, 2), self._needs.max_clusters)
        indices = torch.arange(min(4 * num_clusters, len(images)))
        features = torch.rand(len(indices), shape_of(self._extractor, training_set.batches(images))[1])
        cameras = torch.tensor([images[index].camera for index in indices.tolist()])
        self._take(Labelling(indices, features, indices % num_clusters, cameras, len(images), num_clusters))

    def _clusters(
        self, training_set: TrainingSet, indices: Tensor, features: Tensor, num_neighbors: int = 0
    ) -> tuple[Tensor, Tensor, Neighbors | None]:
        """Return cameras [M], clusters [M] and `Labelling.nearest` of images [M] with features [M, E]."""
        cameras = torch.tensor([training_set.images[index].camera for index in indices.tolist()])
        found = nearest = None
        if comm.is_main_process():
            clustered = features[:, : self._clustered_dim]
            with full_precision():
                if num_neighbors:
                    nearest = self._clustering.neighbors(clustered, min(num_neighbors, len(clustered)))
                found = self._clustering.find(clustered, cameras, nearest)
        return cameras, comm.broadcast(found), nearest

    def _is_usable(self, labels: Tensor, clusters: Tensor) -> bool:
        if why := unusable(labels, self._clustering, self._needs):
            if not self._has_labels:
                raise ConfigError(f"before epoch {self._epoch}: {why}")
            logger.warning("epoch %d keeps the labels of the epoch before it: %s", self._epoch, why)
            return False
        if what := suspicious(clusters, self._clustering):
            logger.warning("epoch %d: %s", self._epoch, what)
        return True

    def _log(self, training_set: TrainingSet, indices: Tensor, clusters: Tensor, seconds: float) -> None:
        if not comm.is_main_process():
            return
        sizes = clusters[clusters >= 0].bincount()
        text = f"{len(sizes)} clusters of {int(sizes.sum())} images"
        if len(sizes):
            text += f" (least {sizes.min()}, median {sizes.median()}, most {sizes.max()})"
        text += f", {int((clusters < 0).sum())} outliers"
        people = torch.tensor(training_set.people)[indices]
        if (purity := purity_of(clusters, people)) is not None:
            text += (
                f"; compared with the person labels: NMI {purity.nmi:.3f}, pairs F {purity.f_score:.3f} "
                f"(precision {purity.precision:.3f}, recall {purity.recall:.3f})"
            )
        logger.info("epoch %d: %s; %.1f s", self._epoch, text, seconds)

    def after_training(self, training_set: TrainingSet, folder: Path) -> None:
        """Write the clusters of the trained model; see `export_clusters`.

        Args:
            training_set: the training images.
            folder: where clusters.csv and the folder clusters are written.
        """
        if not self._exports:
            return
        indices, features = training_set.features(self._exported)
        _, clusters, _ = self._clusters(training_set, indices, features)
        if comm.is_main_process():
            paths = [training_set.images[index].path for index in indices.tolist()]
            export_clusters(folder, paths, features[:, : self._clustered_dim], clusters)

    def state_dict(self) -> dict[str, Any]:
        """Return whether the run has labels of clusters."""
        return {"has_labels": self._has_labels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self._has_labels = state["has_labels"]
