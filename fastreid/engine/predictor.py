"""DefaultPredictor: descriptors of images by a trained model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, image_size, resolve_device, with_values
from fastreid.data.build import build_feature_loader
from fastreid.data.pictures import name_of
from fastreid.engine.amp import evaluation_autocast, store_frozen_assets
from fastreid.engine.compiling import compile_model
from fastreid.engine.defaults import DefaultTrainer
from fastreid.modeling.model import image_transforms_of
from fastreid.modeling.trained import model_for_evaluation
from fastreid.retrieval.extraction import FeatureStore
from fastreid.structures import PersonImage
from fastreid.utils.errors import ArgumentError


def build_for_evaluation(cfg: CfgNode, trainer: type[DefaultTrainer] = DefaultTrainer) -> nn.Module:
    """The model of a config with MODEL.WEIGHTS loaded, in eval mode.

    Args:
        cfg: the config.
        trainer: the class whose `build_model` builds it.

    Raises:
        ConfigError: no MODEL.WEIGHTS, a key out of its range, or MODEL.COMPILE where torch.compile does not work.
        WeightsError: the file is missing, unreadable, or of another model.
    """
    model = model_for_evaluation(
        cfg, lambda built: trainer.build_model(trainer.auto_scale_hyperparams(built, num_classes=1))
    )
    compile_model(cfg, model, resolve_device(cfg.MODEL.DEVICE))
    return model


class DefaultPredictor:
    """Descriptors of images, by the model and weights of a config; the interface of fast-reid's class of this name.

    Typical use: ``DefaultPredictor(cfg)(images)`` or ``DefaultPredictor(cfg).describe(["a.jpg", "b.jpg"])``.
    `fastreid.Predictor` needs no config and takes pictures in memory and boxes too.

    Args:
        cfg: the config, with MODEL.WEIGHTS.

    Raises:
        ConfigError: no MODEL.WEIGHTS, or a key out of its range.
        WeightsError: the file is missing, unreadable, or of another model.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg, self.model = cfg, build_for_evaluation(cfg)
        store_frozen_assets(cfg, self.model, resolve_device(cfg.MODEL.DEVICE), only_to_evaluate=True)
        self._autocast = evaluation_autocast(cfg)

    def __call__(self, image: Tensor | np.ndarray) -> Tensor:
        """Return descriptors [B, D], on the CPU, of images [B, 3, H, W] in 0..255, in the size of evaluation.

        Raises:
            ValueError: another shape, or values that are not real numbers.
        """
        image = torch.as_tensor(image)
        if image.is_complex() or image.dtype is torch.bool:
            raise ValueError(f"images must be numbers in 0..255, got {image.dtype}")
        height, width = image_size(self.cfg, is_train=False)
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, height, width):
            raise ArgumentError(
                f"images must be [B, 3, {height}, {width}] (INPUT.SIZE_TEST), got {list(image.shape)}; "
                "describe(paths) reads and resizes files"
            )
        pixels = image.round().clamp(0, 255).to("cpu", torch.uint8)
        names = [name_of(row, picture) for row, picture in enumerate(pixels)]
        batch: dict[str, Any] = {"images": image.float(), "img_paths": names}
        with torch.inference_mode(), self._autocast():
            return self.model(batch).float().cpu()

    def describe(self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Tensor:
        """Return descriptors [N, D] of image files, which are read and resized as in evaluation.

        Args:
            paths: one path, or several.

        Raises:
            ImageReadError: a file is not an image.
        """
        paths = [paths] if isinstance(paths, str | os.PathLike) else paths
        images = [PersonImage(os.fsdecode(path), 0, 0) for path in paths]
        if not images:
            return torch.empty(0, 0)
        unique = list({image.path: image for image in images}.values())
        cfg = with_values(self.cfg, {"DATALOADER.BAD_IMAGES": "raise"})  # every image has its row
        store = FeatureStore()
        loader = build_feature_loader(cfg, unique, image_transforms_of(cfg, is_train=False))
        store.extract(self.model, loader, self._autocast, flip=cfg.TEST.FLIP.ENABLED)
        return store.select(images)
