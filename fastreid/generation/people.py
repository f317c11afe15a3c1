"""The people of the training sets, as pictures of them are written: numbers, names and images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from fastreid.config import CfgNode
from fastreid.data.build import training_images
from fastreid.structures import PersonImage
from fastreid.utils.manifest import digest


@dataclass(frozen=True)
class Identity:
    """A person of the training sets.

    Attributes:
        gid: the class that the training loader gives to the person, 0 … N - 1.
        source: name of the data set.
        person: the person's id there, or its name.
        images: the training images.
    """

    gid: int
    source: str
    person: str
    images: tuple[PersonImage, ...]


def people_of(cfg: CfgNode) -> list[Identity]:
    """Return the people of DATASETS.NAMES, in the order of their numbers.

    Raises:
        ConfigError: as `training_images`.
        DatasetError: as `training_images`.
    """
    found = training_images(cfg)
    images: dict[int, list[PersonImage]] = defaultdict(list)
    origin: dict[int, tuple[str, str]] = {}
    for image, label, number in zip(found.images, found.labels, found.sets, strict=True):
        dataset = found.sources[number]
        names = {**dataset.training_person_names, **dataset.person_names}
        images[label].append(image)
        origin.setdefault(label, (dataset.name, str(names.get(image.person, image.person))))
    return [Identity(gid, *origin[gid], tuple(images[gid])) for gid in sorted(images)]


def digest_of(people: Sequence[Identity]) -> str:
    """Return a checksum of the data sets, names and image files of people, wherever the images are.

    Args:
        people: the people, in their order.
    """
    lines = (
        "\0".join([who.source, who.person, *(os.path.basename(image.path) for image in who.images)]) for who in people
    )
    return digest(lines)


def enough_images(people: Sequence[Identity], least: int) -> tuple[list[Identity], list[Identity]]:
    """Return the people with at least so many images, and the others.

    Args:
        people: the people.
        least: DIFFPERSON.MIN_IMAGES.
    """
    kept = [who for who in people if len(who.images) >= least]
    return kept, [who for who in people if len(who.images) < least]
