"""A cache of what a frozen encoder computes: training then neither decodes images nor runs the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, image_size
from fastreid.data.transforms import AUGMENTATIONS
from fastreid.modeling.array_cache import ArrayCache, FillCache
from fastreid.structures import PersonFeatures
from fastreid.utils.devices import to_device

KEY = "MODEL.SDMODEL.FEATURE_CACHE"


def check_cacheable(cfg: CfgNode) -> None:
    """Check that an image has two versions in training: as it is tested, and mirrored.

    Raises:
        ConfigError: another augmentation is enabled, or the sizes in training and test differ.
    """
    if enabled := [f"INPUT.{name}" for name in AUGMENTATIONS if cfg.INPUT[name].ENABLED]:
        raise ConfigError(
            f"{KEY} stores an image and its mirror image: turn {', '.join(enabled)} off, or empty the key"
        )
    if image_size(cfg) != image_size(cfg, is_train=False):
        raise ConfigError(f"{KEY} needs INPUT.SIZE_TRAIN and INPUT.SIZE_TEST to be the same")


class FeatureCache(ArrayCache):
    """Features of every training image and of its mirror image, [N, 2, L + 1, D].

    Args:
        folder: folder of the file.
        facts: what the features depend on beside weights and images.
    """

    def __init__(self, folder: str, facts: Sequence[Any] = ()) -> None:
        super().__init__(folder, stem="features", key=KEY, facts=facts)

    def features(self, indices: Tensor, mirrored: Tensor, device: torch.device | str = "cpu") -> PersonFeatures:
        """Return the features of images.

        Args:
            indices: [B], positions in the training set.
            mirrored: [B], whether to take the mirror image.
            device: where the features are.

        Raises:
            ArgumentError: the file is not there, or damaged.
        """
        rows = to_device(self.read(indices, mirrored), device)
        return PersonFeatures(identity=rows[:, 0], view=rows[:, 1], id_conditions=rows[:, 2:])


class FillFeatureCache(FillCache):
    """Fills a cache before the first epoch of a run, unless its file is there already.

    Args:
        cache: the cache.
        encoder: the frozen encoder.
    """

    def __init__(self, cache: FeatureCache, encoder: nn.Module) -> None:
        super().__init__(cache, encoder, self._features_of)
        self._encoder = encoder

    @property
    def name(self) -> str:
        """The class name."""
        return type(self).__name__

    def _features_of(self, batch: Mapping[str, Any]) -> Tensor:
        versions = [self._encoder(images) for images in (batch["images"], batch["images"].flip(-1))]
        rows = [torch.cat([f.identity[:, None], f.view[:, None], f.id_conditions], dim=1).float() for f in versions]
        return torch.stack(rows, dim=1)
