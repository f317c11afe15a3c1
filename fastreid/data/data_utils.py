"""Reading an image file at fast-reid's module path."""

from __future__ import annotations

import os

from PIL import Image

from fastreid.data import images
from fastreid.utils.errors import ArgumentError
from fastreid.utils.suggest import explain_choice

_FORMATS = ("RGB", "BGR", "L")


def read_image(file_name: str | os.PathLike[str], format: str | None = None) -> Image.Image:
    """Return an image file as an upright picture; fast-reid's function of this name.

    Args:
        file_name: the file.
        format: "RGB", "BGR" (channels in the order of OpenCV) or "L" (grey); None for RGB. fast-reid kept the colours
            of the file with None, so that a picture with a palette was read as its indices.

    Raises:
        ArgumentError: another format.
        ImageReadError: the file is missing or is not an image.
    """
    if format not in (None, *_FORMATS):
        raise ArgumentError(explain_choice("format of read_image", format, _FORMATS))
    picture = images.read_image(os.fspath(file_name))
    if format == "BGR":
        red, green, blue = picture.split()
        return Image.merge("RGB", (blue, green, red))
    return picture.convert("L") if format == "L" else picture
