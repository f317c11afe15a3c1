"""Thumbnails that are embedded in the page."""

from __future__ import annotations

import base64
from functools import lru_cache
from io import BytesIO

from PIL import Image

from fastreid.data.images import ImageReadError, read_image
from fastreid.evaluation.report.runs import ReportError

THUMBNAIL_SIZE = (88, 176)  # width, height in pixels: twice what the page shows, for dense screens
JPEG_QUALITY = 80


@lru_cache(maxsize=4096)
def thumbnail(path: str) -> str:
    """Return the image, as a model reads it, as a "data:image/jpeg;base64,..." URI; small images keep their size.

    Raises:
        ReportError: names an image that cannot be read.
    """
    try:
        picture = read_image(path)
    except ImageReadError as error:
        raise ReportError(
            f"cannot read image {path}, which ranked_lists.json names ({error.reason}); make the report "
            "in the folder the evaluation ran in, or evaluate again"
        ) from error
    picture.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    return jpeg_uri(picture)


def jpeg_uri(picture: Image.Image) -> str:
    """Return a picture as a "data:image/jpeg;base64,..." URI."""
    out = BytesIO()
    picture.save(out, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
