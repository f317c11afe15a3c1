"""Captions of the training images: read from a file of JSON lines, and found for the images of a run."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fastreid.config import ConfigError
from fastreid.utils.manifest import digest
from fastreid.utils.suggest import near_matches
from fastreid.utils.text import TextError, read_text

logger = logging.getLogger(__name__)

CAPTIONS_FACT = "the checksum of the captions"
"""Name of the checksum in the identity of a training."""
_SHOWN = 3


def read_captions(path: str | os.PathLike[str], root: str | os.PathLike[str] = "") -> dict[str, str]:
    """Return the captions in a file, by the real paths of the images.

    Each line is {"image": PATH, "caption": TEXT}. A path is absolute, or relative to the folder of the file or, if
    there is no such image, to the folder of the data sets.

    Args:
        path: the file.
        root: the folder of the data sets.

    Raises:
        ConfigError: the file is missing or unreadable, a line is of another form, or an image has two captions.
    """
    path = Path(path).expanduser()
    try:
        lines = read_text(path).split("\n")  # splitlines() also splits at U+2028, which a caption may have
    except (TextError, OSError) as error:
        raise ConfigError(f"the captions {path} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        image, caption = _entry(path, number, line)
        key = _place(image, (path.parent, Path(root)))
        if found.setdefault(key, caption) != caption:
            raise ConfigError(f"the captions {path}, line {number}: {image} has another caption in an earlier line")
    if not found:
        raise ConfigError(f"the captions {path}: the file is empty")
    if gone := [image for image in found if not os.path.isfile(image)]:
        logger.warning("%s: %d of %d captions are of missing images, as %s", path, len(gone), len(found), gone[0])
    return found


def _entry(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        image, caption = row["image"], row["caption"]
        if isinstance(image, str) and isinstance(caption, str) and image:
            f"{image}{caption}".encode()  # raises for halves of characters
            if "\0" not in image and all(len(os.fsencode(part)) < 256 for part in Path(image).parts):
                return image, " ".join(caption.split())
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ConfigError(
        f'the captions {path}, line {number}: expected {{"image": PATH, "caption": TEXT}}, got {line.strip()!r:.120}'
    )


def _place(image: str, folders: Sequence[Path]) -> str:
    places = [folder / image for folder in folders]  # an absolute path stays as it is
    chosen = next((place for place in places if place.is_file()), places[0])
    return os.path.realpath(chosen)


def digest_of_captions(captions: Mapping[str, str]) -> str:
    """Return a checksum of captions, wherever the images are.

    Args:
        captions: path -> caption.
    """
    return digest(sorted(f"{os.path.basename(path)}\0{text}" for path, text in captions.items()))


def captions_of(paths: Iterable[str], captions: Mapping[str, str], source: str) -> list[str]:
    """Return the caption of each image.

    Args:
        paths: paths of the images.
        captions: real path -> caption.
        source: where the captions are from, for the error message.

    Raises:
        ConfigError: images have no caption.
    """
    paths = list(paths)
    real = [os.path.realpath(path) for path in paths]
    if missing := [path for path, key in zip(paths, real, strict=True) if key not in captions]:
        shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        names = {os.path.basename(key): key for key in captions}
        near = near_matches(os.path.basename(missing[0]), names, limit=1)
        hint = f" The nearest name with a caption is {names[near[0]]}." if near else ""
        raise ConfigError(
            f"{len(missing)} of {len(paths)} training images have no caption in {source}: {shown}.{hint} Paths in the "
            "file are absolute, or relative to its folder or to DATASETS.ROOT; if images were moved, the stage caption "
            "of tools/diffperson.py writes them anew"
        )
    return [captions[key] for key in real]
