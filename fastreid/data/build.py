"""Datasets and loaders from a config."""

from __future__ import annotations

import gc
import inspect
import logging
import math
import os
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastreid.config import CfgNode, ConfigError, resolve_device
from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.data.dataset import PersonDataset, TrainingDataset, Transform
from fastreid.data.datasets import DATASET_REGISTRY, DatasetError, ImageDataset
from fastreid.data.fit_batch import with_fitted_batch
from fastreid.data.images import simplejpeg_is_as_pillow
from fastreid.data.loader import PersonLoader
from fastreid.data.own_images import load_own_images
from fastreid.data.samplers import SAMPLER_REGISTRY, InferenceSampler, TrainingSampler, draws_groups
from fastreid.data.samplers.draws import Order
from fastreid.data.scan import log_once
from fastreid.data.subset import TrainingPart
from fastreid.data.train_loader import MakeOrder, TrainLoader
from fastreid.data.transforms import build_transforms
from fastreid.data.transforms.resize import compiled_resize
from fastreid.data.workers import leave_signals_to_parent, number_of_workers
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.suggest import explain_choice

logger = logging.getLogger(__name__)


def datasets_root(cfg: CfgNode) -> str:
    """`DATASETS.ROOT`, else the environment variable FASTREID_DATASETS, else "datasets"."""
    return os.path.expanduser(cfg.DATASETS.ROOT or os.environ.get("FASTREID_DATASETS") or "datasets")


def build_datasets(cfg: CfgNode, names: str | Sequence[str]) -> list[ImageDataset]:
    """The named datasets, read from `datasets_root`; `csv:`, `folder:` and `images:PATH` are a user's own images.

    Args:
        cfg: the configuration.
        names: one name, or several.

    Raises:
        DatasetError: the files on disk are not those of a data set of this name, or with DATASETS.SKIP_MISSING none of
            the benchmarks has a folder.
    """
    names = [names] if isinstance(names, str) else names
    if cfg.DATASETS.SKIP_MISSING and names:
        names = _present(cfg, names)
    given = {"root": datasets_root(cfg), "exclude_sources": tuple(cfg.DATASETS.EXCLUDE_SOURCES)}
    return [_build_dataset(name, given, _key_with(cfg, name)) for name in names]


def _present(cfg: CfgNode, names: Sequence[str]) -> list[str]:
    """The names without the benchmarks that have no folder; those are logged."""
    root = datasets_root(cfg)
    missing = [name for name in names if name in BENCHMARK_OF and not BENCHMARK_OF[name].home(root).is_dir()]
    if len(missing) == len(names):
        homes = ", ".join(str(BENCHMARK_OF[name].home(root)) for name in missing)
        key = next((f"DATASETS.{key}" for key in ("NAMES", "TESTS") if list(cfg.DATASETS[key]) == list(names)), "")
        raise DatasetError(
            f"{key or 'DATASETS'}: none of {', '.join(missing)} is there: no folder {homes}. "
            "DATASETS.ROOT or $FASTREID_DATASETS is the folder that contains them"
        )
    for name in missing:
        text = f"{name} is left out, as there is no folder {BENCHMARK_OF[name].home(root)} (DATASETS.SKIP_MISSING)"
        log_once(logger, logging.WARNING, text)
    return [name for name in names if name not in missing]


def _key_with(cfg: CfgNode, name: str) -> str:
    """The key whose value has the name of this data set; "" if none has."""
    return next((f"DATASETS.{key}" for key in ("NAMES", "TESTS") if name in cfg.DATASETS[key]), "")


def _build_dataset(name: str, given: dict[str, Any], key: str) -> ImageDataset:
    if ":" in name:
        return load_own_images(name, given["root"])
    make = DATASET_REGISTRY.get(name, key=key)
    takes = inspect.signature(make).parameters
    # Not every class written for fast-reid has an argument `root`, and only generated sets have sources.
    takes_any = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    dataset = make(**{k: value for k, value in given.items() if k in takes or (takes_any and k == "root")})
    dataset.name = dataset.name or name
    return dataset


def build_reid_train_loader(
    cfg: CfgNode, image_transforms: Mapping[str, Transform] | None = None, *, needs_labels: bool = True
) -> TrainLoader:
    """An endless loader over the union of `DATASETS.NAMES`.

    People of different datasets are different classes. DATASETS.PEOPLE and DATASETS.SUBSET may leave out
    a part of them. Batches hold `SOLVER.IMS_PER_BATCH` images over all processes.

    Args:
        cfg: the configuration.
        image_transforms: name -> transform of further views of each sample, beside "images".
        needs_labels: whether the model needs the person of each image. If not, images may have none, their label is
            -1, and until an epoch task gives a plan all images are drawn in random order, whatever their labels.

    Raises:
        ConfigError: no data set is named, the batch does not divide over the processes, the sampler cannot fill one, a
            benchmark is named twice, labels are needed and missing, or a key has no legal value.
        DatasetError: a data set has no training images.
    """
    found = training_images(cfg, needs_labels=needs_labels)
    cfg = with_fitted_batch(cfg, found.labels, needs_labels=needs_labels)
    world_size, batch_size, seed = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.SEED
    if batch_size < 1 or batch_size % world_size:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH={batch_size} must divide over {world_size} processes")
    dataset = TrainingDataset(
        found.images,
        {"images": build_transforms(cfg, is_train=True), **(image_transforms or {})},
        found.labels,
        seed=seed,
        batch_size=batch_size,
        skip_unreadable=_skips(cfg),
    )
    return TrainLoader(
        dataset,
        _order_maker(cfg, dataset, found.sets),
        first_order=None if needs_labels else _order_without_labels(cfg, found.labels),
        seed=seed,
        batch_size=batch_size,
        rank=comm.get_rank(),
        world_size=world_size,
        sources=found.sources,
        iters_per_epoch=cfg.SOLVER.ITERS_PER_EPOCH or max(1, len(found.images) // batch_size),
        **_loader_options(cfg),
    )


@dataclass(frozen=True)
class TrainingImages:
    """The training images of several data sets.

    Attributes:
        images: the images; cameras of later data sets are numbered behind those of earlier ones.
        labels: the class of each; -1 if its person is not known.
        sets: the number of the data set of each.
        sources: the data sets.
    """

    images: list[PersonImage]
    labels: list[int]
    sets: list[int]
    sources: list[ImageDataset]


def training_images(cfg: CfgNode, *, needs_labels: bool = True) -> TrainingImages:
    """Return the union of `DATASETS.NAMES`, in the order of the training set.

    Args:
        cfg: the configuration.
        needs_labels: whether the person of each image must be known.

    Raises:
        ConfigError: no data set is named, a benchmark is named twice, or labels are needed and missing.
        DatasetError: a data set has no training images.
    """
    if not cfg.DATASETS.NAMES:
        raise ConfigError("DATASETS.NAMES is empty: name at least one data set to train on")
    sources = build_datasets(cfg, cfg.DATASETS.NAMES)
    _check_sources(sources)
    if needs_labels:
        _check_labels(sources)
    union = _union(sources, combineall=cfg.DATASETS.COMBINEALL, part=TrainingPart.from_config(cfg))
    return TrainingImages(*union, sources)


def _union(
    sources: Sequence[ImageDataset], *, combineall: bool, part: TrainingPart
) -> tuple[list[PersonImage], list[int], list[int]]:
    """A part of the training images of all data sets, the class of each, and the number of its data set.

    The class of images whose person is not known is -1.
    Cameras of later data sets are numbered behind those of earlier ones.
    """
    images: list[PersonImage] = []
    people: list[tuple[str, Hashable] | None] = []
    sets: list[int] = []
    for number, dataset in enumerate(sources):
        pairs = part.of(dataset.training_people(combineall), dataset.name)
        sets += [number] * len(pairs)
        first = max((image.camera for image in images), default=-1) + 1
        images += [replace(image, camera=image.camera + first) if number else image for image, _ in pairs]
        people += [None if who is None else (dataset.name, who) for _, who in pairs]
    known = {person for person in people if person is not None}
    class_of = {person: index for index, person in enumerate(sorted(known, key=_sort_key))}
    return images, [-1 if person is None else class_of[person] for person in people], sets


def _order_maker(cfg: CfgNode, dataset: TrainingDataset, sets: Sequence[int]) -> MakeOrder:
    """Makes samplers of `DATALOADER.SAMPLER_TRAIN` over images of a training set, by its current labels."""

    def make(indices: Sequence[int], seed: int) -> Order:
        images = [dataset.images[index] for index in indices]
        return _build_sampler(
            cfg,
            [dataset.labels[index] for index in indices],
            batch_size=cfg.SOLVER.IMS_PER_BATCH,
            mini_batch_size=cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
            num_instances=cfg.DATALOADER.NUM_INSTANCE,
            seed=seed,
            rank=comm.get_rank(),
            world_size=comm.get_world_size(),
            cameras=[image.camera for image in images],
            views=[int(image.view) for image in images],
            sets=[sets[index] for index in indices],
            set_weight=cfg.DATALOADER.SET_WEIGHT,
        )

    return make


def _order_without_labels(cfg: CfgNode, labels: Sequence[int]) -> TrainingSampler:
    """All images in random order, in groups as `DATALOADER.SAMPLER_TRAIN` has, which later orders then have too."""
    return TrainingSampler(
        labels,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=cfg.MODEL.SEED,
        group_size=cfg.DATALOADER.NUM_INSTANCE if draws_groups(cfg.DATALOADER.SAMPLER_TRAIN) else 1,
    )


def _build_sampler(cfg: CfgNode, labels: Sequence[int], **known: Any) -> Any:
    """A `DATALOADER.SAMPLER_TRAIN`, called with those of the known arguments that it has.

    Raises:
        ConfigError: DATALOADER.SET_WEIGHT is given and the sampler has no such argument.
    """
    make = SAMPLER_REGISTRY.get(cfg.DATALOADER.SAMPLER_TRAIN, key="DATALOADER.SAMPLER_TRAIN")
    parameters = inspect.signature(make).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if known["set_weight"] and "set_weight" not in parameters and not takes_all:
        raise ConfigError(
            f"DATALOADER.SET_WEIGHT is {list(known['set_weight'])}, but {cfg.DATALOADER.SAMPLER_TRAIN} does not weigh "
            "data sets: take DATALOADER.SAMPLER_TRAIN SetReWeightSampler, or leave it empty"
        )
    return make(labels, **{name: value for name, value in known.items() if takes_all or name in parameters})


def _check_sources(sources: Sequence[ImageDataset]) -> None:
    """Check that no two data sets have the same people, who would be different classes, and that none is empty."""
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


def _check_labels(sources: Sequence[ImageDataset]) -> None:
    """Check that the person of each training image is known."""
    for dataset in sources:
        if reason := getattr(dataset, "unlabelled", ""):
            raise ConfigError(
                f"DATASETS.NAMES has {dataset.name}, whose images have no person labels ({reason}), but the model "
                "needs the person of each image. Label them (a column person in csv:FILE, or a folder for each person "
                "in folder:FOLDER), or take a method that needs no labels, such as "
                "configs/unsupervised/cluster_contrast.yml"
            )


def _sort_key(person: tuple[str, Hashable]) -> tuple[str, bool, Hashable]:
    """By data set, then by number; people of query and gallery before those with names."""
    name, who = person
    return (name, isinstance(who, tuple), who)


def build_feature_loader(
    cfg: CfgNode, images: Sequence[PersonImage], image_transforms: Mapping[str, Transform] | None = None
) -> PersonLoader:
    """A loader over `images`, in order, with the test transforms; `targets` are the person ids.

    With DATALOADER.BAD_IMAGES "skip", images that cannot be read are left out; afterwards `skipped` of the loader has
    {path: reason}. No worker processes are started for images of one batch.

    Args:
        cfg: the configuration.
        images: the images.
        image_transforms: name -> transform of further views of each sample, beside "images".
    """
    transforms: dict[str, Transform] = {"images": build_transforms(cfg, is_train=False), **(image_transforms or {})}
    dataset = PersonDataset(images, transforms, skip_unreadable=_skips(cfg))
    batches = math.ceil(len(images) / cfg.TEST.IMS_PER_BATCH)
    # A worker loads whole batches. Starting one for the only batch takes longer than loading it.
    options = _loader_options(cfg, most_workers=batches if batches > 1 else 0)
    return PersonLoader(dataset, batch_size=cfg.TEST.IMS_PER_BATCH, **options)


def build_reid_test_loader(
    cfg: CfgNode, dataset_name: str, *, image_transforms: Mapping[str, Transform] | None = None
) -> tuple[PersonLoader, int]:
    """Query, then gallery of a data set, and the number of queries; each of several processes gets a part.

    Args:
        cfg: the configuration.
        dataset_name: the data set.
        image_transforms: name -> transform of further views of each sample, beside "images".
    """
    (dataset,) = build_datasets(cfg, [dataset_name])
    images = [*dataset.query, *dataset.gallery]
    own = [images[index] for index in InferenceSampler(len(images))]
    return build_feature_loader(cfg, own, image_transforms), len(dataset.query)


def _begin_worker(worker: int) -> None:
    leave_signals_to_parent()
    gc.freeze()  # otherwise a collection would touch, and so copy, the memory that the parent has allocated


_BAD_IMAGE_POLICIES = ("raise", "skip")


def _skips(cfg: CfgNode) -> bool:
    policy = cfg.DATALOADER.BAD_IMAGES
    if policy not in _BAD_IMAGE_POLICIES:
        raise ConfigError(explain_choice("DATALOADER.BAD_IMAGES", policy, _BAD_IMAGE_POLICIES))
    return policy == "skip"


def _loader_options(cfg: CfgNode, *, most_workers: int = sys.maxsize) -> dict[str, Any]:
    # Checked, with a log message, once for all workers.
    compiled_resize()
    simplejpeg_is_as_pillow()
    device = resolve_device(cfg.MODEL.DEVICE)
    num_workers = min(number_of_workers(cfg.DATALOADER.NUM_WORKERS), most_workers)
    return {
        "device": device,
        "num_workers": num_workers,
        "timeout": cfg.DATALOADER.TIMEOUT if num_workers else 0,
        # Processes of a distributed run are spawned and would spawn their workers too, which takes seconds per loader.
        "multiprocessing_context": "fork" if num_workers and sys.platform == "linux" else None,
        "pin_memory": device.startswith("cuda"),
        "persistent_workers": False,
        "worker_init_fn": _begin_worker,
    }
