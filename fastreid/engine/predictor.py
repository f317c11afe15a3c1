"""DefaultPredictor: descriptors of images by a trained model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastreid.config import CfgNode, image_size, resolve_device, with_values
from fastreid.data.build import build_feature_loader
from fastreid.data.pictures import name_of, pixels_of, source_of
from fastreid.data.transforms import build_transforms
from fastreid.engine.compiling import compile_model
from fastreid.engine.defaults import DefaultTrainer
from fastreid.modeling.amp import evaluation_autocast, store_frozen_assets
from fastreid.modeling.model import image_transforms_of
from fastreid.modeling.trained import model_for_evaluation
from fastreid.retrieval.extraction import FeatureStore
from fastreid.structures import PersonImage
from fastreid.utils.errors import ArgumentError


def build_for_evaluation(cfg: CfgNode, trainer: type[DefaultTrainer] = DefaultTrainer) -> nn.Module:
    """The model of a config with MODEL.WEIGHTS loaded, in eval mode, to be called under `evaluation_autocast`.

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
    device = resolve_device(cfg.MODEL.DEVICE)
    store_frozen_assets(cfg, model, device, only_to_evaluate=True)
    compile_model(cfg, model, device)
    return model


class DefaultPredictor:
    """Descriptors of images, by the model and weights of a config; the interface of fast-reid's class of this name.

    Typical use: ``DefaultPredictor(cfg)(images)`` or ``DefaultPredictor(cfg).describe(["a.jpg", "b.jpg"])``.
    `fastreid.Predictor` needs no config and takes boxes too.

    Args:
        cfg: the config, with MODEL.WEIGHTS; it is not changed.

    Attributes:
        cfg: a copy of the config, in which MODEL.DEVICE is the device of the model.
        model: the model, in eval mode.

    Raises:
        ConfigError: no MODEL.WEIGHTS, or a key out of its range.
        WeightsError: the file is missing, unreadable, or of another model.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = with_values(cfg, {"MODEL.DEVICE": resolve_device(cfg.MODEL.DEVICE)})
        self.model = build_for_evaluation(self.cfg)
        self._autocast = evaluation_autocast(self.cfg)

    def __call__(self, image: Any) -> Tensor:
        """Return descriptors [B, D], on the CPU.

        Args:
            image: images [B, 3, H, W] or one [3, H, W] in RGB with values in 0..255, a tensor or an array, of any size
                that the network takes; a batch of a loader; or a path, a Pillow image or an array [H, W, 3], which are
                resized as in evaluation.

        Raises:
            ArgumentError: another shape, values that are not real numbers, or a size that the network does not take.
            ImageReadError: the path is not an image.
        """
        if isinstance(image, str | os.PathLike):
            return self.describe(image)
        batch = dict(image) if isinstance(image, Mapping) else {"images": self._images_of(image)}
        if "images" not in batch:
            raise ArgumentError(f"a batch has its pictures under 'images', got {sorted(map(str, batch))}")
        images = _checked(batch["images"])
        pixels = images.round().clamp(0, 255).to("cpu", torch.uint8)
        names = [name_of(row, picture) for row, picture in enumerate(pixels)]
        batch = {"img_paths": names, **batch, "images": images.float()}
        try:
            with torch.no_grad(), self._autocast():  # not inference mode, in whose results nothing may be written
                return self.model(batch).float().cpu()
        except (RuntimeError, AssertionError, ValueError) as error:
            size, expected = tuple(images.shape[2:]), image_size(self.cfg, is_train=False)
            if size == expected or isinstance(error, torch.OutOfMemoryError):
                raise
            raise ArgumentError(
                f"{self.cfg.MODEL.BACKBONE.NAME} does not take images of {size[0]}x{size[1]}, its INPUT.SIZE_TEST is "
                f"{expected[0]}x{expected[1]} ({error}); resize them, or give paths to describe()"
            ) from error

    def _images_of(self, image: Any) -> Tensor | np.ndarray:
        """Return images [B, 3, H, W] of one picture or of several that are not resized."""
        is_picture = isinstance(image, Image.Image) or (
            isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.shape[0] != 3
        )
        if is_picture:
            return build_transforms(self.cfg, is_train=False)(pixels_of(source_of(image, "the image")))[None]
        return image[None] if isinstance(image, np.ndarray | Tensor) and image.ndim == 3 else image

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


def _checked(given: Any) -> Tensor:
    """Return images as a tensor [B, 3, H, W].

    Raises:
        ArgumentError: another shape, or values that are not real numbers.
    """
    try:
        images = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            f"images are a tensor or an array [B, 3, H, W], got {type(given).__name__}; describe(paths) reads files"
        ) from error
    if images.is_complex() or images.dtype is torch.bool:
        raise ArgumentError(f"images must be numbers in 0..255, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ArgumentError(f"images must be [B, 3, H, W], got {list(images.shape)}; describe(paths) reads files")
    return images
