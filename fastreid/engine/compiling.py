"""MODEL.COMPILE: torch.compile for the parts of a model that take most of the time."""

from __future__ import annotations

import logging

import torch
from torch import nn

from fastreid.config import CfgNode, ConfigError
from fastreid.modeling import interface_of
from fastreid.utils.compiling import CompiledForOneSize, compiler_problem

logger = logging.getLogger(__name__)


def compile_model(cfg: CfgNode, model: nn.Module, device: torch.device | str) -> None:
    """Compile the parts that a model declares in `ReidModel.compile_parts`; nothing without MODEL.COMPILE.

    Args:
        cfg: the config.
        model: the bare model.
        device: the device of the model.

    Raises:
        ConfigError: torch.compile does not work on this device, or SOLVER.FSDP divides the weights.
    """
    if not cfg.MODEL.COMPILE:
        return
    if cfg.SOLVER.FSDP.ENABLED:
        raise ConfigError("MODEL.COMPILE does not work with weights that are divided: set SOLVER.FSDP.ENABLED to False")
    if problem := compiler_problem(str(device)):
        raise ConfigError(
            f"MODEL.COMPILE is True, but torch.compile does not work on {device} here ({problem}). It needs a C++ "
            "compiler (g++, or the one that CXX names) and on CUDA the package triton: install what is missing, or "
            "set MODEL.COMPILE to False"
        )
    logger.info("parts of the model are compiled when they are first used, which can take minutes")
    interface_of(model).compile_parts(cfg.TEST.IMS_PER_BATCH)
    CompiledForOneSize(cfg.TEST.IMS_PER_BATCH).add_to(model)
