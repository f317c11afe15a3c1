"""Make a data set of rows of a user's own images: people and cameras get ids, and keep their names for reports."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreid.config import ConfigError
from fastreid.data.benchmarks.base import SPLITS
from fastreid.data.datasets.bases import ImageDataset
from fastreid.structures import JUNK_PERSON, UNNAMED_PERSON, PersonImage
from fastreid.structures.names import differing_in_spelling, number_names
from fastreid.utils.logger import log_once

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """An image of a user.

    Attributes:
        path: absolute path.
        person: name of the person; None where people are not known.
        camera: name of the camera; None where cameras are not known.
        view: 0 aerial, 1 ground, 2 wearable.
        split: train, query or gallery.
    """

    path: str
    person: str | None
    camera: str | None = None
    view: int = 0
    split: str = "train"


def dataset_of(place: Path, rows: Sequence[Row], *, junk: str | None = None, unlabelled: str = "") -> ImageDataset:
    """Make a data set of rows.

    Args:
        place: the file or folder that the rows were read from.
        rows: the images.
        junk: the name of images without a person, where the format has one.
        unlabelled: why no row has a person, all being for training; "" if they have.
    """
    people = number_names((row.person for row in rows if row.person is not None), junk)
    has_cameras = any(row.camera is not None for row in rows)
    cameras = number_names(row.camera or "" for row in rows) if has_cameras else {}
    splits: dict[str, list[PersonImage]] = {split: [] for split in SPLITS}
    for row in rows:
        # Without cameras, all queries have one and the gallery another, so that no match is removed.
        camera = cameras[row.camera or ""] if has_cameras else int(row.split == "gallery")
        splits[row.split].append(PersonImage(row.path, _id_of(row.person, people), camera, row.view))
    _warn_of_splits(place, splits, has_cameras=has_cameras)
    for what, names in (("people", people), ("cameras", cameras)):
        if similar := differing_in_spelling(names, what):
            _warn(f"{place}: {similar}")
    dataset = ImageDataset(splits["train"], splits["query"], splits["gallery"])
    dataset.place, dataset.unlabelled = str(place), unlabelled
    dataset.person_names = _names_of(people, junk)
    dataset.camera_names = _names_of(cameras)
    return dataset


def _id_of(person: str | None, people: dict[str, int]) -> int:
    return UNNAMED_PERSON if person is None else people[person]


def _names_of(numbers: dict[str, int], junk: str | None = None) -> dict[int, str]:
    """Id -> name; empty where every name is the number itself."""
    names = {number: name for name, number in numbers.items() if name != junk}
    return {} if all(str(number) == name for number, name in names.items()) else names


def _warn_of_splits(place: Path, splits: dict[str, list[PersonImage]], *, has_cameras: bool) -> None:
    query, gallery = splits["query"], splits["gallery"]
    if not has_cameras and (query or gallery):
        _warn(f"{place} has no cameras: the same-camera rule is off, gallery images of the query's own camera count")
    if not has_cameras and (shared := _files_of(query) & _files_of(gallery)):
        _warn(
            f"{place}: {len(shared)} images are both in query and in gallery: each finds itself, figures will flatter"
        )
    if bool(query) != bool(gallery):
        there, absent = ("query", "gallery") if query else ("gallery", "query")
        _warn(f"{place} has {there} images and no {absent} images: it cannot be evaluated")
    if unnamed := sum(image.person == JUNK_PERSON for image in splits["train"]):
        logger.info("%s: %d training images of no person are not trained on", place, unnamed)
    trained = {image.person for image in splits["train"]}
    if both := (trained & {image.person for image in (*query, *gallery)}) - {JUNK_PERSON}:
        _warn(f"{place}: {len(both)} people are both trained on and tested: figures will flatter")


def _files_of(images: list[PersonImage]) -> set[Hashable]:
    return {file_identity(image.path) for image in images}


def file_identity(path: str | os.PathLike[str]) -> Hashable:
    """What two paths of one file have in common, also if one is a link."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.normpath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def refuse_shared_files(sources: Sequence[ImageDataset]) -> None:
    """Check that no training image belongs to two data sets, if one of them has own images, which may be anywhere.

    Raises:
        ConfigError: an image does.
    """
    if len(sources) < 2 or not any(getattr(dataset, "place", "") for dataset in sources):
        return
    folder_of = functools.lru_cache(None)(lambda folder: os.path.realpath(folder))
    seen: dict[tuple[str, str], str] = {}
    for dataset in sources:
        paths = (image.path for image in dataset.train)
        files = {(folder_of(os.path.dirname(path)), os.path.basename(path)) for path in paths}
        if both := sorted(files & seen.keys()):
            raise ConfigError(
                f"DATASETS.NAMES: {len(both)} training images of {dataset.name} are also in {seen[both[0]]}, such as "
                f"{os.path.join(*both[0])}: each person would be two classes; name one of the two"
            )
        seen.update(dict.fromkeys(files, dataset.name))


def _warn(sentence: str) -> None:
    log_once(logger, logging.WARNING, sentence)
