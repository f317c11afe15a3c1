"""DiffPerson: generated pictures of people (Diffusion-ReID), for training only."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from fastreid.data.benchmarks.base import Benchmark, Protocol
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import FirstOf, Folder, Shards
from fastreid.data.datasets.bases import DatasetError, ImageDataset
from fastreid.structures import PersonImage, View
from fastreid.utils.logger import log_once
from fastreid.utils.suggest import explain_choice
from fastreid.utils.text import TextError, read_json

logger = logging.getLogger(__name__)

NAME = "DiffPerson"
IMAGES, SHARDS, META, EXPORT = "images", "shards", "meta.jsonl", "export.json"
_FILE_NAME = re.compile(r"(?P<gid>[0-9]{1,18})_c(?P<camera>[0-9]{1,18})_s(?P<source>[0-9]{1,18})_(?P<n>[0-9]{1,18})")


def file_name(gid: int, camera: int, source: int, number: int) -> str:
    """The file name of a picture, "00012_c1_s0_0003.jpg".

    Args:
        gid: number of the person.
        camera: pseudo-camera, the group of its prompt.
        source: number of the data set that the person is from.
        number: number of the picture.
    """
    return f"{gid:05d}_c{camera}_s{source}_{number:04d}.jpg"


def read_generated(path: Path) -> PersonImage:
    """The image of a file name that `file_name` makes.

    Raises:
        ValueError: the file name has another form.
    """
    match = _match(path)
    return PersonImage(str(path), int(match["gid"]), int(match["camera"]), View.GROUND)


def _match(path: Path) -> re.Match[str]:
    match = _FILE_NAME.fullmatch(path.stem)
    if match is None:
        raise ValueError(f"{path.name} is not GID_cCAMERA_sSOURCE_NUMBER")
    return match


# Not one of BENCHMARKS: there is no protocol that compares anything.
DIFF_PERSON = Benchmark(
    NAME,
    folders=(NAME,),
    train=FirstOf((Folder(IMAGES), Shards(SHARDS))),
    read=read_generated,
    protocols={NAME: Protocol(about="Generated people, for training.")},
    layout="""\
DiffPerson/
  images/                      00012_c1_s0_0003.jpg: person, pseudo-camera, source, number
  shards/                      or the same pictures in tar files: 000000.tar, …, index.json
  meta.jsonl                   export.json""",
)


def load_diff_person(root: str | Path, exclude_sources: Sequence[str] = ()) -> ImageDataset:
    """Generated pictures below `root`, from files or from tar shards, whichever is there.

    Args:
        root: the folder that contains DiffPerson.
        exclude_sources: names of data sets; people that were generated from theirs are left out.

    Raises:
        DatasetError: on first access: the folder is missing, images or shards are missing or damaged, or an excluded
            name is not that of a source.
    """
    dataset = ImageDataset(partial(_train, Path(root), tuple(exclude_sources)), [], [], NAME)
    dataset.training_only = "generated images for training only"
    return dataset


def _train(root: Path, excluded: Sequence[str]) -> list[PersonImage]:
    images = DIFF_PERSON.load(NAME, root).train
    home = DIFF_PERSON.home(root)
    _warn_of_counts(home, Sizes.of(images))
    if not excluded:
        return images
    numbers = source_numbers(read_sources(home), excluded, f"{home / EXPORT}")
    kept = [image for image in images if int(_match(Path(image.path))["source"]) not in numbers]
    if not kept:
        raise DatasetError(f"{home}: DATASETS.EXCLUDE_SOURCES {list(excluded)} leaves no picture")
    return kept


def _warn_of_counts(home: Path, found: Sizes) -> None:
    """Warn if the numbers of images and people are not those of export.json, if there is one."""
    try:
        facts = read_json(home / EXPORT)
        exported = Sizes(facts["images"], facts["people"])
    except (OSError, TextError, KeyError, TypeError):  # only the sources in it are needed
        return
    if (found.images, found.ids) != (exported.images, exported.ids):
        log_once(
            logger,
            logging.WARNING,
            f"{home} has {found.images} images of {found.ids} people, where {EXPORT} has {exported.images} of "
            f"{exported.ids}: files are missing, or are there twice. Run the stage export again, or copy the folder "
            "again",
        )


def read_sources(home: Path) -> list[str]:
    """The names of the source sets of an export, in the order of their numbers.

    Raises:
        DatasetError: export.json is missing or damaged.
    """
    path = home / EXPORT
    try:
        found = read_json(path)
        sources = found["sources"] if isinstance(found, Mapping) else None
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing: it names the sources that DATASETS.EXCLUDE_SOURCES leaves out. Copy it again"
        ) from None
    except (TextError, KeyError):
        sources = None
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise DatasetError(f"{path} is damaged: it has no list of sources. Copy it again")
    return sources


def source_numbers(sources: Sequence[str], excluded: Sequence[str], where: str) -> set[int]:
    """The numbers of the excluded sources.

    Args:
        sources: names of the source sets, in the order of their numbers.
        excluded: names of those that are left out.
        where: what has the sources, for the message.

    Raises:
        DatasetError: a name is not that of a source; the message has near matches.
    """
    for name in excluded:
        if name not in sources:
            raise DatasetError(f"{where}: {explain_choice('source in DATASETS.EXCLUDE_SOURCES', name, sources)}")
    return {number for number, source in enumerate(sources) if source in excluded}
