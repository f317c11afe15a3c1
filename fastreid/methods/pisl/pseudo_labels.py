"""What the labelling of an epoch leaves for its training steps, and the epoch task that computes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.labeling.centroids import camera_proxies, centroids
from fastreid.labeling.relabel import Labelling, Relabel
from fastreid.methods.pisl.camera_contrast import CameraProxies
from fastreid.methods.pisl.consistency import consistency_scores
from fastreid.methods.pisl.patch_log import PatchLog
from fastreid.modeling.epoch_task import EpochPlan, TrainingSet
from fastreid.retrieval.neighbors import Neighbors
from fastreid.utils import comm
from fastreid.utils.devices import to_device

logger = logging.getLogger(__name__)


class Described(NamedTuple):
    """What the extractor computes for each image.

    Attributes:
        features: global features of unit length, [M, D].
        parts: part features of unit length, [M, P, C].
        theta: matrices of the patches, [M, P, 2, 3]; with fixed stripes P is 0.
    """

    features: Tensor
    parts: Tensor
    theta: Tensor


@dataclass
class EpochState:
    """What the training steps of an epoch read; it is in checkpoints.

    Attributes:
        epoch: the epoch, counted from 0.
        num_clusters: K; 0 before the first labelling.
        scores: consistency of each part of each training image, [N, P]; 0 for images that are left out.
        proxies: of clusters in cameras.
    """

    epoch: int = 0
    num_clusters: int = 0
    scores: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    proxies: CameraProxies = field(
        default_factory=lambda: CameraProxies(torch.zeros(1, 0, 0), torch.zeros(0).long(), torch.zeros(0).long())
    )

    def check(self) -> None:
        """Check that there are labels.

        Raises:
            ConfigError: the training images were not labelled.
        """
        if not self.num_clusters:
            raise ConfigError(
                "PISL trains on clusters, which its epoch task makes before an epoch; train it with tools/train_net.py "
                "or run the tasks of model.epoch_tasks() first"
            )

    def scores_of(self, indices: Tensor, device: torch.device) -> Tensor:
        """Return the scores [B, P] of training images [B]."""
        return to_device(self.scores[indices.cpu()], device)

    def proxies_on(self, device: torch.device) -> CameraProxies:
        """Return the proxies on a device; they are moved once."""
        if self.proxies.features.device != device:
            moved = (part.to(device) for part in (self.proxies.features, self.proxies.clusters, self.proxies.cameras))
            self.proxies = CameraProxies(*moved)
        return self.proxies

    def state_dict(self) -> dict[str, Any]:
        """Return the state for checkpoints."""
        proxies = self.proxies_on(torch.device("cpu"))
        return {
            "epoch": self.epoch,
            "num_clusters": self.num_clusters,
            "scores": self.scores,
            "proxies": (proxies.features, proxies.clusters, proxies.cameras),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.epoch, self.num_clusters, self.scores = state["epoch"], state["num_clusters"], state["scores"]
        self.proxies = CameraProxies(*state["proxies"])


@dataclass(frozen=True)
class ScoreOptions:
    """How consistency is scored: the arguments `k`, `kind`, `search` and `device` of `consistency_scores`."""

    k: int
    kind: str
    search: str
    device: str


class LabelParts:
    """Scores, proxies and classifier rows of a labelling: what `Relabel` calls with each one.

    Args:
        state: receives scores and proxies.
        split: rows of the extractor -> `Described`.
        options: of the scores.
        set_rows: receives the centroids [1 + P][K, D] of global and part features; None keeps the classifiers.
        patch_log: records patches.
        compares_cameras: whether there is a camera loss; a warning is logged if all images are of one camera.
    """

    def __init__(
        self,
        state: EpochState,
        split: Callable[[Tensor], Described],
        options: ScoreOptions,
        set_rows: Callable[[Sequence[Tensor]], None] | None,
        patch_log: PatchLog,
        compares_cameras: bool,
    ) -> None:
        self._state, self._split, self._options = state, split, options
        self._set_rows, self._patch_log, self._compares_cameras = set_rows, patch_log, compares_cameras

    def __call__(self, labelling: Labelling) -> None:
        """Take a labelling over; every process calls this."""
        described, state = self._split(labelling.features), self._state
        if self._compares_cameras and len(labelling.cameras.unique()) == 1:
            logger.warning("all images are of one camera, so that the camera loss is 0; set PISL.CAM.ENABLED False")
            self._compares_cameras = False  # once is enough
        views = [described.features, *described.parts.unbind(1)]
        state.num_clusters = labelling.num_clusters
        state.scores = torch.zeros(labelling.num_images, described.parts.shape[1])
        if described.parts.shape[1]:
            state.scores[labelling.indices] = self._scores(described, labelling.nearest)
        found = [camera_proxies(view, labelling.labels, labelling.cameras) for view in views]
        state.proxies = CameraProxies(torch.stack([proxies for proxies, _, _ in found]), *found[0][1:])
        if self._set_rows is not None:
            self._set_rows([centroids(view, labelling.labels) for view in views])
        self._patch_log.add(state.epoch, labelling.indices, described.theta)

    def _scores(self, described: Described, nearest: Neighbors | None) -> Tensor:
        scores, options = None, self._options
        if comm.is_main_process():
            k = min(options.k, len(described.features) - 1)
            if k < options.k:
                logger.warning(
                    "%d images have fewer than PISL.PSC.KNN %d neighbours each: scores are computed from %d, which "
                    "changes their scale",
                    len(described.features), options.k, k,
                )  # fmt: skip
            scores = consistency_scores(
                described.features,
                described.parts,
                k=k,
                kind=options.kind,
                search=options.search,
                device=options.device,
                nearest=nearest,
            )
        return torch.as_tensor(comm.broadcast(scores))


class RelabelParts(Relabel):
    """Labels all training images anew, and keeps in checkpoints what `LabelParts` computed.

    Args:
        state: receives the epoch.
        patch_log: receives the paths of the images.
        arguments: those of `Relabel`.
    """

    def __init__(self, state: EpochState, patch_log: PatchLog, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._state, self._patch_log = state, patch_log

    def is_due(self, epoch: int) -> bool:
        """Return True for every epoch in which the images are labelled; the training steps read the epoch."""
        self._state.epoch = epoch
        return super().is_due(epoch)

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Label the images; see `Relabel.run`."""
        self._patch_log.paths = [image.path for image in training_set.images]
        return super().run(training_set)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the labelling, scores, proxies and recorded patches."""
        return {
            **super().state_dict(),
            "epoch_state": self._state.state_dict(),
            "patches": self._patch_log.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._state.load_state_dict(state["epoch_state"])
        self._patch_log.load_state_dict(state["patches"])


def unit_parts(rows: Tensor, *, dim: int, num_parts: int, part_dim: int) -> Described:
    """Split rows [M, D + P C + 6 P'] of the extractor.

    Args:
        rows: float32.
        dim: D.
        num_parts: P.
        part_dim: C.
    """
    features, parts, theta = rows.split([dim, num_parts * part_dim, rows.shape[1] - dim - num_parts * part_dim], dim=1)
    return Described(
        F.normalize(features),
        F.normalize(parts.unflatten(1, (num_parts, part_dim)) if num_parts else parts[:, None, :][:, :0], dim=2),
        theta.unflatten(1, (theta.shape[1] // 6, 2, 3)) if theta.shape[1] else theta.reshape(len(rows), 0, 2, 3),
    )


class PartExtractor(nn.Module):
    """The model as an extractor of what labelling needs.

    Args:
        model: has `describe(batch, with_parts)`, which returns rows [B, E].
        with_parts: whether the rows have part features and matrices, too.
    """

    def __init__(self, model: nn.Module, *, with_parts: bool = True) -> None:
        super().__init__()
        self.model, self.with_parts = model, with_parts

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return rows [B, E]."""
        return self.model.describe(batch, self.with_parts)  # type: ignore[operator]
