"""Builds the clustering of the training images from the config."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from fastreid.config import CfgNode, resolve_device
from fastreid.data.samplers import SAMPLER_REGISTRY
from fastreid.labeling.clustering import Clustering
from fastreid.labeling.relabel import Labelling, Relabel


def build_clustering(cfg: CfgNode) -> Clustering:
    """Return the clustering of the keys CLUSTER.

    Raises:
        RegistryError: there is no clustering CLUSTER.METHOD.
    """
    keys = cfg.CLUSTER
    return Clustering(
        method=keys.METHOD,
        k1=keys.K1,
        k2=keys.K2,
        eps=keys.EPS,
        min_samples=keys.MIN_SAMPLES,
        keeps_outliers=keys.OUTLIERS == "single",
        is_camera_aware=keys.CAMERA_AWARE,
        search=keys.KNN_BACKEND,
        device=resolve_device(cfg.MODEL.DEVICE),
    )


def build_relabel(
    cfg: CfgNode,
    extractor: nn.Module,
    take: Callable[[Labelling], None],
    clustered_dim: int | None = None,
    num_neighbors: int = 0,
    make: Callable[..., Relabel] = Relabel,
) -> Relabel:
    """Return the epoch task that clusters the training images as the config says.

    Args:
        cfg: the config.
        extractor: as of `Relabel`.
        take: as of `Relabel`.
        clustered_dim: as of `Relabel`.
        num_neighbors: as of `Relabel`.
        make: the class, or a function with its arguments.

    Raises:
        RegistryError: there is no clustering CLUSTER.METHOD, or no sampler DATALOADER.SAMPLER_TRAIN.
    """
    sampler = SAMPLER_REGISTRY.get(cfg.DATALOADER.SAMPLER_TRAIN, key="DATALOADER.SAMPLER_TRAIN")
    has_groups = "num_instances" in inspect.signature(sampler).parameters
    return make(
        extractor,
        build_clustering(cfg),
        take=take,
        clustered_dim=clustered_dim,
        num_neighbors=num_neighbors,
        period=cfg.CLUSTER.PERIOD,
        max_clusters=cfg.MODEL.HEADS.MAX_CLUSTERS,
        min_clusters=cfg.SOLVER.IMS_PER_BATCH // cfg.DATALOADER.NUM_INSTANCE if has_groups else 1,
        exports=cfg.CLUSTER.EXPORT,
    )
