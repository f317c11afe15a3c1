"""Pictures of a caller, as files or in memory, as RGB pixels; and the parts of a frame in the boxes of a detector."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from fastreid.data.images import read_pixels, upright_rgb
from fastreid.utils.errors import ArgumentError

Picture = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
"""A file; a Pillow image; an array [H, W, 3]; or a tensor [3, H, W]. Values are in 0..255."""
Source = str | np.ndarray
"""The path of a file that is not read yet, or uint8 [H, W, 3] in RGB."""

_KINDS = (
    "a picture is a path, a Pillow image, an array [H, W, 3] or a tensor [3, H, W]; several are a list of them, an "
    "array [N, H, W, 3] or a tensor [N, 3, H, W]"
)


def sources_of(images: Picture | Iterable[Picture], *, bgr: bool = False) -> Iterator[Source]:
    """Yield one picture or several as paths or pixels; a `str` is one path.

    Args:
        images: one picture, or several.
        bgr: whether the channels of arrays and tensors are blue, green, red, as OpenCV has them.

    Raises:
        ArgumentError: something else than a picture; the message says which one, and what to do.
    """
    for number, picture in enumerate(_each(images)):
        yield source_of(picture, f"image {number}", bgr=bgr)


def _each(images: Any) -> Iterable[Any]:
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, Tensor) or (isinstance(images, np.ndarray) and images.dtype.kind not in "USO"):
        return images if images.ndim == 4 else [images]
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        return [images]  # `source_of` refuses it
    return images


def source_of(picture: Any, name: str, *, bgr: bool = False) -> Source:
    """Return one picture as a path or as pixels.

    Args:
        picture: the picture.
        name: its name in messages.
        bgr: whether the channels of an array or tensor are blue, green, red.

    Raises:
        ArgumentError: something else than a picture.
    """
    if isinstance(picture, np.ndarray | Tensor):
        pixels = _bytes(picture, name)
        return pixels[..., ::-1] if bgr else pixels
    if not isinstance(picture, str | os.PathLike | Image.Image):
        hint = "; open an encoded image with PIL.Image.open(io.BytesIO(...))" if isinstance(picture, bytes) else ""
        raise ArgumentError(f"{name} is a {type(picture).__name__}: {_KINDS}{hint}")
    if bgr:
        raise ArgumentError(f"{name} is a {type(picture).__name__}, bgr=True is for arrays and tensors: leave it out")
    if not isinstance(picture, Image.Image):
        return os.fsdecode(picture)
    try:
        return np.asarray(upright_rgb(picture))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise ArgumentError(f"{name} cannot be converted to RGB: {error or type(error).__name__}") from error


def pixels_of(source: Source) -> np.ndarray:
    """Return uint8 [H, W, 3] of a source.

    Args:
        source: a path, or pixels.

    Raises:
        ImageReadError: the file cannot be decoded.
    """
    return read_pixels(source) if isinstance(source, str) else source


def name_of(number: int, pixels: Tensor) -> str:
    """Return the name of a picture without a file, in place of its path.

    Its last part depends on the pixels only, so that noise that follows the name of an image does not depend on the
    order of the images.

    Args:
        number: position among the images of a call.
        pixels: uint8 [3, H, W], as the model gets them.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(pixels.numpy()).data, digest_size=16).hexdigest()
    return f"number {number}/{digest}"


def _bytes(picture: np.ndarray | Tensor, name: str) -> np.ndarray:
    """Return an array [H, W, 3] or a tensor [3, H, W] as a uint8 array [H, W, 3].

    Raises:
        ArgumentError: another shape, or values that are not in 0..255.
    """
    picture = _dense(picture, name)
    layout, kind, colours = (
        ("[3, H, W]", "a tensor", 0) if isinstance(picture, Tensor) else ("[H, W, 3]", "an array", -1)
    )
    shape = list(picture.shape)
    if picture.ndim != 3 or shape[colours] != 3:
        raise ArgumentError(f"{name} is {kind} {shape}, RGB pixels are {layout}{_remedy(shape, colours)}")
    if 0 in shape:
        raise ArgumentError(f"{name} is {kind} {shape}, it has no pixels")
    if isinstance(picture, Tensor):
        is_number = not picture.is_complex() and picture.dtype is not torch.bool
        picture = (picture.float() if picture.is_floating_point() else picture).permute(1, 2, 0).numpy()
    else:
        is_number = picture.dtype.kind in "uif"
    if not is_number:
        raise ArgumentError(f"{name} has values of {picture.dtype}, pixels are numbers in 0..255")
    return picture if picture.dtype == np.uint8 else _rounded(picture, name)


def _dense(values: Any, what: str) -> Any:
    """Return a tensor on the CPU, and what is no tensor as it is.

    Raises:
        ArgumentError: a tensor without numbers or with another layout, or an array with masked values.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise ArgumentError(f"{what}: some values are masked; fill them in, or leave them out")
    if not isinstance(values, Tensor):
        return values
    if values.is_meta or values.layout is not torch.strided or values.is_quantized:
        kind = (
            "on the device meta, which holds no numbers" if values.is_meta else f"of {values.dtype} ({values.layout})"
        )
        raise ArgumentError(f"{what}: a tensor {kind}; give a dense one, as .to_dense() or .dequantize() makes it")
    return values.detach().cpu()


def _remedy(shape: list[int], colours: int) -> str:
    """Return what to do about a picture whose axis `colours`, 0 of tensors and -1 of arrays, has not three values."""
    is_tensor, axes = colours == 0, {shape[0], shape[-1]} if len(shape) == 3 else set()
    if len(shape) == 2 or 1 in axes:
        return f"; repeat a grey picture: {'torch' if is_tensor else 'np'}.stack([grey] * 3, {colours})"
    if 4 in axes:
        return "; leave out the fourth channel, or give a Pillow image, whose transparent pixels become white"
    if 3 in axes:
        return "; use " + ("tensor.permute(2, 0, 1)" if is_tensor else "array.transpose(1, 2, 0)")
    return ""


def _rounded(picture: np.ndarray, name: str) -> np.ndarray:
    """Return numbers in 0..255 as uint8.

    Raises:
        ArgumentError: they cannot be in 0..255.
    """
    lowest, highest = float(picture.min()), float(picture.max())
    what = f"{name} has values from {lowest:g} to {highest:g}, pixels are in 0..255"
    if not np.isfinite([lowest, highest]).all():
        raise ArgumentError(f"{name} has values that are NaN or infinite, pixels are in 0..255")
    if lowest < 0:
        raise ArgumentError(f"{what}: give the picture without mean and deviation, the model normalises it")
    if highest > 255:
        raise ArgumentError(f"{what}: divide by 257 if it has 16 bits")
    rounded = np.rint(picture)
    if highest <= 1 and not np.array_equal(rounded, picture):
        raise ArgumentError(f"{what}: multiply it by 255 if it is in 0..1")
    return rounded.astype(np.uint8)


def crops_of(frame: np.ndarray, boxes: Any) -> list[np.ndarray]:
    """Return the parts of a frame in boxes, whose corners are rounded to whole pixels and clipped to the frame.

    Args:
        frame: uint8 [H, W, 3].
        boxes: [N, 4], x1, y1, x2 and y2 in pixels; x2 and y2 are not part of a box.

    Returns:
        N views of the frame, each uint8 [h, w, 3].

    Raises:
        ArgumentError: another shape, or a box without a pixel in the frame; the message names its row.
    """
    table = _table(boxes)
    height, width = frame.shape[:2]
    crops = []
    for row, box in enumerate(table):
        if not np.isfinite(box).all():
            raise ArgumentError(f"box {row} is {_shown(box)}, which are not all finite numbers")
        part = clipped_box(box, width, height)
        if part is None:
            raise ArgumentError(
                f"box {row} is {_shown(box)}, which has no pixel in the frame of {width} x {height}: boxes are "
                "x1, y1, x2, y2 in pixels, with x1 < x2 and y1 < y2; of x, y, width, height, x2 is x + width and y2 is "
                "y + height"
            )
        x1, y1, x2, y2 = part
        crops.append(frame[y1:y2, x1:x2])
    return crops


def clipped_box(box: ArrayLike, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the part of a box inside a frame, in whole pixels: x1, y1, x2, y2; None if it has no pixel there."""
    x1, y1, x2, y2 = np.clip(np.rint(box), 0, [width, height, width, height]).astype(int).tolist()
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _table(boxes: Any) -> np.ndarray:
    values = _dense(boxes, "boxes")
    try:
        if isinstance(values, Tensor):  # NumPy lacks bfloat16
            values = (values.double() if values.is_floating_point() else values).numpy()
        if np.iscomplexobj(values):
            raise TypeError
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ArgumentError("boxes must be numbers [N, 4]: x1, y1, x2, y2 of each in pixels") from None
    if not table.size:
        return np.empty((0, 4))
    if table.ndim != 2 or table.shape[1] != 4:
        raise ArgumentError(f"boxes must be [N, 4], x1, y1, x2, y2 of each in pixels; got {list(table.shape)}")
    return table


def _shown(box: np.ndarray) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"
