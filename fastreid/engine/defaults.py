"""DefaultTrainer: builds a run from a config; each part can be replaced by overriding one method."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastreid.config import CfgNode, ConfigError, check_ranges, resolve_device, with_values
from fastreid.data import build_datasets, build_feature_loader, build_reid_test_loader, build_reid_train_loader
from fastreid.data.check import counts_table
from fastreid.data.datasets import DatasetError
from fastreid.engine import hooks
from fastreid.engine.accumulation import accumulation_steps
from fastreid.engine.compiling import compile_model
from fastreid.engine.epoch_tasks import build_epoch_tasks
from fastreid.engine.evaluations import EVALUATIONS, build_evaluation
from fastreid.engine.freezing import build_epoch_freeze, build_layer_freeze
from fastreid.engine.identity import model_identity
from fastreid.engine.manifest import ALL_TRAINING, ManifestWriter, Names, Splits, names_of, splits_of
from fastreid.engine.precise_bn import PreciseBN
from fastreid.engine.resumable import ResumableTrainer
from fastreid.engine.setup import output_folder, write_config
from fastreid.engine.sharding import is_sharded, keep_whole, replicated, shard
from fastreid.engine.trainer_base import HookBase
from fastreid.engine.training_loader import TrainingLoader
from fastreid.evaluation import (
    DatasetEvaluator,
    ReidEvaluator,
    inference_on_dataset,
    print_csv_format,
)
from fastreid.evaluation.results import write_json
from fastreid.modeling import build_model, interface_of
from fastreid.modeling.amp import amp_dtype, autocast_for, evaluation_autocast, store_frozen_assets
from fastreid.modeling.backbones import with_local_weights
from fastreid.modeling.model import RANKING, Transform, evaluation_of, image_transforms_of, needs_labels_of
from fastreid.modeling.trained import config_text
from fastreid.retrieval.extraction import BatchLoader
from fastreid.solver import LRSchedule, build_gradient_clipper, build_lr_scheduler, build_optimizer
from fastreid.solver.ema import build_weight_average
from fastreid.solver.milestones import misfits
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.registry import RegistryError
from fastreid.utils.writers import ConsoleWriter, JSONWriter, TensorboardWriter, Writer

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]


class DefaultTrainer(ResumableTrainer):
    """Builds model, data, optimiser, schedule, hooks and checkpoints from ``cfg``.

    Typical use: ``trainer = DefaultTrainer(cfg); trainer.resume_or_load(resume); trainer.train()``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        check_ranges(cfg)
        cfg = with_local_weights(cfg)
        data_loader = self.build_train_loader(cfg)
        self.loader = TrainingLoader(data_loader)
        self._given_cfg = cfg
        # The number of people is a label too.
        num_classes = self.loader.num_classes if needs_labels_of(cfg) else 0
        self.cfg = self.auto_scale_hyperparams(cfg, num_classes)
        # The whole model may not fit on one device if it is sharded.
        built_on = {"MODEL.DEVICE": "cpu"} if self.cfg.SOLVER.FSDP.ENABLED else {}
        self.bare_model = self.build_model(with_values(self.cfg, built_on))
        self.model_facts = model_identity(self.bare_model)  # before it is sharded
        self.layer_freeze = build_layer_freeze(self.cfg, self.bare_model)
        device = torch.device(resolve_device(self.cfg.MODEL.DEVICE))
        store_frozen_assets(self.cfg, self.bare_model, device)
        compile_model(self.cfg, self.bare_model, device)
        shard(self.cfg, self.bare_model, device)
        built: Any = self.build_optimizer(self.cfg, self.bare_model)
        optimizer = built[0] if isinstance(built, tuple) else built  # fast-reid's method returns a pair
        if is_sharded(self.bare_model):
            keep_whole(optimizer)
        use_scaler = amp_dtype(self.cfg, device) is torch.float16
        super().__init__(
            replicated(self.bare_model),
            data_loader,
            optimizer,
            autocast=functools.partial(autocast_for, self.cfg, device),
            scaler=torch.amp.GradScaler(device.type, enabled=use_scaler),
            clip_gradients=build_gradient_clipper(self.cfg),
            accumulation_steps=accumulation_steps(self.cfg),
            max_nonfinite=self.cfg.SOLVER.MAX_NONFINITE,
        )
        self.max_epoch, self.iters_per_epoch = self.cfg.SOLVER.MAX_EPOCH, self.loader.iters_per_epoch
        self.schedule = self.build_lr_scheduler(self.cfg, optimizer, self.iters_per_epoch)
        for sentence in misfits(self.cfg, self.schedule, self.iters_per_epoch):
            logger.warning("the schedule does not fit the run: %s", sentence)
        self.average = build_weight_average(self.cfg, self.bare_model)
        self.checkpointer = Checkpointer(
            self.bare_model, self.cfg.OUTPUT_DIR, average=self.average, config_text=config_text(self.cfg),
            optimizer=optimizer, scheduler=self.schedule, scaler=self.scaler,
        )  # fmt: skip
        self.train_datasets = self.loader.sources
        self.test_datasets = self.build_test_datasets(self.cfg)
        self._check_data()
        self.epoch_tasks = build_epoch_tasks(
            interface_of(self.bare_model).epoch_tasks(),
            self.bare_model,
            self.loader,
            self.batches_of,
            self.average,
            self.cfg.OUTPUT_DIR,
        )
        self.register_hooks([self.epoch_tasks, *self.build_hooks()])

    def batches_of(
        self, images: Sequence[Any], transforms: Mapping[str, Transform] | None, cfg: CfgNode | None = None
    ) -> BatchLoader:
        """Batches over images in order, for epoch tasks; by default with the config of the run."""
        cfg = cfg or self.cfg
        if transforms is None:
            return self.build_feature_loader(cfg, images)
        return build_feature_loader(cfg, images, transforms)

    def _check_data(self) -> None:
        """Check all data sets before training, so that mistakes are not found after hours."""
        if self.loader.images is not None:
            interface_of(self.bare_model).check_data(self.loader.images)
        self._protocols = build_evaluation(self.cfg).check(self.cfg, self.train_datasets, self.test_datasets)

    def train(self) -> Results:  # type: ignore[override]  # fast-reid's signature
        """Train from ``start_epoch`` to the end; evaluate only if the run is finished.

        Returns:
            The last evaluation's figures, {protocol: {"Rank-1": …}}; {} without DATASETS.TESTS.

        Raises:
            InUseError: another run writes to OUTPUT_DIR.
        """
        with output_folder(self.cfg):
            return self._train()

    def _train(self) -> Results:
        if self.start_epoch >= self.max_epoch:
            logger.info("the run in %s has finished its %d epochs: evaluating it", self.cfg.OUTPUT_DIR, self.max_epoch)
        self._identify()
        if self.start_iter and (Path(self.cfg.OUTPUT_DIR) / "config.yaml").exists():
            write_config(self._given_cfg)
        logger.info("data:\n%s", counts_table(self.train_datasets, self.test_datasets))
        if self._protocols:
            logger.info("protocols:\n%s", build_evaluation(self.cfg).table(self._protocols))
        self._prepare_folder()
        if self.start_iter:
            self._restore_best()
        self.model.train()
        super().train(self.start_epoch, self.max_epoch, self.iters_per_epoch, start_iter=self.start_iter)
        if self.nonfinite_steps:
            logger.warning("%d of %d steps were skipped: not finite", self.nonfinite_steps, self.max_iter)
        return self.results

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, *, datasets: Sequence[Any] | None = None) -> Results:
        """Evaluate ``model`` on DATASETS.TESTS and write OUTPUT_DIR/results.json.

        Args:
            cfg: the config.
            model: the bare model.
            datasets: the protocols of DATASETS.TESTS, if they were read before.

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
            return cls._test(cfg, model, datasets)

    @classmethod
    def _test(cls, cfg: CfgNode, model: nn.Module, datasets: Sequence[Any] | None) -> Results:
        # Running statistics differ between processes; the checkpoint has the main one's.
        comm.copy_from_main(model.buffers())
        if cls._overrides("build_evaluator", "build_test_loader"):
            return cls._test_one_by_one(cfg, model)
        datasets = cls.build_test_datasets(cfg) if datasets is None else datasets
        return EVALUATIONS[evaluation_of(cfg)].run(
            cfg, model, datasets, cls.build_feature_loader, cfg.OUTPUT_DIR, evaluation_autocast(cfg)
        )

    @classmethod
    def _overrides(cls, *names: str) -> bool:
        """Whether a subclass overrides one of these methods."""
        return any(inspect.getattr_static(cls, name) is not vars(DefaultTrainer)[name] for name in names)

    @classmethod
    def _test_one_by_one(cls, cfg: CfgNode, model: nn.Module) -> Results:
        """Evaluate as fast-reid does: each protocol with its own evaluator and figures."""
        options = {"flip_test": cfg.TEST.FLIP.ENABLED, "autocast": evaluation_autocast(cfg)}
        results = {
            name: dict(inference_on_dataset(model, *cls.build_evaluator(cfg, name), **options))
            for name in cfg.DATASETS.TESTS
        }
        if comm.is_main_process():
            write_json(Path(cfg.OUTPUT_DIR) / "results.json", results)
            for name, figures in results.items():
                print_csv_format({name: figures})
        return comm.broadcast(results)

    def _evaluate(self) -> Results:
        """Evaluate the averaged weights if SOLVER.EMA keeps them, else the weights; data sets are not read again."""
        with self.average.applied() if self.average else contextlib.nullcontext():
            if self._overrides("test"):  # it may have fast-reid's arguments
                return self.test(self.cfg, self.bare_model)
            return self.test(self.cfg, self.bare_model, datasets=self._protocols)

    def build_hooks(self) -> list[HookBase | None]:
        """The hooks in their order; writers only in the main process."""
        cfg, timer = self.cfg, hooks.IterationTimer()
        return [
            timer,
            hooks.LRScheduler(self.schedule),
            self.layer_freeze,
            build_epoch_freeze(self.bare_model),
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
            self._build_report_writer(),
            hooks.LogSkippedImages(),
            ManifestWriter(cfg, self._splits, self._names) if comm.is_main_process() else None,
        ]

    @property
    def scheduler(self) -> LRSchedule:
        """``schedule``, by fast-reid's name."""
        return self.schedule

    def _splits(self) -> Splits:
        """The training images of all data sets together, and the images of each data set and protocol."""
        shown: Splits = {ALL_TRAINING: {"train": self.loader.images or []}}
        return shown | splits_of(self.train_datasets, self.test_datasets)

    def _names(self) -> Names:
        """Names of people and cameras that differ from their ids."""
        return names_of(self.train_datasets, self.test_datasets)

    def _build_report_writer(self) -> HookBase | None:
        """The hook of TEST.REPORT; user-defined evaluators do not write the ranked lists that a report shows."""
        if self._overrides("build_evaluator", "build_test_loader"):
            logger.info("no report.html will be written: a report needs the evaluation of DefaultTrainer")
            return None
        return hooks.ReportWriter(self.cfg)

    def _build_precise_bn(self) -> HookBase:
        """The hook of TEST.PRECISE_BN, over training images of DATASET; "" stands for those of the run.

        Raises:
            ConfigError: DATASET cannot be read, or the model cannot train on its images or needs no labels.
        """
        if not needs_labels_of(self.cfg):
            raise ConfigError(
                "TEST.PRECISE_BN draws batches with the labels of the data set, but "
                f"{self.cfg.MODEL.META_ARCHITECTURE} makes its own: set TEST.PRECISE_BN.ENABLED to False"
            )
        cfg, keys = self.cfg.clone(), self.cfg.TEST.PRECISE_BN
        if keys.DATASET:
            cfg.defrost()
            cfg.DATASETS.NAMES = (keys.DATASET,)
            if keys.DATASET not in self.cfg.DATASETS.NAMES:
                logger.warning("batch norm statistics will be those of %s, which is not a training set", keys.DATASET)
        try:
            loader = self.build_train_loader(cfg)
            interface_of(self.bare_model).check_data(TrainingLoader(loader).images or [])
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
        # The results of an evaluation that the resumed run has repeated are written next.
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
        transforms = image_transforms_of(cfg, is_train=True)
        return build_reid_train_loader(cfg, transforms, needs_labels=needs_labels_of(cfg))

    @classmethod
    def build_test_datasets(cls, cfg: CfgNode) -> Sequence[Any]:
        """The protocols of DATASETS.TESTS."""
        return build_datasets(cfg, cfg.DATASETS.TESTS)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> tuple[BatchLoader, int]:
        """Batches of query, then gallery of a protocol, and the number of queries; fast-reid's method.

        If a subclass overrides it or ``build_evaluator``, each protocol is evaluated through them.
        """
        return build_reid_test_loader(cfg, dataset_name, image_transforms=image_transforms_of(cfg, is_train=False))

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None
    ) -> tuple[BatchLoader, DatasetEvaluator]:
        """The loader of a protocol and its evaluator; fast-reid's method."""
        if evaluation_of(cfg) != RANKING:
            raise ConfigError(
                f"{cfg.MODEL.META_ARCHITECTURE} gives no descriptors to rank: a trainer that overrides "
                "build_test_loader must override build_evaluator, too"
            )
        data_loader, num_query = cls.build_test_loader(cfg, dataset_name)
        return data_loader, ReidEvaluator(cfg, num_query, output_dir)

    @classmethod
    def build_feature_loader(cls, cfg: CfgNode, images: Sequence[Any]) -> BatchLoader:
        """Batches over ``images`` in order, with the test transforms."""
        return build_feature_loader(cfg, images, image_transforms_of(cfg, is_train=False))

    @staticmethod
    def auto_scale_hyperparams(cfg: CfgNode, num_classes: int) -> CfgNode:
        """Return a frozen copy of ``cfg`` whose MODEL.HEADS.NUM_CLASSES, if 0, is that of the data.

        Raises:
            ConfigError: NUM_CLASSES is set to fewer classes than the data has.
        """
        given = cfg.MODEL.HEADS.NUM_CLASSES
        if 0 < given < num_classes:
            raise ConfigError(
                f"MODEL.HEADS.NUM_CLASSES is {given} but the training data has {num_classes} "
                "people; set it to 0 to use that number"
            )
        return with_values(cfg, {"MODEL.HEADS.NUM_CLASSES": given or num_classes})
