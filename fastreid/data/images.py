"""Image files as RGB pixels: every kind that cameras and tools write is decoded right, or refused with its reason.

What is decided here, for all of training and evaluation:

- An EXIF orientation is applied: pixels are as viewers show them.
- What is transparent lies on `BACKGROUND`.
- 16-bit values keep their upper 8 bits. Values without a stated white (32-bit integers, floats, 12 bits) are refused.
- Of an animation or a stack of pages the first picture counts.
- Colour profiles are not applied.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops

BACKGROUND = (255, 255, 255)
"""What transparent pixels lie on: white, as in viewers."""

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


class ImageReadError(RuntimeError):
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


def read_bytes(path: str) -> bytes:
    """The content of an image file.

    Raises:
        ImageReadError: missing or empty.
        ImageAccessError: there, but it cannot be opened or read.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageReadError.of(path, "there is no such file") from error
    except OSError as error:
        raise ImageAccessError.of(path, error.strerror or error) from error
    if not content:
        raise ImageReadError.of(path, "the file is empty")
    return content


def decode(content: bytes, path: str) -> Image.Image:
    """The content of an image file as upright RGB; `path` is for what is said of it.

    Raises:
        ImageReadError: as `read_image`.
    """
    try:
        with Image.open(io.BytesIO(content)) as file:
            _check_size(file)
            file.load()
            picture = _rgb(file)
            # After loading: some formats have their EXIF behind the pixels, and TIFFs are turned in loading.
            turn = _UPRIGHT.get(_orientation(file))
            return picture if turn is None else picture.transpose(turn)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageReadError.of(path, "not an image, or of an unknown kind") from error
    except Exception as error:  # what decoders raise on garbage is anything
        raise ImageReadError.of(path, error or type(error).__name__) from error


def _check_size(file: Image.Image) -> None:
    pixels, limit = file.width * file.height, Image.MAX_IMAGE_PIXELS
    if not pixels:
        raise ValueError(f"it has {file.width} x {file.height} pixels")
    if limit and pixels > limit:
        raise ValueError(
            f"its {file.width} x {file.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS ({limit:,}), as in a "
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
