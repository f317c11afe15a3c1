"""The real images that written pictures are compared with: their features, and the thresholds that they suggest."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastreid.generation.embedding import Embed, embed_many
from fastreid.generation.filters.base import FilterError, PictureFilter, Source
from fastreid.generation.filters.settings import StageSettings
from fastreid.labeling.centroids import centroids
from fastreid.structures import PersonImage


@dataclass(frozen=True)
class RealImages:
    """The real images of a source; `person` of each is its gid.

    Args:
        images: all training images.
        held_out: images of the same people that neither the re-ID model nor the generator was trained on.
    """

    images: Sequence[PersonImage]
    held_out: Sequence[PersonImage] = ()

    @functools.cached_property
    def paths(self) -> dict[int, list[str]]:
        """Paths of the training images of each person."""
        found: dict[int, list[str]] = {}
        for image in self.images:
            found.setdefault(image.person, []).append(image.path)
        return found


class Sources:
    """The sources of a filter stage; features are computed when a source is used first.

    Args:
        real: name -> images.
        embed: computes features; it is not called if no filter uses them.
        filters: name -> filter.
        settings: of the stage; thresholds are read from it, or calibrated and added to it.
    """

    def __init__(
        self,
        real: Mapping[str, RealImages],
        embed: Embed,
        filters: Mapping[str, PictureFilter],
        settings: StageSettings,
    ) -> None:
        self.real = real
        self._embed, self._filters, self._settings = embed, filters, settings
        self._uses_features = any(judge.uses_features for judge in filters.values())
        self._found: dict[str, tuple[Source, dict[str, dict[str, float]]]] = {}

    def get(self, name: str) -> tuple[Source, dict[str, dict[str, float]]]:
        """Return a source and its thresholds (filter -> name -> value).

        Args:
            name: name of the data set.

        Raises:
            FilterError: there is no such source.
        """
        if name not in self.real:
            raise FilterError(
                f"there are written pictures of people of {name}, but the sources are {', '.join(self.real)}: use the "
                "DATASETS.NAMES that they were written with"
            )
        if name not in self._found:
            source = self._source(name)
            self._found[name] = source, self._thresholds(source)
        return self._found[name]

    def embed(self, paths: Sequence[str], name: str) -> Tensor:
        """Return features [n, D] of images; [n, 0] if no filter uses features.

        Args:
            paths: of the images.
            name: the source.
        """
        return self._embed(paths, name) if self._uses_features else torch.zeros(len(paths), 0)

    def _source(self, name: str) -> Source:
        real = self.real[name]
        features, people = self._features(real.images, name)
        known, index = people.unique(return_inverse=True)
        held_out = self._features(real.held_out, name) if real.held_out else None
        return Source(name, features, people, centroids(features, index), known, held_out)

    def _features(self, images: Sequence[PersonImage], name: str) -> tuple[Tensor, Tensor]:
        people = torch.tensor([image.person for image in images], dtype=torch.int64)
        paths = [image.path for image in images]
        return embed_many(self.embed, paths, name, f"computing features of {name}"), people

    def _thresholds(self, source: Source) -> dict[str, dict[str, float]]:
        thresholds = self._settings.thresholds().get(source.name)
        if thresholds is None:
            thresholds = {name: found for name, judge in self._filters.items() if (found := judge.thresholds(source))}
            self._settings.add(source.name, thresholds)
        return thresholds
