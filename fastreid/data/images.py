"""Image files as RGB pixels, the same for training, evaluation, reports and contact sheets.

- Only the formats of `formats.py` are decoded, and only regular files are opened.
- A path may go through a tar file (`shards.py`).
- The size in the file's header is checked before memory is allocated for its pixels.
- An EXIF orientation is applied: pixels are as viewers show them.
- Transparent pixels are blended with `BACKGROUND`.
- 16-bit values keep their upper 8 bits. Values without a known white (32-bit integers, floats, 12 bits) are refused.
- The first image of an animation or of several pages is read.
- Colour profiles are not applied.
"""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import stat
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops, TiffImagePlugin

from fastreid.data.formats import readable_formats, webp_size
from fastreid.data.shards import read_from_shard
from fastreid.utils.errors import UserError

try:
    import simplejpeg
except Exception:  # a module built for other versions may raise anything
    simplejpeg = None

logger = logging.getLogger(__name__)

BACKGROUND = (255, 255, 255)
"""Colour behind transparent pixels: white, as in image viewers."""

_MOST_BYTES = 2**30  # of a file: more than the largest allowed image needs uncompressed
# Errors from opening a file that concern its name or kind, not the disk.
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}
# Markers of JPEG: its first two bytes, the marker before the pixels, and those of EXIF, XMP and Adobe.
_JPEG, _PIXELS, _METADATA = b"\xff\xd8", 0xDA, (0xE1, 0xEE)
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258  # tags of EXIF and TIFF

# EXIF orientation -> what makes the stored pixels upright; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How a PNG stores grey pixels -> the factor by which Pillow multiplies them.
_GREY_FACTORS = {"L;2": 85, "L;4": 17}
# Formats whose mode "I" has 16 bits (in older versions of Pillow); that of TIFF has 32.
_SIXTEEN_BITS_AS_I = ("PNG", "PPM")


class ImageReadError(UserError, RuntimeError):
    """An image file that is missing or cannot be decoded; DATALOADER.BAD_IMAGES "skip" leaves it out.

    Args:
        message: the whole message.
        reason: what is wrong with the file.

    Attributes:
        reason: what is wrong with the file.
    """

    def __init__(self, message: str, reason: str = "") -> None:  # torch recreates workers' errors from a message alone
        super().__init__(message)
        self.reason = reason

    @classmethod
    def of(cls, path: str, reason: object) -> ImageReadError:
        """The error of one file."""
        return cls(f"cannot read image {path}: {reason}", str(reason))


class ImageAccessError(ImageReadError):
    """A failure of the file system, not of the image. It is never skipped: a run must not depend on such failures."""


def read_image(path: str) -> Image.Image:
    """Read an image file as upright RGB.

    Raises:
        ImageReadError: missing, empty, truncated, not an image, too large (PIL.Image.MAX_IMAGE_PIXELS) or with values
            without a known white; names the file and the reason.
    """
    return decode(read_bytes(path), path)


def read_pixels(path: str) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3]; plain JPEGs are faster where simplejpeg is installed.

    Raises:
        ImageReadError: as `read_image`.
    """
    content = read_bytes(path)
    pixels = decode_plain_jpeg(content) if simplejpeg_is_as_pillow() else None
    return np.asarray(decode(content, path)) if pixels is None else pixels


def decode_plain_jpeg(content: bytes) -> np.ndarray | None:
    """Decode a colour or grey JPEG without EXIF to uint8 [H, W, 3], by libjpeg-turbo; None if Pillow must decode it."""
    try:
        if not _is_plain(content):
            return None
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > (Image.MAX_IMAGE_PIXELS or height * width):
            return None
        return simplejpeg.decode_jpeg(content)  # raises where libjpeg only warns
    except (IndexError, ValueError):
        return None


def _is_plain(content: bytes) -> bool:
    """Whether the content is a JPEG without metadata about orientation or colours."""
    if content[:2] != _JPEG:
        return False
    place = 2
    while content[place] == 0xFF and (marker := content[place + 1]) != _PIXELS:
        if marker in _METADATA:
            return False
        place += 2 + (content[place + 2] << 8 | content[place + 3])
    return content[place] == 0xFF


@functools.cache
def simplejpeg_is_as_pillow() -> bool:
    """Whether simplejpeg is installed and decodes to Pillow's pixels, which depends on Pillow's libjpeg."""
    if simplejpeg is None:
        logger.info("simplejpeg is not installed: Pillow decodes, to the same pixels but slower")
        return False
    pixels = np.random.default_rng(0).integers(0, 256, (21, 35, 3), dtype=np.uint8)
    for subsampling in ("444", "422", "420", "440", "411", "Gray"):
        grey = subsampling == "Gray"
        source = np.ascontiguousarray(pixels[..., :1]) if grey else pixels
        content = simplejpeg.encode_jpeg(source, 80, "GRAY" if grey else "RGB", subsampling)
        decoded = decode_plain_jpeg(content)
        if decoded is None or not np.array_equal(decoded, np.asarray(decode(content, subsampling))):
            logger.warning("simplejpeg decodes %s differently from this Pillow: Pillow is used, slower", subsampling)
            return False
    return True


def read_bytes(path: str) -> bytes:
    """The content of an image file.

    Raises:
        ImageReadError: missing, empty, not a regular file, or too large.
        ImageAccessError: the file exists, but cannot be opened or read.
    """
    try:
        content = read_from_shard(path) if ".tar" in path else None
        if content is None:
            with open(path, "rb", buffering=0, opener=_without_waiting) as file:
                _check_kind(os.fstat(file.fileno()))
                content = file.readall()
    except OSError as error:
        kind = ImageReadError if error.errno in _NO_FILE else ImageAccessError
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        raise kind.of(path, "there is no such file" if missing else error.strerror or error) from error
    except ValueError as error:  # also for names that no file can have
        raise ImageReadError.of(path, error) from error
    if not content:
        raise ImageReadError.of(path, "the file is empty")
    return content


def open_image(path: str) -> BinaryIO:
    """Open an image for reading its bytes, a file or one in a tar shard.

    Raises:
        OSError: it cannot be opened.
    """
    content = read_from_shard(path) if ".tar" in path else None
    return open(path, "rb", buffering=0) if content is None else io.BytesIO(content)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without waiting for a writer, as for a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_kind(file: os.stat_result) -> None:
    if not stat.S_ISREG(file.st_mode):
        raise ValueError("not a regular file")
    if file.st_size > _MOST_BYTES:
        raise ValueError(f"its {file.st_size:,} bytes are more than the {_MOST_BYTES:,} that an image file may have")


def decode(content: bytes, path: str) -> Image.Image:
    """Decode the content of an image file to upright RGB.

    Args:
        content: the content.
        path: path of the file, for messages.

    Raises:
        ImageReadError: as `read_image`.
    """
    try:
        if size := webp_size(content):
            _check_size(*size)
        with Image.open(io.BytesIO(content), formats=readable_formats()) as file:
            return upright_rgb(file)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageReadError.of(path, "not an image, or of an unknown kind") from error
    except Image.DecompressionBombError as error:  # Pillow's own check, of twice as many pixels
        raise ImageReadError.of(path, f"{error}".replace("Image size", "its size")) from error
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise ImageReadError.of(path, error or type(error).__name__) from error


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture as upright RGB.

    Args:
        picture: of any mode; it may be a file that was opened and not loaded yet.

    Raises:
        ValueError: too large, without pixels, or with values without a known white; decoders raise others.
    """
    _check_size(picture.width, picture.height)
    stored = _stored_as(picture)
    picture.load()
    _scale_transparency(picture, stored)
    rgb = _rgb(picture)
    # After loading: some formats have EXIF behind the pixels, and TIFFs are turned while loading.
    turn = _UPRIGHT.get(_orientation(picture))
    return rgb if turn is None else rgb.transpose(turn)


def _stored_as(picture: Image.Image) -> str:
    """Return how the file stores its pixels, such as "L;4"; "" if that is not known, or if they are loaded already."""
    tiles = getattr(picture, "tile", None)
    return tiles[0].args if picture.format == "PNG" and tiles and isinstance(tiles[0].args, str) else ""


def _scale_transparency(picture: Image.Image, stored: str) -> None:
    """Scale the transparent colour of a PNG as Pillow scales its pixels, which it does not for these depths."""
    colour = picture.info.get("transparency")
    if stored in _GREY_FACTORS and isinstance(colour, int):
        picture.info["transparency"] = colour * _GREY_FACTORS[stored]
    elif stored == "RGB;16B" and isinstance(colour, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in colour)


def _check_size(width: int, height: int) -> None:
    pixels, limit = width * height, Image.MAX_IMAGE_PIXELS
    if not pixels:
        raise ValueError(f"it has {width} x {height} pixels")
    if limit and pixels > limit:
        raise ValueError(
            f"its {width} x {height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS ({limit:,}), as in a "
            "decompression bomb"
        )


def _orientation(file: Image.Image) -> int:
    try:
        return file.getexif().get(_ORIENTATION, 1)
    except Exception:  # an image with damaged EXIF keeps its stored orientation
        return 1


def _rgb(file: Image.Image) -> Image.Image:
    if file.mode == "F" or file.mode.startswith("I"):
        return _of_16_bits(file)
    if file.mode == "CMYK" and file.format == "JPEG" and "adobe" not in file.info:
        return ImageChops.invert(file).convert("RGB")  # only Adobe inverts values, Pillow assumes all do
    if _is_transparent(file):
        background = Image.new("RGBA", file.size, BACKGROUND)
        return Image.alpha_composite(background, file.convert("RGBA")).convert("RGB")
    return file.convert("RGB")


def _is_transparent(file: Image.Image) -> bool:
    has_palette_of_rgba = file.palette is not None and file.palette.mode == "RGBA"
    return "transparency" in file.info or file.mode in ("RGBA", "RGBa", "LA", "PA") or has_palette_of_rgba


def _of_16_bits(file: Image.Image) -> Image.Image:
    bits = file.tag_v2.get(_BITS_PER_SAMPLE) if isinstance(file, TiffImagePlugin.TiffImageFile) else None
    is_known = file.format in _SIXTEEN_BITS_AS_I if file.mode == "I" else file.mode.startswith("I;16")
    if not is_known or bits not in (None, 16, (16,)):
        raise ValueError(
            f"its values ({file.mode}, {bits or 'unknown'} bits) have no known white: save it with 8 or 16 bits"
        )
    values = np.asarray(file)
    grey = Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if (transparent := file.info.get("transparency")) is not None:
        grey.paste(BACKGROUND, mask=Image.fromarray(values == transparent))
    return grey
