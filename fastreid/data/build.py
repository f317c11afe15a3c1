"""Datasets and loaders from a config."""

from __future__ import annotations

import inspect
import logging
import math
import os
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastreid.config import CfgNode, ConfigError, resolve_device
from fastreid.data.benchmarks import BENCHMARK_OF, home_of
from fastreid.data.dataset import PersonDataset, TrainingDataset, Transform
from fastreid.data.datasets import DATASET_REGISTRY, DatasetError, ImageDataset
from fastreid.data.fit_batch import with_fitted_batch
from fastreid.data.images import simplejpeg_is_as_pillow
from fastreid.data.loader import PersonLoader
from fastreid.data.orders import order_maker, order_of, order_without_labels
from fastreid.data.own_images import load_own_images
from fastreid.data.own_rows import refuse_shared_files
from fastreid.data.samplers import InferenceSampler
from fastreid.data.samplers.draws import Order
from fastreid.data.subset import TrainingPart
from fastreid.data.train_loader import TrainLoader
from fastreid.data.transforms import build_transforms
from fastreid.data.transforms.resize import compiled_resize
from fastreid.data.user_sets import (
    UserTrainLoader,
    as_data_set,
    refuse_views,
    user_test_loader,
    with_batch_size,
    with_sizes,
)
from fastreid.data.workers import begin_worker, number_of_workers
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError
from fastreid.utils.logger import log_once
from fastreid.utils.suggest import explain_choice

logger = logging.getLogger(__name__)


def datasets_root(cfg: CfgNode) -> str:
    """`DATASETS.ROOT`, else the environment variable FASTREID_DATASETS, else "datasets"."""
    return os.path.expanduser(cfg.DATASETS.ROOT or _default_root())


if TYPE_CHECKING:
    _root: str
else:

    def __getattr__(name: str) -> str:
        """Return fast-reid's `_root`, the folder of data sets of a config without DATASETS.ROOT."""
        if name == "_root":
            return _default_root()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _default_root() -> str:
    return os.environ.get("FASTREID_DATASETS") or "datasets"


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
    homes_of = {name: home for name in names if (home := home_of(name, root)) is not None}
    missing = [name for name, home in homes_of.items() if not home.is_dir()]
    if len(missing) == len(names):
        homes = ", ".join(str(homes_of[name]) for name in missing)
        key = next((f"DATASETS.{key}" for key in ("NAMES", "TESTS") if list(cfg.DATASETS[key]) == list(names)), "")
        raise DatasetError(
            f"{key or 'DATASETS'}: none of {', '.join(missing)} is there: no folder {homes}. "
            "DATASETS.ROOT or $FASTREID_DATASETS is the folder that contains them"
        )
    for name in missing:
        text = f"{name} is left out, as there is no folder {homes_of[name]} (DATASETS.SKIP_MISSING)"
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
    cfg: Any = None,
    image_transforms: Mapping[str, Transform] | None = None,
    *,
    needs_labels: bool = True,
    train_set: Any = None,
    transforms: Transform | None = None,
    sampler: Order | None = None,
    total_batch_size: int | None = None,
    num_workers: int | None = None,
) -> Any:
    """An endless loader over the union of `DATASETS.NAMES`, a `TrainLoader`; or over a data set of a user.

    People of different datasets are different classes. DATASETS.PEOPLE and DATASETS.SUBSET may leave out
    a part of them. Batches hold `SOLVER.IMS_PER_BATCH` images over all processes.

    Args:
        cfg: the configuration; or the `train_set`, with a `total_batch_size`.
        image_transforms: name -> transform of further views of each sample, beside "images".
        needs_labels: whether the model needs the person of each image. If not, images may have none, their label is
            -1, and until an epoch task gives a plan all images are drawn in random order, whatever their labels.
        train_set: a data set of dicts with "images", instead of DATASETS.NAMES; the loader is a `UserTrainLoader`.
        transforms: makes "images", instead of the INPUT keys; a `train_set` has its own.
        sampler: the order of the images, instead of `DATALOADER.SAMPLER_TRAIN`.
        total_batch_size: images per step of all processes, instead of SOLVER.IMS_PER_BATCH.
        num_workers: instead of DATALOADER.NUM_WORKERS; 0 without a config.

    Raises:
        ConfigError: no data set is named, the batch does not divide over the processes, the sampler cannot fill one, a
            benchmark is named twice, labels are needed and missing, or a key has no legal value.
        DatasetError: a data set has no training images.
        ArgumentError: arguments that exclude each other.
    """
    given = as_data_set(cfg, "build_reid_train_loader")
    train_set = train_set if given is None else given
    cfg = with_sizes(cfg, "SOLVER.IMS_PER_BATCH", total_batch_size, num_workers, train_set)
    if train_set is not None:
        refuse_views("train_set", image_transforms=image_transforms, transforms=transforms)
        return UserTrainLoader(
            train_set,
            sampler or order_of(cfg, train_set),
            batch_size=cfg.SOLVER.IMS_PER_BATCH,
            iters_per_epoch=cfg.SOLVER.ITERS_PER_EPOCH,
            **_loader_options(cfg),
        )
    views: dict[str, Transform] = {"images": transforms or build_transforms(cfg, is_train=True)}
    return _train_loader(cfg, views | dict(image_transforms or {}), sampler, needs_labels=needs_labels)


def _train_loader(
    cfg: CfgNode, transforms: Mapping[str, Transform], sampler: Order | None, *, needs_labels: bool
) -> TrainLoader:
    """A loader over the union of `DATASETS.NAMES`; see `build_reid_train_loader`."""
    found = training_images(cfg, needs_labels=needs_labels)
    cfg = with_fitted_batch(cfg, found.labels, needs_labels=needs_labels)
    world_size, batch_size, seed = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.SEED
    if batch_size < 1 or batch_size % world_size:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH={batch_size} must divide over {world_size} processes")
    dataset = TrainingDataset(
        found.images,
        transforms,
        found.labels,
        seed=seed,
        batch_size=batch_size,
        skip_unreadable=_skips(cfg),
    )
    if sampler is None and not needs_labels:
        sampler = order_without_labels(cfg, found.labels)
    return TrainLoader(
        dataset,
        order_maker(cfg, dataset, found.sets),
        first_order=None if sampler is None else with_batch_size(sampler, batch_size // world_size),
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
        refuse_shared_files(sources)
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
    cfg: Any = None,
    dataset_name: str | None = None,
    *,
    image_transforms: Mapping[str, Transform] | None = None,
    test_set: Any = None,
    num_query: int | None = None,
    transforms: Transform | None = None,
    test_batch_size: int | None = None,
    num_workers: int | None = None,
) -> tuple[PersonLoader, int]:
    """Query, then gallery of a data set, and the number of queries; each of several processes gets a part.

    Args:
        cfg: the configuration; or the `test_set`, with a `test_batch_size`.
        dataset_name: the data set.
        image_transforms: name -> transform of further views of each sample, beside "images".
        test_set: a data set of dicts with "images", instead of `dataset_name`.
        num_query: number of queries, which are the first items of a `test_set`; 0 by default.
        transforms: makes "images", instead of the INPUT keys; a `test_set` has its own.
        test_batch_size: images of a batch, instead of TEST.IMS_PER_BATCH.
        num_workers: instead of DATALOADER.NUM_WORKERS; 0 without a config.

    Raises:
        ArgumentError: neither a `dataset_name` nor a `test_set`, or arguments that exclude each other.
    """
    given = as_data_set(cfg, "build_reid_test_loader")
    test_set = test_set if given is None else given
    if (test_set is None) is (dataset_name is None):
        raise ArgumentError("build_reid_test_loader takes either a dataset_name or a test_set")
    cfg = with_sizes(cfg, "TEST.IMS_PER_BATCH", test_batch_size, num_workers, test_set)
    if dataset_name is None:
        refuse_views("test_set", image_transforms=image_transforms, transforms=transforms)
        return user_test_loader(test_set, batch_size=cfg.TEST.IMS_PER_BATCH, **_loader_options(cfg)), num_query or 0
    if num_query is not None:
        raise ArgumentError(f"num_query={num_query} is for a test_set; that of {dataset_name} is known")
    (dataset,) = build_datasets(cfg, [dataset_name])
    images = [*dataset.query, *dataset.gallery]
    own = [images[index] for index in InferenceSampler(len(images))]
    views = {**(image_transforms or {}), **({} if transforms is None else {"images": transforms})}
    return build_feature_loader(cfg, own, views), len(dataset.query)


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
        "worker_init_fn": begin_worker,
    }
