"""The pictures of a caption file, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastreid.utils.errors import UserError
from fastreid.utils.progress import progress


class CaptionFileError(UserError, ValueError):
    """A picture of a caption file that cannot be read."""


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures and what they show.

    Attributes:
        pictures: [N, 3, H, W], uint8.
        captions: their N captions.
    """

    pictures: Tensor
    captions: Sequence[str]


def load_pictures(captions: Mapping[str, str], height: int, width: int) -> CaptionedPictures:
    """Read the pictures of a caption file, and resize them.

    Args:
        captions: path -> caption, as of `fastreid.methods.diffusion_reid.captions.read_captions`.
        height: H.
        width: W.

    Raises:
        CaptionFileError: a picture is missing or damaged; the message names it.
    """
    pictures = np.empty((len(captions), height, width, 3), np.uint8)
    for number, path in enumerate(progress(captions, len(captions), "reading pictures")):
        try:
            with Image.open(path) as picture:
                small = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        except OSError as error:
            raise CaptionFileError(f"{path}, which has a caption, cannot be read: {error}") from error
        pictures[number] = np.asarray(small)
    return CaptionedPictures(torch.from_numpy(pictures).permute(0, 3, 1, 2), list(captions.values()))
