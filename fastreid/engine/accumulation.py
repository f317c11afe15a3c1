"""Gradient accumulation: a batch that does not fit into memory passes through the model in parts."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from fastreid.config import CfgNode, ConfigError
from fastreid.data.samplers import SAMPLER_REGISTRY
from fastreid.utils import comm


def accumulation_steps(cfg: CfgNode) -> int:
    """Return SOLVER.ACCUMULATION_STEPS, the forward passes per update; SOLVER.IMS_PER_BATCH counts all their images.

    Raises:
        ConfigError: the batch cannot be divided into so many parts, or a part would divide the images of a person.
    """
    steps, world_size = cfg.SOLVER.ACCUMULATION_STEPS, comm.get_world_size()
    if steps == 1:
        return 1
    if cfg.SOLVER.IMS_PER_BATCH % (steps * world_size):
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH={cfg.SOLVER.IMS_PER_BATCH}, the images of one update, must divide over "
            f"{world_size} processes and SOLVER.ACCUMULATION_STEPS={steps}"
        )
    part = cfg.SOLVER.IMS_PER_BATCH // (steps * world_size)
    sampler, group = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.NUM_INSTANCE
    if _deals_groups(sampler) and part % group:
        raise ConfigError(
            f"SOLVER.ACCUMULATION_STEPS={steps} leaves {part} images a part, which would divide the "
            f"DATALOADER.NUM_INSTANCE={group} images of a person; take fewer steps or a larger SOLVER.IMS_PER_BATCH"
        )
    return steps


def _deals_groups(sampler: str) -> bool:
    """Whether the batches of a sampler consist of groups of images of one person."""
    return (
        sampler in SAMPLER_REGISTRY and "num_instances" in inspect.signature(SAMPLER_REGISTRY.get(sampler)).parameters
    )


def split_batch(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Split a batch into equal parts of consecutive images; values that are not one per image are in each part.

    Args:
        batch: the batch.
        parts: number of parts.

    Raises:
        ConfigError: the batch cannot be divided into so many parts.
    """
    if parts == 1:
        return [batch]
    size = _length_of(batch)
    if not size or size % parts:
        raise ConfigError(f"a batch of {size} images does not divide into SOLVER.ACCUMULATION_STEPS={parts} parts")
    step = size // parts
    return [
        {
            name: value[first : first + step] if _is_per_image(value) and len(value) == size else value
            for name, value in batch.items()
        }
        for first in range(0, size, step)
    ]


def _length_of(batch: dict[str, Any]) -> int:
    values = [value for value in (batch.get("images"), *batch.values()) if _is_per_image(value)]
    return len(values[0]) if values else 0


def _is_per_image(value: Any) -> bool:
    return value.ndim > 0 if isinstance(value, Tensor) else isinstance(value, list | tuple)
