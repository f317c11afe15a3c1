"""Features of image files by trained models, for the filters and the data card."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, get_cfg, with_values
from fastreid.data.build import build_feature_loader
from fastreid.modeling.model import build_model
from fastreid.modeling.trained import load_trained
from fastreid.structures import PersonImage
from fastreid.utils.errors import ArgumentError
from fastreid.utils.precision import full_precision
from fastreid.utils.progress import progress

Load = Callable[[], tuple[nn.Module, CfgNode]]
"""() -> a model in eval mode, and the config that says how it reads images."""

Embed = Callable[[Sequence[str], str], Tensor]
"""(paths, name of a model) -> features [n, D] on the CPU."""

_AT_ONCE = 2  # models in memory
_PART = 256


class Embedder:
    """Paths of images, and the name of a model -> features [n, D] on the CPU.

    Args:
        models: name -> how the model is loaded, which happens when it is used first.
    """

    def __init__(self, models: Mapping[str, Load]) -> None:
        self._models = models
        self._load = functools.lru_cache(maxsize=_AT_ONCE)(self._loaded)

    def _loaded(self, name: str) -> tuple[nn.Module, CfgNode]:
        model, cfg = self._models[name]()
        return model, with_values(cfg, {"DATALOADER.NUM_WORKERS": 0})  # a few pictures at a time

    def __call__(self, paths: Sequence[str], name: str) -> Tensor:
        """Return the features.

        Raises:
            ImageReadError: an image cannot be read.
            ArgumentError: an image was skipped, by DATALOADER.BAD_IMAGES of the model's config.
        """
        model, cfg = self._load(name)
        rows: dict[str, Tensor] = {}
        with torch.inference_mode(), full_precision():
            for batch in build_feature_loader(cfg, [PersonImage(path, 0, 0) for path in paths]):
                rows.update(zip(batch["img_paths"], model(batch).float().cpu(), strict=True))
        if missing := [path for path in paths if path not in rows]:
            raise ArgumentError(f"{missing[0]} cannot be read: mend or remove it")
        return torch.stack([rows[path] for path in paths])


def embed_many(embed: Embed, paths: Sequence[str], name: str, description: str) -> Tensor:
    """Return features of many images, and show the progress.

    Args:
        embed: such as an `Embedder`.
        paths: of the images.
        name: of the model.
        description: for the progress, "computing features".
    """
    if len(paths) <= _PART:
        return embed(paths, name)
    parts = [paths[start : start + _PART] for start in range(0, len(paths), _PART)]
    return torch.cat([embed(part, name) for part in progress(parts, len(parts), description)])


def of_checkpoint(path: str, *, key: str, device: str) -> Load:
    """Return how the model of a checkpoint of this library is loaded; arguments as `load_trained`."""
    return functools.partial(load_trained, path, key=key, device=device)


def of_timm(name: str, weights: str, *, size: tuple[int, int], device: str) -> Load:
    """Return how a model of timm is loaded.

    Args:
        name: its name.
        weights: the file of its weights.
        size: (height, width) of the images.
        device: where the model is put.
    """

    def load() -> tuple[nn.Module, CfgNode]:
        cfg = with_values(
            get_cfg(),
            {
                "MODEL.META_ARCHITECTURE": "Baseline",
                "MODEL.DEVICE": device,
                "MODEL.BACKBONE.NAME": "build_timm_backbone",
                "MODEL.BACKBONE.TIMM_NAME": name,
                "MODEL.BACKBONE.PRETRAIN": True,
                "MODEL.BACKBONE.PRETRAIN_PATH": weights,
                "MODEL.HEADS.WITH_BNNECK": False,
                "INPUT.SIZE_TRAIN": list(size),
                "INPUT.SIZE_TEST": list(size),
            },
        )
        return build_model(cfg, num_classes=1).eval().requires_grad_(False), cfg

    return load


def neutral_model(cfg: CfgNode, size: tuple[int, int], device: str) -> Load | None:
    """Return how the network of DIFFPERSON.CARD is loaded; None if there is none.

    Args:
        cfg: the config.
        size: (height, width) of the images for a model of timm.
        device: where the model is put.

    Raises:
        ConfigError: both a checkpoint and a model of timm are named, or one without the file of its weights.
    """
    keys = cfg.DIFFPERSON.CARD
    if keys.MODEL and keys.TIMM_NAME:
        raise ConfigError("DIFFPERSON.CARD has both MODEL and TIMM_NAME: keep one of them")
    if keys.TIMM_NAME:
        if not keys.TIMM_WEIGHTS:
            raise ConfigError("DIFFPERSON.CARD.TIMM_NAME needs TIMM_WEIGHTS, the file of its weights")
        return of_timm(keys.TIMM_NAME, keys.TIMM_WEIGHTS, size=size, device=device)
    return of_checkpoint(keys.MODEL, key="DIFFPERSON.CARD.MODEL", device=device) if keys.MODEL else None
