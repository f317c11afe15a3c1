"""Fits the batch to the training people there are: SOLVER.FIT_BATCH."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastreid.config import CfgNode, ConfigError, with_values
from fastreid.data.samplers import draws_groups
from fastreid.utils import comm
from fastreid.utils.logger import log_once

logger = logging.getLogger(__name__)


def with_fitted_batch(cfg: CfgNode, labels: Sequence[int], *, needs_labels: bool = True) -> CfgNode:
    """Return the config with a SOLVER.IMS_PER_BATCH that the training people can fill, and log a change.

    It is lowered to DATALOADER.NUM_INSTANCE images of each person, so that it divides over the processes and the
    SOLVER.ACCUMULATION_STEPS. The config is returned as it is without SOLVER.FIT_BATCH, if there are enough people, and
    if DATALOADER.SAMPLER_TRAIN draws single images, which can fill any batch.

    Args:
        cfg: the config.
        labels: the class of each training image.
        needs_labels: whether the model needs the person of each image.

    Raises:
        ConfigError: the model makes its own labels, whose number is not known before the training.
    """
    if not cfg.SOLVER.FIT_BATCH:
        return cfg
    if not needs_labels:
        raise ConfigError(
            f"SOLVER.FIT_BATCH counts the training people, but {cfg.MODEL.META_ARCHITECTURE} makes its own labels: set "
            "it to False, and SOLVER.IMS_PER_BATCH to a size that its clusters can fill"
        )
    if not draws_groups(cfg.DATALOADER.SAMPLER_TRAIN):
        return cfg
    people, parts = len(set(labels)), comm.get_world_size() * cfg.SOLVER.ACCUMULATION_STEPS
    fitting = people // parts * parts * cfg.DATALOADER.NUM_INSTANCE
    if not 0 < fitting < cfg.SOLVER.IMS_PER_BATCH:
        return cfg
    log_once(
        logger,
        logging.INFO,
        f"SOLVER.IMS_PER_BATCH is {fitting} instead of {cfg.SOLVER.IMS_PER_BATCH}: {cfg.DATALOADER.NUM_INSTANCE} "
        f"images of each of {people} training people (SOLVER.FIT_BATCH)",
    )
    return with_values(cfg, {"SOLVER.IMS_PER_BATCH": fitting})
