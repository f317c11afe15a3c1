"""DefaultTrainer: a run built from a config, every part replaceable by overriding one method."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastreid.config import CfgNode, ConfigError, check_ranges, resolve_device
from fastreid.data import build_datasets, build_feature_loader, build_reid_test_loader, build_reid_train_loader
from fastreid.data.check import counts_table
from fastreid.data.datasets import DatasetError
from fastreid.engine import hooks
from fastreid.engine.accumulation import accumulation_steps
from fastreid.engine.evaluating import RECORD, last_evaluation, restore_best
from fastreid.engine.freezing import build_layer_freeze
from fastreid.engine.identity import Identity, model_identity, training_identity
from fastreid.engine.manifest import ManifestWriter, Names, Splits, names_of, splits_of
from fastreid.engine.nonfinite import max_nonfinite
from fastreid.engine.precise_bn import PreciseBN
from fastreid.engine.resuming import ANYWAY, check_resumable, take_options
from fastreid.engine.setup import output_folder, write_config
from fastreid.engine.sharding import is_sharded, keep_whole, replicated, shard
from fastreid.engine.summary import valid_queries_table
from fastreid.engine.train_loop import HookBase, SimpleTrainer
from fastreid.engine.views import check_views
from fastreid.evaluation import (
    DatasetEvaluator,
    ReidEvaluator,
    check_protocol,
    evaluate_protocols,
    inference_on_dataset,
    print_csv_format,
)
from fastreid.evaluation.results import write_json
from fastreid.modeling import build_model, interface_of
from fastreid.solver import LRSchedule, build_gradient_clipper, build_lr_scheduler, build_optimizer
from fastreid.solver.ema import build_weight_average
from fastreid.utils import comm
from fastreid.utils.amp import amp_dtype, autocast_for
from fastreid.utils.checkpoint import Checkpointer, WeightsError, load_weights, read_checkpoint
from fastreid.utils.env import set_rng_state
from fastreid.utils.files import remove_leftovers
from fastreid.utils.manifest import sha256_of
from fastreid.utils.registry import RegistryError
from fastreid.utils.writers import ConsoleWriter, JSONWriter, TensorboardWriter, Writer

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]


class DefaultTrainer(SimpleTrainer):
    """Builds model, data, optimiser, schedule, hooks and checkpoints from ``cfg``.

    Typical use: ``trainer = DefaultTrainer(cfg); trainer.resume_or_load(resume); trainer.train()``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        check_ranges(cfg)
        data_loader = self.build_train_loader(cfg)
        self._given_cfg = cfg
        self.cfg = self.auto_scale_hyperparams(cfg, data_loader.dataset.num_classes)
        self.bare_model = self.build_model(self.cfg)
        self._of_model = model_identity(self.bare_model)  # before it is sharded
        self.layer_freeze = build_layer_freeze(self.cfg, self.bare_model)
        device = torch.device(resolve_device(self.cfg.MODEL.DEVICE))
        shard(self.cfg, self.bare_model, device)
        optimizer = self.build_optimizer(self.cfg, self.bare_model)
        if is_sharded(self.bare_model):
            keep_whole(optimizer)
        use_scaler = amp_dtype(self.cfg, device) is torch.float16
        super().__init__(
            replicated(self.bare_model, device),
            data_loader,
            optimizer,
            autocast=functools.partial(autocast_for, self.cfg, device),
            scaler=torch.amp.GradScaler(device.type, enabled=use_scaler),
            clip_gradients=build_gradient_clipper(self.cfg),
            accumulation_steps=accumulation_steps(self.cfg),
            max_nonfinite=max_nonfinite(self.cfg),
        )
        self.max_epoch, self.iters_per_epoch = (
            self.cfg.SOLVER.MAX_EPOCH,
            data_loader.iters_per_epoch,
        )
        self.schedule = self.build_lr_scheduler(self.cfg, optimizer, self.iters_per_epoch)
        self.average = build_weight_average(self.cfg, self.bare_model)
        self.checkpointer = Checkpointer(
            self.bare_model, self.cfg.OUTPUT_DIR, average=self.average,
            optimizer=optimizer, scheduler=self.schedule, scaler=self.scaler,
        )  # fmt: skip
        self.train_datasets = getattr(data_loader, "sources", [])
        self.test_datasets = self.build_test_datasets(self.cfg)
        check_views(self.bare_model, self.train_datasets)
        for protocol in self.test_datasets:
            check_protocol(protocol)  # now, not after the hours of training
        # What the run trains on; known when it starts.
        self.identity: Identity | None = None
        self.changed_at_resume: list[str] = []
        self.started_from: str | None = None
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool | str = False) -> None:
        """Go on from the last checkpoint if asked and there is one; else load any MODEL.WEIGHTS.

        Args:
            resume: True, or "anyway" to go on though data or configuration are not the run's (--resume-anyway).

        Raises:
            WeightsError: the file is missing, unreadable, or of another model.
            ResumeError: the run was trained on other data, or with another configuration.
        """
        path = self.checkpointer.last() if resume else None
        if path is not None:
            self._resume(path, anyway=resume == ANYWAY)
            return
        if self.cfg.MODEL.WEIGHTS:
            self.started_from = comm.broadcast(self._checksum_of_weights())
            coverage = self.cfg.MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE
            load_weights(self.bare_model, self.cfg.MODEL.WEIGHTS, to_train=True, min_coverage=coverage)
            interface_of(self.bare_model).check_weights()
        elif required := interface_of(self.bare_model).required_prefixes:
            raise WeightsError(
                f"{type(self.bare_model).__name__} starts from a checkpoint that fills {', '.join(required)}: "
                "set MODEL.WEIGHTS to one (for stage 2, stage 1's model_best.pth or model_final.pth)"
            )
        elif resume:
            logger.info("nothing to resume in %s: starting anew", self.cfg.OUTPUT_DIR)

    def _checksum_of_weights(self) -> str | None:
        """Of the file MODEL.WEIGHTS, for a run to know it by; None if there is none, and in other processes."""
        return sha256_of(self.cfg.MODEL.WEIGHTS) if self.cfg.MODEL.WEIGHTS and comm.is_main_process() else None

    def _clear_folder(self) -> None:
        """Remove what a process that was killed left half-written; set aside what an earlier, other run left.

        A run that starts anew must not be resumed as, or judged by, one that used the folder before.
        """
        folder = Path(self.cfg.OUTPUT_DIR)
        if comm.is_main_process():
            remove_leftovers(folder)
            remove_leftovers(folder / "plots")
            if not self.start_iter:
                (folder / RECORD).unlink(missing_ok=True)
                if moved := self.checkpointer.set_aside():
                    logger.warning("checkpoints of an earlier run in %s are now %s", folder, ", ".join(moved))
        comm.synchronize()

    def _calibrate(self) -> None:
        """Show a model that asks for it (``calibrate``) about 4096 training images, unaugmented: all images of some."""
        calibrate = getattr(self.bare_model, "calibrate", None)
        if calibrate is None:
            return
        if is_sharded(self.bare_model):
            self.bare_model.unshard()
        if comm.is_main_process():
            data = self.data_loader.dataset
            stride = -(-len(data) // 4096)
            # Labels, not ids: people of different data sets may share an id.
            images = [
                dataclasses.replace(image, person=label)
                for image, label in zip(data.images, data.labels, strict=True)
                if label % stride == 0
            ]
            with self.autocast():
                calibrate(self.build_feature_loader(self.cfg, images))
        if is_sharded(self.bare_model):
            self.bare_model.reshard()
        comm.copy_from_main(self.bare_model.buffers())

    def _identify(self) -> Identity:
        """What this run trains on, the same in all processes; the main one reads the images."""
        if self.identity is None and comm.is_main_process():
            data = self.data_loader.dataset
            images, labels = getattr(data, "images", None), getattr(data, "labels", None)
            self.identity = training_identity(self.cfg, images, labels, optimizer=self.optimizer) | self._of_model
        self.identity = comm.broadcast(self.identity)
        return self.identity

    def _resume(self, path: os.PathLike[str], *, anyway: bool = False) -> None:
        content = read_checkpoint(path, lazily=True)
        self.changed_at_resume = check_resumable(path, content, self._identify(), self.optimizer, anyway=anyway)
        asked = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        values = self.checkpointer.resume(path)
        take_options(self.optimizer, asked, self.changed_at_resume)
        self.start_epoch, self.start_iter = values["epoch"] + 1, values["iteration"]
        self._check_weights(path, values.get("started_from"))
        best = values["best_metric"], values.get("best_iteration")
        done = comm.broadcast(self._last_evaluation())
        # A checkpoint is written before its evaluation.
        self.best_metric, self.best_iteration = (done["best_metric"], done["best_iteration"]) if done else best
        self.nonfinite_steps = values.get("nonfinite_steps", 0)
        self.nonfinite_in_a_row = values.get("nonfinite_in_a_row", 0)
        self.storage.load_state(values.get("scalars", {}))
        if self.nonfinite_steps:
            self.storage.put_totals(nonfinite_steps=self.nonfinite_steps)
        per_epoch = values.get("iters_per_epoch", self.start_iter / self.start_epoch if self.start_epoch else 0)
        if per_epoch != self.iters_per_epoch and anyway and self.start_iter == self.start_epoch * per_epoch:
            self.start_iter = self.start_epoch * self.iters_per_epoch  # an epoch is now longer or shorter
            self.schedule.set_iteration(self.start_iter)
        elif per_epoch != self.iters_per_epoch:
            raise ConfigError(
                f"{path} was written after {self.start_iter} iterations, {per_epoch:g} to an epoch, but an epoch of "
                f"this run has {self.iters_per_epoch}: resume with the same data and batch size (or, from the end of "
                "an epoch, with --resume-anyway)"
            )
        # Samplers draw from a fixed seed: without this, the first epochs' order would come again.
        fast_forward = getattr(self.data_loader.sampler, "fast_forward", None)
        if fast_forward is not None:
            fast_forward(self.start_iter)
        logger.info(
            "resumed from %s: %d of %d epochs done, iteration %d",
            path,
            self.start_epoch,
            self.max_epoch,
            self.start_iter,
        )

    def _check_weights(self, path: os.PathLike[str], started_from: str | None) -> None:
        """Warn if MODEL.WEIGHTS is now another file than the one that the run started from."""
        self.started_from = started_from
        now = self._checksum_of_weights()
        if now and started_from and now != started_from:
            logger.warning(
                "going on from %s, but MODEL.WEIGHTS %s is not the file that this run started from: to start from it "
                "instead, leave out --resume or give another OUTPUT_DIR",
                path,
                self.cfg.MODEL.WEIGHTS,
            )

    def _last_evaluation(self) -> dict[str, Any] | None:
        """The record of the evaluation of the checkpoint that was resumed, if it was finished. Main process only."""
        done = last_evaluation(self.cfg.OUTPUT_DIR) if comm.is_main_process() else None
        return dataclasses.asdict(done) if done and done.iteration == self.start_iter else None

    def train(self) -> Results:
        """Train from ``start_epoch`` to the end; of a finished run, just evaluate.

        Returns:
            The last evaluation's figures, {protocol: {"Rank-1": …}}; {} without DATASETS.TESTS.

        Raises:
            InUseError: another run writes to OUTPUT_DIR.
        """
        with output_folder(self.cfg):
            return self._train()

    def _train(self) -> Results:
        if self.start_epoch >= self.max_epoch:
            logger.info(
                "the run in %s has done its %d epochs: evaluating it",
                self.cfg.OUTPUT_DIR,
                self.max_epoch,
            )
        self._identify()
        if self.start_iter and (Path(self.cfg.OUTPUT_DIR) / "config.yaml").exists():
            write_config(self._given_cfg)
        logger.info("data:\n%s", counts_table(self.train_datasets, self.test_datasets))
        logger.info("protocols:\n%s", valid_queries_table(self.test_datasets))
        self._clear_folder()
        if self.start_iter:
            best = restore_best(self.checkpointer, self.best_metric, self.best_iteration)
            self.best_metric, self.best_iteration = best
        else:
            self._calibrate()
        self.model.train()
        super().train(self.start_epoch, self.max_epoch, self.iters_per_epoch, start_iter=self.start_iter)
        if self.nonfinite_steps:
            logger.warning("%d of %d steps were skipped: not finite", self.nonfinite_steps, self.max_iter)
        return self.results

    def give_up(self, message: str) -> None:
        """Write model_before_nonfinite.pth, the run before the first of the steps that were not finite, and stop.

        Raises:
            DivergenceError: always.
        """
        # They changed no weight, so only the count and the random states go back.
        set_rng_state(self.random_before)
        first_bad = self.iter + 1 - self.nonfinite_in_a_row
        counts = {"nonfinite_steps": self.nonfinite_steps, "nonfinite_in_a_row": 0}
        values = hooks.progress_of(self) | {"epoch": first_bad // self.iters_per_epoch - 1, "iteration": first_bad}
        path = self.checkpointer.save("model_before_nonfinite", **(values | counts))
        super().give_up(
            f"{message}; then go on with --resume-anyway. It starts from {path}, written just now: the run before the "
            f"first of these steps, after iteration {first_bad}. An earlier one can be named in last_checkpoint"
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module) -> Results:
        """Evaluate ``model`` on DATASETS.TESTS and write OUTPUT_DIR/results.json.

        Returns:
            {protocol: {"Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric", "valid_queries"}},
            in percent.

        Raises:
            InUseError: another run writes to OUTPUT_DIR.
        """
        if not cfg.DATASETS.TESTS:
            logger.warning("DATASETS.TESTS is empty: nothing to evaluate")
            return {}
        with output_folder(cfg):
            return cls._test(cfg, model)

    @classmethod
    def _test(cls, cfg: CfgNode, model: nn.Module) -> Results:
        # Running statistics differ between processes; the checkpoint has the main one's.
        comm.copy_from_main(model.buffers())
        if cls._has_own_evaluators():
            return cls._test_one_by_one(cfg, model)
        datasets = cls.build_test_datasets(cfg)
        device, enabled = resolve_device(cfg.MODEL.DEVICE), cfg.TEST.AMP.ENABLED
        autocast = functools.partial(autocast_for, cfg, device, enabled=enabled)
        return evaluate_protocols(cfg, model, datasets, cls.build_feature_loader, cfg.OUTPUT_DIR, autocast)

    @classmethod
    def _has_own_evaluators(cls) -> bool:
        own = (inspect.getattr_static(cls, name) for name in ("build_evaluator", "build_test_loader"))
        return not all(method in vars(DefaultTrainer).values() for method in own)

    @classmethod
    def _test_one_by_one(cls, cfg: CfgNode, model: nn.Module) -> Results:
        """As fast-reid evaluates: what each protocol's own evaluator makes of it, under whatever names."""
        flip = cfg.TEST.FLIP.ENABLED
        results = {
            name: dict(inference_on_dataset(model, *cls.build_evaluator(cfg, name), flip_test=flip))
            for name in cfg.DATASETS.TESTS
        }
        if comm.is_main_process():
            write_json(Path(cfg.OUTPUT_DIR) / "results.json", results)
            for name, figures in results.items():
                print_csv_format({name: figures})
        return comm.broadcast(results)

    def _evaluate(self) -> Results:
        """Of the averaged weights, if SOLVER.EMA keeps them."""
        with self.average.applied() if self.average else contextlib.nullcontext():
            return self.test(self.cfg, self.bare_model)

    def _is_evaluated(self) -> bool:
        """Whether the checkpoint that was resumed was evaluated, and all of it written."""
        return comm.broadcast(self._last_evaluation() is not None)  # machines need not share the folder

    def build_hooks(self) -> list[HookBase | None]:
        """The hooks in their order; writers only in the main process."""
        cfg, timer = self.cfg, hooks.IterationTimer()
        return [
            timer,
            hooks.LRScheduler(self.schedule),
            self.layer_freeze,
            hooks.AverageWeights(self.average) if self.average else None,
            self._build_precise_bn() if cfg.TEST.PRECISE_BN.ENABLED else None,
            hooks.PeriodicCheckpointer(
                self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, keep=cfg.SOLVER.KEEP_CHECKPOINTS
            ),
            hooks.StopOnSignal(self.checkpointer),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate, self._is_evaluated),
            hooks.BestCheckpointer(self.checkpointer),
            hooks.PeriodicWriter(self.build_writers, timer=timer) if comm.is_main_process() else None,
            hooks.EvaluationRecorder(cfg.OUTPUT_DIR) if comm.is_main_process() else None,
            hooks.TellSkippedImages(),
            ManifestWriter(cfg, self._splits, self._names) if comm.is_main_process() else None,
        ]

    @property
    def scheduler(self) -> LRSchedule:
        """``schedule``, by fast-reid's name."""
        return self.schedule

    def _splits(self) -> Splits:
        """The images that are trained on, of all data sets together, and those of each data set and protocol."""
        shown = {"all training images": {"train": getattr(self.data_loader.dataset, "images", [])}}
        return shown | splits_of(self.train_datasets, self.test_datasets)

    def _names(self) -> Names:
        """Names of people and cameras whose ids are other than their names."""
        return names_of(self.train_datasets, self.test_datasets)

    def _build_precise_bn(self) -> HookBase:
        """TEST.PRECISE_BN over training images of DATASET, "" for those of the run, in batches like the run's.

        Raises:
            ConfigError: DATASET cannot be read, or shows views that the model does not know.
        """
        cfg, keys = self.cfg.clone(), self.cfg.TEST.PRECISE_BN
        if keys.DATASET:
            cfg.defrost()
            cfg.DATASETS.NAMES = (keys.DATASET,)
            if keys.DATASET not in self.cfg.DATASETS.NAMES:
                logger.warning("batch norm statistics will be those of %s, which is not trained on", keys.DATASET)
        try:
            loader = self.build_train_loader(cfg)
            check_views(self.bare_model, getattr(loader, "sources", []))
        except (ConfigError, DatasetError, RegistryError) as error:
            raise ConfigError(
                f'TEST.PRECISE_BN.DATASET is {keys.DATASET!r} ("" is the training set): {error}'
            ) from error
        num_classes = cfg.MODEL.HEADS.NUM_CLASSES
        return PreciseBN(self.bare_model, loader, keys.NUM_ITER, num_classes=num_classes, average=self.average)

    def build_writers(self) -> Sequence[Writer]:
        """Console, OUTPUT_DIR/metrics.json and TensorBoard files in OUTPUT_DIR."""
        folder, start = self.cfg.OUTPUT_DIR, self.start_iter
        lines = JSONWriter(os.path.join(folder, "metrics.json"), start_iter=start)
        # An evaluation that was made up for is about to be written.
        written = lines.last_records(evaluations=not self.storage.has_results)
        return [
            ConsoleWriter(max_iter=self.max_iter, max_epoch=self.max_epoch, start_iter=start),
            lines,
            TensorboardWriter(folder, start_iter=start, written=written),
        ]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """MODEL.META_ARCHITECTURE with MODEL.HEADS.NUM_CLASSES classes, on MODEL.DEVICE."""
        model = build_model(cfg)
        logger.debug("model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See ``fastreid.solver.build_optimizer``."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer, iters_per_epoch: int) -> LRSchedule:
        """See ``fastreid.solver.build_lr_scheduler``."""
        return build_lr_scheduler(cfg, optimizer, iters_per_epoch)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """An endless loader with ``dataset.num_classes`` and ``iters_per_epoch``."""
        return build_reid_train_loader(cfg)

    @classmethod
    def build_test_datasets(cls, cfg: CfgNode) -> Sequence[Any]:
        """The protocols of DATASETS.TESTS."""
        return build_datasets(cfg, cfg.DATASETS.TESTS)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> tuple[Iterable[dict[str, Any]], int]:
        """Query, then gallery of a protocol, and how many of them are queries; fast-reid's method.

        A subclass that overrides it or ``build_evaluator`` is evaluated through them, protocol by protocol.
        """
        return build_reid_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None
    ) -> tuple[Iterable[dict[str, Any]], DatasetEvaluator]:
        """The loader of a protocol, and what scores it; fast-reid's method."""
        data_loader, num_query = cls.build_test_loader(cfg, dataset_name)
        return data_loader, ReidEvaluator(cfg, num_query, output_dir)

    @classmethod
    def build_feature_loader(cls, cfg: CfgNode, images: Sequence[Any]) -> Iterable[dict[str, Any]]:
        """Batches over ``images`` in order, with the test transforms."""
        return build_feature_loader(cfg, images)

    @staticmethod
    def auto_scale_hyperparams(cfg: CfgNode, num_classes: int) -> CfgNode:
        """Return a frozen copy of ``cfg`` whose MODEL.HEADS.NUM_CLASSES, if 0, is that of the data.

        Raises:
            ConfigError: NUM_CLASSES is set to fewer classes than the data has.
        """
        cfg = cfg.clone()
        asked = cfg.MODEL.HEADS.NUM_CLASSES
        if 0 < asked < num_classes:
            raise ConfigError(
                f"MODEL.HEADS.NUM_CLASSES is {asked} but the training data has {num_classes} "
                "people; set it to 0 to count them"
            )
        cfg.defrost()
        cfg.MODEL.HEADS.NUM_CLASSES = asked or num_classes
        cfg.freeze()
        return cfg
