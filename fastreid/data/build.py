"""Datasets and loaders from a config."""

import gc
import inspect
import os
import sys
from collections.abc import Hashable, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from fastreid.config import CfgNode, ConfigError, image_size, resolve_device
from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.data.common import PersonDataset
from fastreid.data.datasets import DATASET_REGISTRY, DatasetError, ImageDataset
from fastreid.data.images import simplejpeg_is_as_pillow
from fastreid.data.loader import PersonLoader
from fastreid.data.numbered import NumberedDataset, NumberedSampler
from fastreid.data.own_images import load_own_images
from fastreid.data.samplers import SAMPLER_REGISTRY, InferenceSampler
from fastreid.data.skipping import POLICIES, LeavingOut, Replacing, collate
from fastreid.data.transforms import build_transforms
from fastreid.data.transforms.resize import compiled_resize
from fastreid.data.workers import leave_signals_to_parent
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.suggest import explain_choice


def datasets_root(cfg: CfgNode) -> str:
    """`DATASETS.ROOT`, else the environment variable FASTREID_DATASETS, else "datasets"."""
    return os.path.expanduser(cfg.DATASETS.ROOT or os.environ.get("FASTREID_DATASETS") or "datasets")


def build_datasets(cfg: CfgNode, names: str | Sequence[str]) -> list[ImageDataset]:
    """The named datasets, read from `datasets_root`; `csv:FILE` and `folder:FOLDER` are a user's own images.

    Raises:
        DatasetError: what is on disk is not what a name stands for.
    """
    names = [names] if isinstance(names, str) else names  # else each letter would be a name
    return [_build_dataset(name, datasets_root(cfg), _key_with(cfg, name)) for name in names]


def _key_with(cfg: CfgNode, name: str) -> str:
    """The key whose value names this data set, if one does."""
    return next((f"DATASETS.{key}" for key in ("NAMES", "TESTS") if name in cfg.DATASETS[key]), "")


def _build_dataset(name: str, root: str, key: str) -> ImageDataset:
    if ":" in name:
        return load_own_images(name, root)
    make = DATASET_REGISTRY.get(name, key=key)
    takes = inspect.signature(make).parameters
    # Not every class that users wrote for fast-reid asks where the data sets are.
    takes_root = "root" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
    dataset = make(root=root) if takes_root else make()
    dataset.name = dataset.name or name
    return dataset


def build_reid_train_loader(cfg: CfgNode) -> DataLoader:
    """An endless loader over the union of `DATASETS.NAMES`.

    People of different datasets are different classes. The loader carries `iters_per_epoch` and the data sets as
    `sources`, its dataset `num_classes`. Batches hold `SOLVER.IMS_PER_BATCH` images over all processes.

    Raises:
        ConfigError: no data set is named, the batch does not divide over the processes, the sampler cannot fill one, a
            benchmark is named twice, or a key has no legal value.
        DatasetError: a data set without training images.
    """
    if not cfg.DATASETS.NAMES:
        raise ConfigError("DATASETS.NAMES is empty: name at least one data set to train on")
    sources = build_datasets(cfg, cfg.DATASETS.NAMES)
    _check_sources(sources)
    images, people, sets = [], [], []
    for number, dataset in enumerate(sources):
        pairs = dataset.training_people(cfg.DATASETS.COMBINEALL)
        sets += [number] * len(pairs)
        images += [image for image, _ in pairs]
        people += [(dataset.name, who) for _, who in pairs]
    class_of = {person: index for index, person in enumerate(sorted(set(people), key=_in_order))}
    labels = [class_of[person] for person in people]

    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH={cfg.SOLVER.IMS_PER_BATCH} must divide over {world_size} processes")
    sampler = _build_sampler(
        cfg,
        labels,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        mini_batch_size=cfg.SOLVER.IMS_PER_BATCH // world_size,
        num_instances=cfg.DATALOADER.NUM_INSTANCE,
        seed=cfg.MODEL.SEED,
        rank=comm.get_rank(),
        world_size=world_size,
        cameras=[image.camera for image in images],
        views=[int(image.view) for image in images],
        sets=sets,
        set_weight=cfg.DATALOADER.SET_WEIGHT,
    )
    people_seen = PersonDataset(images, build_transforms(cfg, is_train=True), labels, as_bytes=True)
    if _skips(cfg):
        people_seen = Replacing(people_seen)
    loader = _loader(
        cfg,
        NumberedDataset(people_seen, cfg.MODEL.SEED, cfg.SOLVER.IMS_PER_BATCH),
        image_size=image_size(cfg),
        batch_size=cfg.SOLVER.IMS_PER_BATCH // world_size,
        sampler=NumberedSampler(sampler, cfg.SOLVER.IMS_PER_BATCH, rank=comm.get_rank(), world_size=world_size),
        drop_last=True,
    )
    loader.sources = sources
    loader.iters_per_epoch = max(1, len(images) // cfg.SOLVER.IMS_PER_BATCH)
    return loader


def _build_sampler(cfg: CfgNode, labels: Sequence[int], **known: Any) -> Any:
    """`DATALOADER.SAMPLER_TRAIN`, given what it asks for of what is known of the images.

    Raises:
        ConfigError: DATALOADER.SET_WEIGHT is given and the sampler does not ask for it.
    """
    make = SAMPLER_REGISTRY.get(cfg.DATALOADER.SAMPLER_TRAIN, key="DATALOADER.SAMPLER_TRAIN")
    asked = inspect.signature(make).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in asked.values())
    if known["set_weight"] and "set_weight" not in asked and not takes_all:
        raise ConfigError(
            f"DATALOADER.SET_WEIGHT is {list(known['set_weight'])}, but {cfg.DATALOADER.SAMPLER_TRAIN} does not weigh "
            "data sets: take DATALOADER.SAMPLER_TRAIN SetReWeightSampler, or leave it empty"
        )
    return make(labels, **{name: value for name, value in known.items() if takes_all or name in asked})


def _check_sources(sources: Sequence[ImageDataset]) -> None:
    """The same people twice would be different classes; and somebody there must be."""
    named: dict[str, str] = {}
    for dataset in sources:
        home = BENCHMARK_OF[dataset.name].name if dataset.name in BENCHMARK_OF else dataset.name
        if getattr(dataset, "place", ""):  # csv:people.csv and csv:./people.csv are one
            home = os.path.realpath(dataset.place)
        if home in named:
            raise ConfigError(
                f"DATASETS.NAMES has {named[home]} and {dataset.name}, which train on the same people; name one of them"
            )
        named[home] = dataset.name
    for dataset in sources:
        if not dataset.train and not dataset.combineall:
            raise DatasetError(f"{dataset.name} has no training images")


def _in_order(person: tuple[str, Hashable]) -> tuple[str, bool, Hashable]:
    """By data set, then by number, people of query and gallery before those who were named."""
    name, who = person
    return (name, isinstance(who, tuple), who)


def build_feature_loader(cfg: CfgNode, images: Sequence[PersonImage]) -> DataLoader:
    """A loader over `images`, in order, with the test transforms; `targets` are the person ids.

    With DATALOADER.BAD_IMAGES "skip" it leaves out what cannot be read; afterwards `skipped` has {path: reason}.
    """
    dataset = PersonDataset(images, build_transforms(cfg, is_train=False), as_bytes=True)
    return _loader(
        cfg,
        LeavingOut(dataset) if _skips(cfg) else dataset,
        image_size=image_size(cfg, is_train=False),
        batch_size=cfg.TEST.IMS_PER_BATCH,
    )


def build_reid_test_loader(cfg: CfgNode, dataset_name: str) -> tuple[DataLoader, int]:
    """Query then gallery of one dataset, and how many of them are queries; of several processes, each its part."""
    (dataset,) = build_datasets(cfg, [dataset_name])
    images = [*dataset.query, *dataset.gallery]
    return build_feature_loader(cfg, [images[index] for index in InferenceSampler(len(images))]), len(dataset.query)


def _begin_worker(worker: int) -> None:
    leave_signals_to_parent()
    gc.freeze()  # what was there before is not looked through, nor copied page by page, at every collection


def _skips(cfg: CfgNode) -> bool:
    policy = cfg.DATALOADER.BAD_IMAGES
    if policy not in POLICIES:
        raise ConfigError(explain_choice("DATALOADER.BAD_IMAGES", policy, POLICIES))
    return policy == "skip"


def _loader(cfg: CfgNode, dataset: Dataset, **options: object) -> PersonLoader:
    # Found out, and told, once for all workers.
    compiled_resize()
    simplejpeg_is_as_pillow()
    device = resolve_device(cfg.MODEL.DEVICE)
    return PersonLoader(
        dataset,
        device=device,
        collate_fn=collate if _skips(cfg) else None,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        timeout=cfg.DATALOADER.TIMEOUT if cfg.DATALOADER.NUM_WORKERS else 0,
        # A process that was spawned, as those of several are, would spawn its workers, too: seconds for each loader.
        multiprocessing_context="fork" if cfg.DATALOADER.NUM_WORKERS and sys.platform == "linux" else None,
        pin_memory=device.startswith("cuda"),
        persistent_workers=False,
        worker_init_fn=_begin_worker,
        **options,
    )
