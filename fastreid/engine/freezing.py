"""Frozen layers: MODEL.FREEZE_LAYERS in the first SOLVER.FREEZE_ITERS iterations, and parts that a model freezes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastreid.config import CfgNode, ConfigError
from fastreid.engine.trainer_base import HookBase
from fastreid.modeling.model import ReidModel, interface_of
from fastreid.solver.frozen import frozen_parts

logger = logging.getLogger(__name__)

WHOLE_RUN = -1


class LayerFreeze(HookBase):
    """Keeps modules in eval mode and their parameters unchanged in the first iterations of a run.

    Iterations of the run are counted, not those of the process, so that a resumed run continues exactly.

    Gradients are dropped after the backward pass; ``requires_grad`` stays. DistributedDataParallel needs a gradient
    of every parameter that it was built with, and the groups of the optimiser must fit its saved state. Optimisers
    skip a parameter without a gradient: no decay, no momentum, no step count.

    Args:
        model: the model, or its distributed wrapper.
        freeze_layers: modules or parameters by their path in the model, as in MODEL.FREEZE_LAYERS.
        freeze_iters: number of iterations; -1: the whole run. Parameters that are frozen for the whole run should not
            require a gradient.

    Raises:
        ConfigError: the model has no part of such a name.
    """

    def __init__(self, model: nn.Module, freeze_layers: Sequence[str], freeze_iters: int = WHOLE_RUN) -> None:
        bare = model.module if isinstance(model, DistributedDataParallel) else model
        self._modules, self._parameters = frozen_parts(bare, freeze_layers)
        self._iterations = freeze_iters
        self._is_frozen = self._has_dropped = False

    def before_step(self) -> None:
        """Set frozen modules to eval mode, or end the freezing."""
        self._has_dropped = False
        if self._is_on():
            self._is_frozen = True
            for module in self._modules:
                module.eval()
        elif self._is_frozen:
            self._is_frozen = False
            self.trainer.model.train()  # parts that always are in eval mode override `train`
            logger.info("iteration %d: frozen layers are trained from now on", self.trainer.iter)

    def after_backward(self) -> None:
        """Drop the gradients of frozen parameters."""
        if self._is_on():
            self._has_dropped = True
            for parameter in self._parameters:
                parameter.grad = None

    def after_step(self) -> None:
        """Check that `after_backward` was called."""
        if self._is_on() and not self._has_dropped and any(p.requires_grad for p in self._parameters):
            raise RuntimeError(
                f"{type(self.trainer).__name__}.run_step trains frozen layers: between backward and the "
                'optimiser\'s step it must call self._call("after_backward")'
            )

    def _is_on(self) -> bool:
        return self._iterations == WHOLE_RUN or self.trainer.iter < self._iterations


def build_layer_freeze(cfg: CfgNode, model: nn.Module) -> LayerFreeze | None:
    """The hook that freezes MODEL.FREEZE_LAYERS; None if nothing is frozen.

    Call it before the optimiser is built and the model is distributed. SOLVER.FREEZE_ITERS 0 freezes nothing, as in
    fast-reid; -1 freezes for the whole run, and such parameters get no gradient and no optimiser state.

    Args:
        cfg: the config.
        model: the bare model.

    Raises:
        ConfigError: the model has no part of such a name, or no parameter is left to train.
    """
    names, iterations = list(cfg.MODEL.FREEZE_LAYERS), cfg.SOLVER.FREEZE_ITERS
    _, parameters = frozen_parts(model, names)
    if bool(names) != bool(iterations):
        logger.warning(
            "nothing is frozen: MODEL.FREEZE_LAYERS is %s and SOLVER.FREEZE_ITERS is %d (-1 would be the whole run)",
            names, iterations,
        )  # fmt: skip
        return None
    if not names:
        return None
    frozen = {id(parameter) for parameter in parameters}
    if not any(p.requires_grad and id(p) not in frozen for p in model.parameters()):
        raise ConfigError(f"MODEL.FREEZE_LAYERS {names} leaves nothing to train")
    if iterations == WHOLE_RUN:
        for parameter in parameters:
            parameter.requires_grad_(False)
    logger.info(
        "%s: %d parameters frozen %s", ", ".join(names), sum(parameter.numel() for parameter in parameters),
        "for the whole run" if iterations == WHOLE_RUN else f"in the first {iterations} iterations",
    )  # fmt: skip
    return LayerFreeze(model, names, iterations)


class EpochFreeze(HookBase):
    """Drops the gradients of the parts that a model does not train in an epoch (`ReidModel.frozen_in`).

    As in `LayerFreeze`, optimisers skip a parameter without a gradient, and ``requires_grad`` stays.

    Args:
        model: the bare model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parts: tuple[str, ...] = ()
        self._parameters: list[nn.Parameter] = []

    def before_step(self) -> None:
        """Take the parts of this epoch; log them when they change."""
        parts = tuple(interface_of(self._model).frozen_in(self.trainer.epoch))
        if parts == self._parts:
            return
        self._parts, self._parameters = parts, frozen_parts(self._model, parts)[1]
        logger.info("epoch %d: %s", self.trainer.epoch, f"{', '.join(parts)} frozen" if parts else "all parts train")

    def after_backward(self) -> None:
        """Drop the gradients of frozen parameters."""
        for parameter in self._parameters:
            parameter.grad = None


def build_epoch_freeze(model: nn.Module) -> EpochFreeze | None:
    """The hook that freezes parts in some epochs; None if the model never freezes any.

    Args:
        model: the bare model.
    """
    declared = type(interface_of(model)).frozen_in
    return None if declared is ReidModel.frozen_in else EpochFreeze(model)
