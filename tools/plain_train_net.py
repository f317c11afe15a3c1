#!/usr/bin/env python
"""The training of train_net.py as one plain loop without trainer and hooks, for reading and debugging.

    plain_train_net.py --config-file FILE [--eval-only] KEY VALUE …

The same config and seed give the same bits as train_net.py in one process. It has no support for several processes,
resuming, averaged weights, accumulation, precise batch norm, skipped steps, metrics.json, TensorBoard and the report.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastreid.config import (
    CfgNode,
    ConfigError,
    expand_paths,
    get_cfg,
    imports_in,
    refuse_unsupported,
    require_defaults,
    resolve_device,
)
from fastreid.data import build_datasets, build_feature_loader, build_reid_train_loader
from fastreid.data.loader import PersonLoader
from fastreid.engine import build_for_evaluation
from fastreid.engine.compiling import compile_model
from fastreid.engine.evaluations import build_evaluation
from fastreid.engine.nonfinite import ADVICE, DivergenceError
from fastreid.engine.setup import set_backends
from fastreid.engine.training_loader import LoaderTrainingSet, TrainingLoader
from fastreid.modeling import build_model, interface_of
from fastreid.modeling.amp import amp_dtype, autocast_for, evaluation_autocast
from fastreid.modeling.epoch_task import EpochTask
from fastreid.modeling.model import Transform, image_transforms_of, needs_labels_of
from fastreid.modeling.trained import config_text
from fastreid.solver import build_gradient_clipper, build_lr_scheduler, build_optimizer
from fastreid.solver.frozen import frozen_parts
from fastreid.structures import PersonImage
from fastreid.utils.checkpoint import CONFIG_TEXT
from fastreid.utils.env import rng_state, seed_everything, set_rng_state
from fastreid.utils.errors import reported_as
from fastreid.utils.lock import folder_lock
from fastreid.utils.logger import setup_logger
from fastreid.utils.seal import save_sealed
from fastreid.utils.user_code import import_file
from fastreid.utils.weights import load_weights, own_state_dict

import torch
from torch import Tensor, nn

logger = logging.getLogger("fastreid.tools.plain_train_net")

LOG_PERIOD = 20
LEFT_OUT = ("SOLVER.EMA.ENABLED", "SOLVER.ACCUMULATION_STEPS", "SOLVER.FSDP.ENABLED", "TEST.PRECISE_BN.ENABLED")


def read_config(args: argparse.Namespace) -> CfgNode:
    """Defaults, then the file, then KEY VALUE pairs."""
    for file in imports_in(filter(None, [args.config_file]), args.opts):  # they may add keys
        import_file(file)
    cfg = get_cfg()
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    expand_paths(cfg)
    cfg.MODEL.DEVICE = resolve_device(cfg.MODEL.DEVICE)
    refuse_unsupported(cfg)
    if not args.eval_only:
        require_defaults(cfg, LEFT_OUT, "plain_train_net leaves some things to train_net")
    if cfg.MODEL.SEED < 0:
        raise ConfigError("plain_train_net draws no seed: set MODEL.SEED to 0 or more")
    return cfg


def train(cfg: CfgNode) -> nn.Module:
    """Build data, model, optimiser and schedule, train for all epochs, and return the model."""
    needs_labels = needs_labels_of(cfg)
    loader = build_reid_train_loader(cfg, image_transforms_of(cfg, is_train=True), needs_labels=needs_labels)
    if needs_labels:
        cfg.MODEL.HEADS.NUM_CLASSES = cfg.MODEL.HEADS.NUM_CLASSES or loader.dataset.num_classes
    cfg.freeze()
    model = build_model(cfg)
    frozen = Frozen(cfg, model)
    optimizer = build_optimizer(cfg, model)
    schedule = build_lr_scheduler(cfg, optimizer, loader.iters_per_epoch)
    clip = build_gradient_clipper(cfg)
    device = torch.device(cfg.MODEL.DEVICE)
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(cfg, device) is torch.float16)
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS, to_train=True, min_coverage=cfg.MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE)
        interface_of(model).check_weights()
    elif interface_of(model).required_prefixes:
        raise ConfigError(f"{type(model).__name__} starts from a checkpoint: set MODEL.WEIGHTS to one")
    compile_model(cfg, model, device)
    tasks = interface_of(model).epoch_tasks()
    training_set = LoaderTrainingSet(TrainingLoader(loader), functools.partial(feature_loader, cfg))

    model.train()
    batches = endless(loader)
    last_epoch = cfg.SOLVER.MAX_EPOCH - 1
    for epoch in range(cfg.SOLVER.MAX_EPOCH):
        if run_tasks(cfg, model, training_set, tasks, epoch):
            batches = endless(loader)
        frozen.before_epoch(epoch)
        for iteration in range(epoch * loader.iters_per_epoch, (epoch + 1) * loader.iters_per_epoch):
            schedule.set_iteration(iteration)
            frozen.before_step(iteration)
            batch = next(batches)
            with autocast_for(cfg, device):
                losses = model(batch)
            scaler.scale(sum(losses.values())).backward()
            frozen.after_backward(iteration)
            scaler.unscale_(optimizer)
            if clip is not None:
                clip(parameter for group in optimizer.param_groups for parameter in group["params"])
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            log(iteration, losses, optimizer)
        if epoch == last_epoch or (epoch + 1) % cfg.SOLVER.CHECKPOINT_PERIOD == 0:
            save(cfg, model, "model_final" if epoch == last_epoch else f"model_{epoch:04d}")
        if epoch != last_epoch and cfg.TEST.EVAL_PERIOD and (epoch + 1) % cfg.TEST.EVAL_PERIOD == 0:
            evaluate(cfg, model)
    for task in tasks:
        with working(cfg, model):
            task.after_training(training_set, Path(cfg.OUTPUT_DIR))
    return model


def endless(loader: Any) -> Iterator[dict[str, Any]]:
    """Yield the batches of a loader. Creating an iterator draws a random number, which must not affect training."""
    with torch.random.fork_rng(devices=[]):
        batches = iter(loader)
    yield from batches


class Frozen:
    """MODEL.FREEZE_LAYERS in the first SOLVER.FREEZE_ITERS iterations: in eval mode, and without gradients.

    Parts that the model does not train in an epoch (`ReidModel.frozen_in`) get no gradients either.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self.model, self.until = model, cfg.SOLVER.FREEZE_ITERS if cfg.MODEL.FREEZE_LAYERS else 0
        self.modules, self.parameters = frozen_parts(model, list(cfg.MODEL.FREEZE_LAYERS))
        self.of_epoch: list[nn.Parameter] = []
        if self.until == -1:  # for the whole run; the optimiser then has no state for them
            self.until = math.inf
            for parameter in self.parameters:
                parameter.requires_grad_(False)

    def before_epoch(self, epoch: int) -> None:
        """Take the parts that the model does not train in this epoch."""
        self.of_epoch = frozen_parts(self.model, interface_of(self.model).frozen_in(epoch))[1]

    def before_step(self, iteration: int) -> None:
        """Set frozen modules to eval mode, or end the freezing."""
        if iteration < self.until:
            for module in self.modules:
                module.eval()
        elif iteration == self.until:
            self.model.train()

    def after_backward(self, iteration: int) -> None:
        """Drop the gradients of frozen parameters."""
        for parameter in (*self.of_epoch, *(self.parameters if iteration < self.until else ())):
            parameter.grad = None


def run_tasks(
    cfg: CfgNode, model: nn.Module, training_set: LoaderTrainingSet, tasks: Sequence[EpochTask], epoch: int
) -> bool:
    """Run the tasks that are due before an epoch, such as SD-ReID's calibration; return whether the order is new."""
    is_new = False
    for task in tasks:
        if not task.is_due(epoch):
            continue
        with working(cfg, model):
            plan = task.run(training_set)
        if plan is not None and not plan.is_empty:
            training_set.loader.follow(plan, since=epoch * training_set.loader.iters_per_epoch)
            is_new = True
    return is_new


@contextlib.contextmanager
def working(cfg: CfgNode, model: nn.Module) -> Iterator[None]:
    """Put the model into the state in which tasks find it."""
    model.eval()
    with torch.no_grad(), autocast_for(cfg, cfg.MODEL.DEVICE):
        yield
    model.train()


def feature_loader(
    cfg: CfgNode, images: Sequence[PersonImage], transforms: Mapping[str, Transform] | None = None
) -> PersonLoader:
    """Batches over images in order, with the test transforms and further views; by default those of the model."""
    return build_feature_loader(cfg, images, transforms or image_transforms_of(cfg, is_train=False))


def log(iteration: int, losses: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Log the losses every LOG_PERIOD iterations.

    Raises:
        DivergenceError: a loss is not finite.
    """
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    if not all(map(math.isfinite, values.values())):
        raise DivergenceError(f"iteration {iteration}: {text}. {ADVICE}")
    if iteration % LOG_PERIOD == 0:
        logger.info("iteration %d: %s, lr %.3g", iteration, text, optimizer.param_groups[0]["lr"])


def save(cfg: CfgNode, model: nn.Module, name: str) -> None:
    """Write OUTPUT_DIR/name.pth for MODEL.WEIGHTS; it cannot be resumed."""
    content = {"model": own_state_dict(model), CONFIG_TEXT: config_text(cfg)}
    save_sealed(content, Path(cfg.OUTPUT_DIR) / f"{name}.pth")


def evaluate(cfg: CfgNode, model: nn.Module) -> dict[str, dict[str, float]]:
    """Return the figures of DATASETS.TESTS; random states are restored, so that training does not change."""
    if not cfg.DATASETS.TESTS:
        logger.warning("DATASETS.TESTS is empty: nothing to evaluate")
        return {}
    state = rng_state()
    try:
        return build_evaluation(cfg).run(
            cfg, model, build_datasets(cfg, cfg.DATASETS.TESTS), feature_loader, cfg.OUTPUT_DIR,
            evaluation_autocast(cfg),
        )  # fmt: skip
    finally:
        set_rng_state(state)


def main() -> None:
    """Parse the command line, train or evaluate."""
    parser = argparse.ArgumentParser(description="Train or evaluate a re-identification model in one plain loop.")
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML file of config keys")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS and stop")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys and their values")
    with reported_as("plain_train_net"):
        args = parser.parse_args()
        cfg = read_config(args)
        with folder_lock(cfg.OUTPUT_DIR):
            run(cfg, eval_only=args.eval_only)


def run(cfg: CfgNode, *, eval_only: bool) -> None:
    """Set up log and seeds, train unless ``eval_only``, and evaluate."""
    setup_logger(cfg.OUTPUT_DIR)
    seed_everything(cfg.MODEL.SEED)
    set_backends(cfg)
    if eval_only:
        model = build_for_evaluation(cfg)
    else:
        model = train(cfg)
    for protocol, figures in evaluate(cfg, model).items():
        logger.info("%s: %s", protocol, ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
