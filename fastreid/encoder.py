"""Predictor: features of pictures and of people in frames, by a checkpoint alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.config import CfgNode, image_size, resolve_device
from fastreid.data.dataset import Item, Transform, collate, view_of, with_floats
from fastreid.data.images import simplejpeg_is_as_pillow
from fastreid.data.pictures import Picture, Source, crops_of, name_of, pixels_of, source_of, sources_of
from fastreid.data.transforms import Pixels, build_transforms
from fastreid.data.transforms.resize import compiled_resize
from fastreid.modeling.amp import evaluation_autocast, store_frozen_assets
from fastreid.modeling.model import image_transforms_of
from fastreid.modeling.trained import load_trained
from fastreid.retrieval.extraction import embed_batch
from fastreid.utils.cores import usable_cores
from fastreid.utils.counts import whole_number, yes_or_no
from fastreid.utils.errors import ArgumentError

_MOST_THREADS = 8  # that read and resize images


class Predictor:
    """Features of pictures by a trained model, as an evaluation computes them.

    Typical use: ``Predictor("model_final.pth").embed(["a.jpg", "b.jpg"])``, or ``embed(frame, boxes)``. Pictures are
    read and resized in threads of this process; no worker processes are started.

    Args:
        checkpoint: the file; it carries its config.
        config: a config, or a YAML file, instead of the one that the checkpoint carries.
        device: where the model computes; by default CUDA if torch sees it, else the CPU.

    Attributes:
        cfg: the config.
        model: the model, in eval mode and without gradients.

    Raises:
        ConfigError: no such file, no config, or one that cannot be used here.
        WeightsError: the file is damaged or of another model.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        *,
        config: CfgNode | str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.model, self.cfg = load_trained(checkpoint, config=config, device="auto" if device is None else device)
        self._transforms: dict[str, Transform] = {
            "images": build_transforms(self.cfg, is_train=False),
            **image_transforms_of(self.cfg, is_train=False),
        }
        # Checked, with a log message, once for all threads.
        compiled_resize()
        simplejpeg_is_as_pillow()
        store_frozen_assets(self.cfg, self.model, resolve_device(self.cfg.MODEL.DEVICE), only_to_evaluate=True)
        self._autocast = evaluation_autocast(self.cfg)

    @functools.cached_property
    def dim(self) -> int:
        """D, the number of values of a feature."""
        return self.embed(np.zeros((*image_size(self.cfg, is_train=False), 3), np.uint8)).shape[1]

    def embed(
        self,
        images: Picture | Iterable[Picture],
        boxes: Any = None,
        *,
        bgr: bool = False,
        normalize: bool = True,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return the features of pictures, or of the people in a frame, in their order.

        Args:
            images: one picture or several: paths, Pillow images, arrays [H, W, 3] or tensors [3, H, W], also mixed, or
                an array [N, H, W, 3] or a tensor [N, 3, H, W]. Arrays and tensors have values in 0..255; those of other
                types than uint8 are rounded. With boxes, one picture: the frame.
            boxes: [N, 4], x1, y1, x2 and y2 of each person in pixels; they are rounded, and clipped to the frame.
            bgr: whether the channels of arrays and tensors are blue, green, red, as OpenCV has them.
            normalize: scale each feature to unit length, so that the product of two is their cosine.
            batch_size: images at a time; by default TEST.IMS_PER_BATCH of the config.

        Returns:
            Features [N, D], float32 on the CPU.

        Raises:
            ArgumentError: something that is no picture, values that cannot be in 0..255, or a box without pixels.
            ImageReadError: a file is missing or not an image.
            FeatureError: a feature is NaN or infinite.
        """
        size = self.cfg.TEST.IMS_PER_BATCH if batch_size is None else whole_number(batch_size, "batch_size", 1)
        bgr, normalize = yes_or_no(bgr, "bgr"), yes_or_no(normalize, "normalize")
        sources = sources_of(images, bgr=bgr) if boxes is None else _crops(images, boxes, bgr=bgr)
        flip = self.cfg.TEST.FLIP.ENABLED
        with torch.inference_mode():
            blocks = [
                embed_batch(self.model, batch, self._autocast, flip=flip) for batch in self._batches(sources, size)
            ]
        if not blocks:
            return torch.empty(0, self.dim)
        rows = torch.cat(blocks)
        return F.normalize(rows, dim=1) if normalize else rows

    def _batches(self, sources: Iterator[Source], size: int) -> Iterator[dict[str, Any]]:
        """Yield batches; threads make the next one while the model computes."""
        numbered = enumerate(sources)
        with ThreadPoolExecutor(min(_MOST_THREADS, usable_cores())) as pool:
            waiting: Iterator[Item] | None = None
            while part := list(islice(numbered, size)):
                started = pool.map(self._item, part)
                if waiting is not None:
                    yield self._batch(waiting)
                waiting = started
            if waiting is not None:
                yield self._batch(waiting)

    def _item(self, numbered: tuple[int, Source]) -> Item:
        number, source = numbered
        pixels = pixels_of(source)
        views = {name: view_of(pixels, transform) for name, transform in self._transforms.items()}
        return {**views, "img_paths": source if isinstance(source, str) else name_of(number, _resized(views["images"]))}

    def _batch(self, items: Iterator[Item]) -> dict[str, Any]:
        return with_floats(collate(list(items)), self._transforms, self.cfg.MODEL.DEVICE)


def _resized(view: Pixels | Tensor) -> Tensor:
    return view.image if isinstance(view, Pixels) else view


def _crops(frame: Any, boxes: Any, *, bgr: bool) -> Iterator[Source]:
    """Return the parts of one frame in boxes.

    Raises:
        ArgumentError: several frames, or what `source_of` and `crops_of` refuse.
    """
    if isinstance(frame, list | tuple) or getattr(frame, "ndim", 3) == 4:
        raise ArgumentError("boxes are of one frame, got several: call embed(frame, boxes) for each frame")
    return iter(crops_of(pixels_of(source_of(frame, "the frame", bgr=bgr)), boxes))
