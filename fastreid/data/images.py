"""Image files as RGB pixels: every kind that cameras and tools write is decoded right, or refused with its reason.

What is decided here, for training, evaluation, reports and contact sheets:

- Only the formats of `formats.py` are decoded, and only regular files are opened.
- The size that a file states is checked before memory is taken for its pixels.
- An EXIF orientation is applied: pixels are as viewers show them.
- What is transparent lies on `BACKGROUND`.
- 16-bit values keep their upper 8 bits. Values without a stated white (32-bit integers, floats, 12 bits) are refused.
- Of an animation or a stack of pages the first picture counts.
- Colour profiles are not applied.
"""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import stat

import numpy as np
from PIL import Image, ImageChops

from fastreid.data.formats import readable_formats, webp_size
from fastreid.utils.errors import UserError

try:
    import simplejpeg
except Exception:  # one that was built for other versions raises anything
    simplejpeg = None

logger = logging.getLogger(__name__)

BACKGROUND = (255, 255, 255)
"""What transparent pixels lie on: white, as in viewers."""

_MOST_BYTES = 2**30  # of a file: more than the pixels that are allowed take without any compression
# Errors of opening a file that are about its name or kind, not about the disk.
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}
# Markers of JPEG: its first two bytes, the one before the pixels, and those of EXIF, XMP and Adobe.
_JPEG, _PIXELS, _SAY_MORE = b"\xff\xd8", 0xDA, (0xE1, 0xEE)
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258  # tags of EXIF and TIFF

# What must be done to stored pixels that an orientation of EXIF names; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Whose mode "I" holds 16 bits (in older versions of Pillow); a TIFF's holds 32.
_SIXTEEN_BITS_AS_I = ("PNG", "PPM")


class ImageReadError(UserError, RuntimeError):
    """An image file that is missing or cannot be decoded; DATALOADER.BAD_IMAGES "skip" leaves it out.

    Attributes: reason, what is wrong with the file.
    """

    def __init__(self, message: str, reason: str = "") -> None:  # torch makes those of its workers from a message alone
        super().__init__(message)
        self.reason = reason

    @classmethod
    def of(cls, path: str, reason: object) -> ImageReadError:
        """The error of one file."""
        return cls(f"cannot read image {path}: {reason}", str(reason))


class ImageAccessError(ImageReadError):
    """The file system failed, not the image: no policy skips it, or a run's images would depend on the weather."""


def read_image(path: str) -> Image.Image:
    """An image file as upright RGB.

    Raises:
        ImageReadError: missing, empty, truncated, not an image, too large (PIL.Image.MAX_IMAGE_PIXELS) or of values
            without a stated white; names the file and the reason.
    """
    return decode(read_bytes(path), path)


def read_pixels(path: str) -> np.ndarray:
    """The same as uint8 [H, W, 3]; plain JPEGs faster, where simplejpeg is installed.

    Raises:
        ImageReadError: as `read_image`.
    """
    content = read_bytes(path)
    pixels = decode_plain_jpeg(content) if simplejpeg_is_as_pillow() else None
    return np.asarray(decode(content, path)) if pixels is None else pixels


def decode_plain_jpeg(content: bytes) -> np.ndarray | None:
    """A JPEG in colour or grey without EXIF as uint8 [H, W, 3], by libjpeg-turbo alone; None if Pillow must judge."""
    try:
        if not _is_plain(content):
            return None
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > (Image.MAX_IMAGE_PIXELS or height * width):
            return None
        return simplejpeg.decode_jpeg(content)  # refuses what libjpeg only warns of
    except (IndexError, ValueError):
        return None


def _is_plain(content: bytes) -> bool:
    """Whether it is a JPEG that says nothing of orientation or colours before its pixels."""
    if content[:2] != _JPEG:
        return False
    place = 2
    while content[place] == 0xFF and (marker := content[place + 1]) != _PIXELS:
        if marker in _SAY_MORE:
            return False
        place += 2 + (content[place + 2] << 8 | content[place + 3])
    return content[place] == 0xFF


@functools.cache
def simplejpeg_is_as_pillow() -> bool:
    """Whether it is installed and gives the same bits: that depends on the libjpeg that Pillow was built with."""
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
            logger.warning("simplejpeg decodes %s otherwise than this Pillow does: Pillow is used, slower", subsampling)
            return False
    return True


def read_bytes(path: str) -> bytes:
    """The content of an image file.

    Raises:
        ImageReadError: missing, empty, not a regular file, or larger than any image that is decoded.
        ImageAccessError: there, but it cannot be opened or read.
    """
    try:
        with open(path, "rb", buffering=0, opener=_without_waiting) as file:
            _check_kind(os.fstat(file.fileno()))
            content = file.readall()
    except OSError as error:
        kind = ImageReadError if error.errno in _NO_FILE else ImageAccessError
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        raise kind.of(path, "there is no such file" if missing else error.strerror or error) from error
    except ValueError as error:  # also of names that the system cannot have
        raise ImageReadError.of(path, error) from error
    if not content:
        raise ImageReadError.of(path, "the file is empty")
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a FIFO would wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_kind(file: os.stat_result) -> None:
    if not stat.S_ISREG(file.st_mode):
        raise ValueError("not a regular file")
    if file.st_size > _MOST_BYTES:
        raise ValueError(f"its {file.st_size:,} bytes are more than the {_MOST_BYTES:,} that an image file may have")


def decode(content: bytes, path: str) -> Image.Image:
    """The content of an image file as upright RGB; `path` is for what is said of it.

    Raises:
        ImageReadError: as `read_image`.
    """
    try:
        if size := webp_size(content):
            _check_size(*size)
        with Image.open(io.BytesIO(content), formats=readable_formats()) as file:
            _check_size(file.width, file.height)
            file.load()
            picture = _rgb(file)
            # After loading: some formats have their EXIF behind the pixels, and TIFFs are turned in loading.
            turn = _UPRIGHT.get(_orientation(file))
            return picture if turn is None else picture.transpose(turn)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageReadError.of(path, "not an image, or of an unknown kind") from error
    except Image.DecompressionBombError as error:  # Pillow's own check, of twice as many pixels
        raise ImageReadError.of(path, f"{error}".replace("Image size", "its size")) from error
    except Exception as error:  # what decoders raise on garbage is anything
        raise ImageReadError.of(path, error or type(error).__name__) from error


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
    except Exception:  # a picture whose EXIF is broken is shown as it is stored
        return 1


def _rgb(file: Image.Image) -> Image.Image:
    if file.mode == "F" or file.mode.startswith("I"):
        return _of_16_bits(file)
    if file.mode == "CMYK" and file.format == "JPEG" and "adobe" not in file.info:
        return ImageChops.invert(file).convert("RGB")  # only Adobe stores them inverted, Pillow believes that all do
    if _is_transparent(file):
        background = Image.new("RGBA", file.size, BACKGROUND)
        return Image.alpha_composite(background, file.convert("RGBA")).convert("RGB")
    return file.convert("RGB")


def _is_transparent(file: Image.Image) -> bool:
    has_palette_of_rgba = file.palette is not None and file.palette.mode == "RGBA"
    return "transparency" in file.info or file.mode in ("RGBA", "RGBa", "LA", "PA") or has_palette_of_rgba


def _of_16_bits(file: Image.Image) -> Image.Image:
    bits = file.tag_v2.get(_BITS_PER_SAMPLE) if file.format == "TIFF" else None
    is_known = file.format in _SIXTEEN_BITS_AS_I if file.mode == "I" else file.mode.startswith("I;16")
    if not is_known or bits not in (None, 16, (16,)):
        raise ValueError(
            f"its values ({file.mode}, {bits or 'unknown'} bits) have no stated white: save it with 8 or 16 bits"
        )
    values = np.asarray(file)
    grey = Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if (transparent := file.info.get("transparency")) is not None:
        grey.paste(BACKGROUND, mask=Image.fromarray(values == transparent))
    return grey
