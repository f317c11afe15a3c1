"""Orders of training images, by DATALOADER.SAMPLER_TRAIN."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from fastreid.config import CfgNode, ConfigError
from fastreid.data.dataset import TrainingDataset
from fastreid.data.samplers import SAMPLER_REGISTRY, TrainingSampler, draws_groups
from fastreid.data.samplers.draws import Order
from fastreid.data.train_loader import MakeOrder
from fastreid.data.user_sets import labels_of
from fastreid.utils import comm


def order_of(cfg: CfgNode, train_set: Any) -> Order:
    """`DATALOADER.SAMPLER_TRAIN` over a data set of a user."""
    key, name = "DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN
    size, seed = cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.SEED
    if SAMPLER_REGISTRY.get(name, key=key) is TrainingSampler:
        return TrainingSampler(len(train_set), batch_size=size, seed=seed)
    people, cameras, views = labels_of(train_set, f"{key} {name}")
    known = {"seed": seed, "cameras": cameras, "views": views, "sets": [0] * len(people)}
    return _sampler(cfg, people, **known)


def order_maker(cfg: CfgNode, dataset: TrainingDataset, sets: Sequence[int]) -> MakeOrder:
    """Makes samplers of `DATALOADER.SAMPLER_TRAIN` over images of a training set, by its current labels."""

    def make(indices: Sequence[int], seed: int) -> Order:
        images = [dataset.images[index] for index in indices]
        return _sampler(
            cfg,
            [dataset.labels[index] for index in indices],
            seed=seed,
            cameras=[image.camera for image in images],
            views=[int(image.view) for image in images],
            sets=[sets[index] for index in indices],
        )

    return make


def order_without_labels(cfg: CfgNode, labels: Sequence[int]) -> TrainingSampler:
    """All images in random order, in groups as `DATALOADER.SAMPLER_TRAIN` has, which later orders then have too."""
    return TrainingSampler(
        labels,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=cfg.MODEL.SEED,
        group_size=cfg.DATALOADER.NUM_INSTANCE if draws_groups(cfg.DATALOADER.SAMPLER_TRAIN) else 1,
    )


def _sampler(cfg: CfgNode, labels: Sequence[int], **of_images: Any) -> Any:
    """A `DATALOADER.SAMPLER_TRAIN`, called with those of the known arguments that it has.

    Raises:
        ConfigError: DATALOADER.SET_WEIGHT is given and the sampler has no such argument.
    """
    known = {
        "batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "mini_batch_size": cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
        "num_instances": cfg.DATALOADER.NUM_INSTANCE,
        "rank": comm.get_rank(),
        "world_size": comm.get_world_size(),
        "set_weight": cfg.DATALOADER.SET_WEIGHT,
        **of_images,
    }
    make = SAMPLER_REGISTRY.get(cfg.DATALOADER.SAMPLER_TRAIN, key="DATALOADER.SAMPLER_TRAIN")
    parameters = inspect.signature(make).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if known["set_weight"] and "set_weight" not in parameters and not takes_all:
        raise ConfigError(
            f"DATALOADER.SET_WEIGHT is {list(known['set_weight'])}, but {cfg.DATALOADER.SAMPLER_TRAIN} does not weigh "
            "data sets: take DATALOADER.SAMPLER_TRAIN SetReWeightSampler, or leave it empty"
        )
    return make(labels, **{name: value for name, value in known.items() if takes_all or name in parameters})
