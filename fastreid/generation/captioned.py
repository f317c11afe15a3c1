"""Pictures with captions, from a caption file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastreid.utils.errors import UserError
from fastreid.utils.progress import progress
from fastreid.utils.text import read_text


class CaptionFileError(UserError, ValueError):
    """A caption file that is damaged, or that names a picture that cannot be read."""


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures and what they show.

    Attributes:
        pictures: [N, 3, H, W], uint8.
        captions: their N captions.
    """

    pictures: Tensor
    captions: Sequence[str]


def read_captions(file: Path) -> list[tuple[Path, str]]:
    """Return (path of the picture, caption) of every line of a caption file; paths are relative to its folder.

    Args:
        file: JSON lines `{"image": path, "caption": text}`.

    Raises:
        CaptionFileError: a line has another form, or there is none; the message names it.
    """
    rows = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append((file.parent / row["image"], str(row["caption"])))
        except (ValueError, KeyError, TypeError) as error:
            raise CaptionFileError(f'{file}, line {number} is not {{"image": path, "caption": text}}') from error
    if not rows:
        raise CaptionFileError(f"{file} has no line")
    return rows


def load_pictures(rows: Sequence[tuple[Path, str]], height: int, width: int) -> CaptionedPictures:
    """Read the pictures of a caption file, and resize them.

    Args:
        rows: (path, caption) of each.
        height: H.
        width: W.

    Raises:
        CaptionFileError: a picture is missing or damaged; the message names it.
    """
    pictures = np.empty((len(rows), height, width, 3), np.uint8)
    for number, (path, _) in enumerate(progress(rows, len(rows), "reading pictures")):
        try:
            with Image.open(path) as picture:
                small = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        except OSError as error:
            raise CaptionFileError(f"{path}, which has a caption, cannot be read: {error}") from error
        pictures[number] = np.asarray(small)
    return CaptionedPictures(torch.from_numpy(pictures).permute(0, 3, 1, 2), [caption for _, caption in rows])
