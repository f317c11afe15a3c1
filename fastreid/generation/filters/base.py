"""What a filter of written pictures is: its input, its decision, and the registry of filters."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from fastreid.data.images import ImageAccessError, ImageReadError, read_pixels
from fastreid.utils.errors import UserError
from fastreid.utils.registry import Registry

logger = logging.getLogger(__name__)

FILTER_REGISTRY = Registry("picture filter")
"""Name -> class of a filter; `from_config` makes one from the keys DIFFPERSON.FILTER."""

UNREADABLE = "unreadable"
"""The reason of pictures whose file is missing or damaged."""


class FilterError(UserError, ValueError):
    """A filter that cannot run as the config says, or pictures that it cannot judge."""


@dataclass(frozen=True)
class Verdict:
    """The decision about one picture.

    Args:
        reason: why it is dropped, the name of the filter or "FILTER.DETAIL"; "" if it is kept.
        scores: what the decision is based on. A filter that drops a picture gives a score with the name of the reason.
    """

    reason: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The real images of a data set and their features, by the re-ID model of this data set.

    Args:
        name: name of the data set.
        features: [M, D], of the images whose people were written.
        people: the person of each, int64 [M].
        centroids: of all its people, [N, D], in the order of `centroid_people`.
        centroid_people: int64 [N].
        held_out: features and people of real images that neither the re-ID model nor the generator was trained on;
            None if there are none.
    """

    name: str
    features: Tensor
    people: Tensor
    centroids: Tensor
    centroid_people: Tensor
    held_out: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class WrittenPerson:
    """The written pictures of one person that can be read, and its real images.

    Pictures that were judged in an earlier run come first, the others in the order of their numbers.

    Args:
        gid: the person.
        source: its data set.
        numbers: of the pictures [n].
        pixels: of the pictures, n arrays uint8 [H, W, 3].
        features: of the pictures, by the model of the source, [n, D].
        real_paths: paths of the real images of the person [m].
    """

    gid: int
    source: Source
    numbers: Sequence[int]
    pixels: Sequence[np.ndarray]
    features: Tensor
    real_paths: Sequence[str]

    @functools.cached_property
    def real_pixels(self) -> list[np.ndarray]:
        """The real images, arrays uint8 [H, W, 3]; those that cannot be read are left out."""
        found = []
        for path in self.real_paths:
            try:
                found.append(read_pixels(path))
            except ImageAccessError:
                raise
            except ImageReadError as error:
                logger.warning("%s: its pictures of person %d are not compared with it", error, self.gid)
        return found


class PictureFilter(ABC):
    """Judges the pictures of one person at a time. Decisions do not depend on other people or on the order.

    Attributes:
        uses_features: whether it needs features of written and real images.
    """

    uses_features: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_config(cls, keys: Any) -> PictureFilter:
        """Return the filter that the keys DIFFPERSON.FILTER describe.

        Args:
            keys: the node of the config.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what decisions depend on, as JSON; a stage is only continued with equal settings."""

    @abstractmethod
    def judge(self, person: WrittenPerson, kept: Sequence[bool], thresholds: Mapping[str, float]) -> list[Verdict]:
        """Return a verdict for each picture.

        Args:
            person: the pictures.
            kept: whether each picture was kept by the filters before this one; for pictures that an earlier run has
                judged, whether it was kept then.
            thresholds: what `thresholds` returned for the source, now or in an earlier run.
        """

    def thresholds(self, source: Source) -> dict[str, float]:
        """Return the thresholds that are calibrated for a source; none by default.

        Args:
            source: the data set.
        """
        return {}
