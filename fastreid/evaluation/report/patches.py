"""Patches of a few images through the epochs of a run, drawn as outlines.

A run that places patches writes `patches.json`: `images`, the paths of N images, and `epochs`, a list of {"epoch":
number, "theta": [N, P, 2, 3]}. Each matrix maps the coordinates (x, y, 1) of a patch to x and y in the image; all are
from -1 to 1, and -1 and 1 are the edges.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fastreid.data.images import ImageReadError, read_image
from fastreid.evaluation.report.thumbnails import jpeg_uri
from fastreid.utils.colours import OKABE_ITO
from fastreid.utils.text import TextError, read_text

logger = logging.getLogger(__name__)

FILE = "patches.json"
MAX_EPOCHS = 6
HEIGHT = 224  # pixels of the image: twice what the page shows, for dense screens
MARGIN = 0.12  # around the image, as a share of its sides, so that outlines outside of it are seen
MARGIN_COLOUR = "#808080"
LINE_WIDTH = 3
_FARTHEST = 100.0  # coordinates beyond this are drawn here

Thetas = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class PatchPictures:
    """What the page shows of a run.

    Attributes:
        title: name of the run.
        epochs: the epochs that are shown.
        rows: path of each image, and its picture in each epoch as a URI.
        colours: of the patches' outlines.
        unreadable: paths of images that are left out.
        problem: why nothing is shown, as a sentence; else "".
    """

    title: str
    epochs: list[int]
    rows: list[tuple[str, list[str]]]
    colours: list[str]
    unreadable: list[str]
    problem: str = ""


def patch_pictures(folder: str | Path, title: str) -> PatchPictures | None:
    """Draw the patches of a run; None if it has none. If its file is broken, the result has the `problem` only.

    Args:
        folder: OUTPUT_DIR of the run.
        title: name of the run.
    """
    path = Path(folder) / FILE
    try:
        images, epochs = _parsed(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (TextError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"The patches of this run are left out, as {path} is broken ({error})."
        logger.warning("%s: %s", title, problem)
        return PatchPictures(title, [], [], [], [], problem)
    chosen = np.linspace(0, len(epochs) - 1, min(MAX_EPOCHS, len(epochs))).round().astype(int)
    shown = [epochs[number] for number in chosen]
    if not images or not shown:
        return None
    rows, unreadable = [], []
    for number, image in enumerate(images):
        try:
            picture = read_image(image)
        except ImageReadError:
            unreadable.append(image)
            continue
        rows.append((image, [jpeg_uri(draw_patches(picture, theta[number])) for _, theta in shown]))
    colours = [colour_of(part) for part in range(shown[0][1].shape[1])]
    return PatchPictures(title, [epoch for epoch, _ in shown], rows, colours, unreadable)


def draw_patches(picture: Image.Image, theta: Thetas) -> Image.Image:
    """Return the picture, HEIGHT pixels high, in a grey margin, with the outline of each patch.

    Args:
        picture: the image.
        theta: matrices [P, 2, 3].
    """
    size = np.array([max(1, round(HEIGHT * picture.width / picture.height)), HEIGHT])
    margin = np.round(MARGIN * size).astype(int)
    canvas = Image.new("RGB", tuple((size + 2 * margin).tolist()), MARGIN_COLOUR)
    canvas.paste(picture.resize(tuple(size.tolist()), Image.Resampling.BICUBIC), tuple(margin.tolist()))
    draw = ImageDraw.Draw(canvas)
    corners = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]) @ theta.transpose(0, 2, 1)  # [P, 4, 2]
    pixels = margin + (corners.clip(-_FARTHEST, _FARTHEST) + 1) / 2 * size
    for part, outline in enumerate(pixels):
        points = [tuple(point) for point in outline.tolist()]
        width = LINE_WIDTH + 2 * (len(pixels) - 1 - part)  # where outlines coincide, all are seen
        draw.line([*points, *points[:2]], fill=colour_of(part), width=width, joint="curve")
    return canvas


def colour_of(part: int) -> str:
    """Return the colour of the outline of a patch, counted from 0."""
    return OKABE_ITO[part % len(OKABE_ITO)]


def _parsed(text: str) -> tuple[list[str], Sequence[tuple[int, Thetas]]]:
    """Return the paths, and the matrices [N, P, 2, 3] of each epoch."""
    content = json.loads(text)
    images = [str(path) for path in content["images"]]
    epochs = [(int(entry["epoch"]), np.array(entry["theta"], dtype=float)) for entry in content["epochs"]]
    for epoch, theta in epochs:
        if theta.ndim != 4 or (len(theta), *theta.shape[2:]) != (len(images), 2, 3) or not np.isfinite(theta).all():
            raise ValueError(f"epoch {epoch} has no matrices of {len(images)} images")
    return images, epochs
