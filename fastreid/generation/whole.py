"""Whether a picture that a stage wrote is whole, without decoding its pixels."""

from __future__ import annotations

import os
from typing import BinaryIO

from PIL import Image

# Format -> the last bytes of a file. A power failure or a copy that was stopped may have cut them off.
ENDS = {"PNG": b"\0\0\0\0IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a PNG or JPEG file exists, has a header that can be read, and its last bytes.

    Args:
        path: the file.

    Raises:
        OSError: the file is there, but cannot be opened or read.
    """
    try:
        with open(path, "rb") as file:
            return _is_whole(file)
    except FileNotFoundError:
        return False


def _is_whole(file: BinaryIO) -> bool:
    try:
        with Image.open(file, formats=list(ENDS)) as picture:
            end = ENDS[picture.format or ""]
            file.seek(-len(end), os.SEEK_END)
            return file.read() == end
    except Exception as error:  # decoders raise many kinds of errors for damaged files, OSError without a number too
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return False
