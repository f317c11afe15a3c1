"""Cluster Contrast: the loss of a feature and the prototypes of all clusters (Dai et al., ACCV 2022).

Before an epoch the images are clustered. The unit centres of the clusters are the prototypes. In training, each feature
is compared with all of them, and moves the prototype of its cluster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, configurable
from fastreid.config.tree import with_values
from fastreid.labeling.build import build_relabel
from fastreid.labeling.centroids import centroids
from fastreid.labeling.relabel import Labelling, Relabel
from fastreid.modeling.backbones import build_backbone, with_feature_dim
from fastreid.modeling.epoch_task import EpochTask
from fastreid.modeling.heads import EmbeddingHead, build_heads
from fastreid.modeling.image_module import ImageModule
from fastreid.modeling.model import ReidModel
from fastreid.modeling.prototypes import ClusterMemory
from fastreid.utils.state_dicts import State

MakeRelabel = Callable[[nn.Module, Callable[[Labelling], None]], Relabel]
"""(model, what it does with new labels) -> the epoch task that clusters the training images."""


class ClusterContrast(ImageModule, ReidModel):
    """Images -> backbone -> pooling and BN neck, with a memory of clusters.

    `forward(batch)` returns the contrastive loss in training, and features of unit length [B, D] otherwise.

    Args:
        backbone: normalised images [B, 3, H, W] -> maps [B, C, h, w].
        heads: pooling and BN neck; its classifier has no classes.
        memory: the prototypes; None for a model that is only evaluated.
        make_relabel: makes the epoch task that clusters the training images.
        pixel_mean: mean of each channel of images in 0..255.
        pixel_std: standard deviation of each channel.
    """

    needs_labels = False

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        heads: EmbeddingHead,
        memory: ClusterMemory | None,
        make_relabel: MakeRelabel,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone, self.heads, self.memory = backbone, heads, memory
        self.make_relabel = make_relabel

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config.

        Raises:
            ConfigError: a key has an impossible value, or the head is not an EmbeddingHead.
        """
        backbone = build_backbone(cfg)
        heads = build_heads(with_values(with_feature_dim(cfg, backbone), {"MODEL.HEADS.NUM_CLASSES": 0}))
        if not isinstance(heads, EmbeddingHead):
            raise ConfigError(f"ClusterContrast needs the neck of an EmbeddingHead, got {cfg.MODEL.HEADS.NAME}")
        heads.class_weights.requires_grad_(False)
        rows, keys = cfg.MODEL.HEADS.MAX_CLUSTERS, cfg.MODEL.LOSSES.CLUSTER
        options = {"temperature": keys.TEMPERATURE, "momentum": keys.MOMENTUM, "update": keys.UPDATE}
        return {
            "backbone": backbone,
            "heads": heads,
            "memory": ClusterMemory(rows, heads.class_weights.shape[1], **options) if rows else None,
            "make_relabel": functools.partial(build_relabel, cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def evaluation_config(cls, cfg: CfgNode) -> CfgNode:
        """Return the config without a memory."""
        return with_values(cfg, {"MODEL.HEADS.MAX_CLUSTERS": 0})

    def forward(self, batch: Any) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and retrieval features otherwise.

        Args:
            batch: a batch (`images`, in training `targets`, clusters) or images, in eval mode.

        Raises:
            ConfigError: in training, without a memory.
        """
        maps = self.backbone(self.preprocess_image(batch))
        with torch.autocast(maps.device.type, enabled=False):
            features = F.normalize(self.heads.embed(maps)[1])
            if not self.training:
                return features
            if self.memory is None:
                raise ConfigError("training needs a memory of clusters, but MODEL.HEADS.MAX_CLUSTERS is 0")
            targets = batch["targets"].to(self.device)
            losses = {"loss_cluster": self.memory(features, targets)}
            self.memory.update(features, targets, batch.get("position"))
        return losses

    def epoch_tasks(self) -> Sequence[EpochTask]:
        """Return the clustering of the training images, whose centres become the memory."""
        return [self.make_relabel(self, self.take)]

    def take(self, labelling: Labelling) -> None:
        """Set the memory to the centres of new clusters."""
        if self.memory is not None:
            self.memory.restart(centroids(labelling.features, labelling.labels))

    def adapt_checkpoint(self, state: State) -> State:
        """Leave out the memory if the model has none."""
        if self.memory is not None:
            return state
        return {name: value for name, value in state.items() if not name.startswith("memory.")}
