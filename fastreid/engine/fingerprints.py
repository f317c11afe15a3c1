"""Checksums of the images of a data set: names, people, cameras, views and content, but not the location."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastreid.data.images import open_image
from fastreid.structures import PersonImage
from fastreid.structures.names import relative_names
from fastreid.utils.manifest import digest

_BLOCK = 4096
_READERS = 8


def split_fingerprint(images: Iterable[PersonImage]) -> dict[str, Any]:
    """Counts of a split, and a checksum of its images' names, people, cameras and views; pixels are not read."""
    images = list(images)
    names = relative_names(images)
    lines = sorted(f"{name}\t{i.person}\t{i.camera}\t{int(i.view)}" for name, i in zip(names, images, strict=True))
    return {
        "images": len(images),
        "people": len({image.person for image in images}),
        "cameras": len({image.camera for image in images}),
        "views": len({int(image.view) for image in images}),
        "sha256": digest(lines),
    }


def data_fingerprint(images: Sequence[PersonImage], labels: Sequence[int]) -> dict[str, Any]:
    """Counts, and checksums of names, their order, people, cameras, views, known attributes and content of images.

    Of the content of a file, its size and three blocks of 4 KiB are read: most images of people are smaller than that.
    """
    names = relative_names(images)
    with ThreadPoolExecutor(_READERS) as pool:
        content = list(pool.map(_probe, (image.path for image in images), chunksize=64))
    known = any(image.attributes for image in images)
    attributes = {"attributes": _digest_of_pairs(names, [image.attributes for image in images])} if known else {}
    return attributes | {
        "images": len(images),
        "classes": len({label for label in labels if label >= 0}),
        "names": digest(sorted(names)),
        "order": digest(names),
        "people": _digest_of_pairs(names, labels),
        "cameras": _digest_of_pairs(names, [image.camera for image in images]),
        "views": _digest_of_pairs(names, [int(image.view) for image in images]),
        "content": _digest_of_pairs(names, content),
    }


def _digest_of_pairs(names: Sequence[str], values: Sequence[object]) -> str:
    return digest(sorted(f"{name}\t{value}" for name, value in zip(names, values, strict=True)))


def _probe(path: str) -> str:
    """Checksum of a file's size and of its first, middle and last blocks; "unreadable" if it cannot be read."""
    checksum = hashlib.blake2b(digest_size=16)
    try:
        with open_image(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            checksum.update(f"{size}\n".encode())
            if size <= 3 * _BLOCK:
                checksum.update(file.read())
            else:
                for start in (0, size // 2, size - _BLOCK):
                    file.seek(start)
                    checksum.update(file.read(_BLOCK))
    except OSError:
        return "unreadable"
    return checksum.hexdigest()
