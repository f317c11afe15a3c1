"""Stage 2 of SD-ReID as a fixed graph: one number of steps, and the same noise for all images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fastreid.config import CfgNode, ConfigError
from fastreid.methods.sd_reid.stage2 import SDReIDStage2


@contextmanager
def fixed_generation(model: nn.Module) -> Iterator[None]:
    """Check that features can be generated in a graph, and generate those of a batch at once, in the block.

    Args:
        model: any model; others than stage 2 of SD-ReID are left as they are.

    Raises:
        ConfigError: the noise depends on the image or the batch, or a view has no centre.
    """
    if not isinstance(model, SDReIDStage2) or not model.fusion.needs_generated:
        yield
        return
    if not model.noise.is_constant:
        raise ConfigError(
            f"TEST.SDMODEL.NOISE is {model.noise.kind}, and an exported file has one noise for all images: add "
            "TEST.SDMODEL.NOISE shared to the command. Features then equal those of an evaluation with this key"
        )
    model.check_weights()
    sampler = model.sampler
    model.sampler = dataclasses.replace(sampler, micro_batch=0)
    try:
        yield
    finally:
        model.sampler = sampler


def generation_facts(model: nn.Module, cfg: CfgNode) -> dict[str, Any]:
    """Return how features are generated, for the metadata; {} for models that generate none.

    Args:
        model: any model.
        cfg: its config.
    """
    if not isinstance(model, SDReIDStage2) or not model.fusion.needs_generated:
        return {}
    return {
        "generation": {
            "views": model.num_views,
            "draws": model.num_draws,
            "steps": model.sampler.num_steps,
            "solver": cfg.MODEL.SDMODEL.SCHEDULER_CONFIG.NAME,
            "noise": model.noise.kind,
            "noise_seed": model.noise.seed,
        }
    }
