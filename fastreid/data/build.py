"""Datasets and loaders from a config."""

import os
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from fastreid.config import CfgNode, ConfigError, resolve_device
from fastreid.data.common import PersonDataset
from fastreid.data.datasets import DATASET_REGISTRY, ImageDataset
from fastreid.data.own_images import load_own_images
from fastreid.data.samplers import SAMPLER_REGISTRY
from fastreid.data.transforms import build_transforms
from fastreid.structures import PersonImage
from fastreid.utils import comm


def datasets_root(cfg: CfgNode) -> str:
    """`DATASETS.ROOT`, else the environment variable FASTREID_DATASETS, else "datasets"."""
    return os.path.expanduser(cfg.DATASETS.ROOT or os.environ.get("FASTREID_DATASETS") or "datasets")


def build_datasets(cfg: CfgNode, names: Sequence[str]) -> list[ImageDataset]:
    """The named datasets, read from `datasets_root`; `csv:FILE` and `folder:FOLDER` are a user's own images.

    Raises:
        DatasetError: what is on disk is not what a name stands for.
    """
    return [_build_dataset(name, datasets_root(cfg)) for name in names]


def _build_dataset(name: str, root: str) -> ImageDataset:
    if ":" in name:
        return load_own_images(name, root)
    dataset = DATASET_REGISTRY.get(name)(root=root)
    dataset.name = dataset.name or name
    return dataset


def build_reid_train_loader(cfg: CfgNode) -> DataLoader:
    """An endless loader over the union of `DATASETS.NAMES`.

    People of different datasets are different classes. The loader carries `iters_per_epoch` and the data sets as
    `sources`, its dataset `num_classes`. Batches hold `SOLVER.IMS_PER_BATCH` images over all processes.

    Raises:
        ConfigError: the batch does not divide over the processes, or the sampler cannot fill one.
    """
    images, people, sources = [], [], build_datasets(cfg, cfg.DATASETS.NAMES)
    for dataset in sources:
        extra = [*dataset.query, *dataset.gallery] if cfg.DATASETS.COMBINEALL else []
        kept = [image for image in [*dataset.train, *extra] if image.person >= 0]
        images += kept
        people += [(dataset.name, image.person) for image in kept]
    class_of = {person: index for index, person in enumerate(sorted(set(people)))}
    labels = [class_of[person] for person in people]

    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH={cfg.SOLVER.IMS_PER_BATCH} must divide over {world_size} processes")
    batch_size = cfg.SOLVER.IMS_PER_BATCH // world_size
    sampler = SAMPLER_REGISTRY.get(cfg.DATALOADER.SAMPLER_TRAIN)(
        labels,
        batch_size=batch_size,
        num_instances=cfg.DATALOADER.NUM_INSTANCE,
        seed=cfg.MODEL.SEED,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    loader = _loader(
        cfg,
        PersonDataset(images, build_transforms(cfg, is_train=True), labels),
        batch_size=batch_size,
        sampler=sampler,
        drop_last=True,
        # Workers draw their augmentations from this: another stream on every rank.
        generator=torch.Generator().manual_seed(cfg.MODEL.SEED + comm.get_rank()),
    )
    loader.sources = sources
    loader.iters_per_epoch = max(1, len(images) // cfg.SOLVER.IMS_PER_BATCH)
    return loader


def build_feature_loader(cfg: CfgNode, images: Sequence[PersonImage]) -> DataLoader:
    """A loader over `images`, in order, with the test transforms; `targets` are the person ids."""
    dataset = PersonDataset(images, build_transforms(cfg, is_train=False))
    return _loader(cfg, dataset, batch_size=cfg.TEST.IMS_PER_BATCH)


def build_reid_test_loader(cfg: CfgNode, dataset_name: str) -> tuple[DataLoader, int]:
    """Query then gallery of one dataset, and how many of them are queries."""
    (dataset,) = build_datasets(cfg, [dataset_name])
    return build_feature_loader(cfg, [*dataset.query, *dataset.gallery]), len(dataset.query)


def _loader(cfg: CfgNode, dataset: PersonDataset, **options: object) -> DataLoader:
    return DataLoader(
        dataset,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=resolve_device(cfg.MODEL.DEVICE).startswith("cuda"),
        persistent_workers=False,
        **options,
    )
