"""The transform of an image of a person: bytes in the data worker, floats where the batch is used.

Workers send uint8 pixels and the rectangles to erase. Both become float32 in the main process, on the device of the
model: bytes are a quarter of what must be copied between processes and to a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastreid.data.transforms.resize import Rectangle, Size, resize
from fastreid.utils.devices import to_device

Picture = Image.Image | np.ndarray
"""An RGB image, or uint8 [h, w, 3]."""


class Pixels(NamedTuple):
    """One image, or a batch of B images, before the conversion to float.

    Attributes:
        image: uint8 [3, H, W] or [B, 3, H, W].
        erased: int64 [4] or [B, 4], the rectangle to erase as top, left, height and width; height 0 erases nothing.
    """

    image: Tensor
    erased: Tensor

    def to_float(self, value: Sequence[float], device: torch.device | str = "cpu") -> Tensor:
        """Convert to float32 and erase.

        Args:
            value: colour [3] of erased pixels, in 0..255.
            device: device of the result.

        Returns:
            float32 [3, H, W] or [B, 3, H, W] in 0..255.
        """
        if torch.device(device).type == "cpu":
            # NumPy converts in this thread. torch would wake a second one on a core that a data worker uses, and wait
            # for it ten times as long as the conversion takes.
            images = torch.from_numpy(self.image.numpy().astype(np.float32))
        else:
            images = to_device(self.image, device).float()
            return erase(images, to_device(self.erased, device), to_device(torch.tensor(value).float(), device))
        batch = images if images.ndim == 4 else images[None]
        for image, (top, left, height, width) in zip(batch, self.erased.reshape(-1, 4).tolist(), strict=True):
            if height:
                image[:, top : top + height, left : left + width] = images.new_tensor(value)[:, None, None]
        return images


def erase(images: Tensor, rectangles: Tensor, colour: Tensor) -> Tensor:
    """Return images with a rectangle of each erased.

    One operation for all images, on the device of the images: a GPU has more work to start a copy than to make it.

    Args:
        images: float32 [3, H, W] or [B, 3, H, W].
        rectangles: int64 [4] or [B, 4], as `Pixels` has them.
        colour: float32 [3].
    """
    top, left, height, width = rectangles[..., None].unbind(-2)  # [1] or [B, 1]
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[-2:])
    in_rows, in_columns = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    inside = in_rows[..., :, None] & in_columns[..., None, :]
    return torch.where(inside.unsqueeze(-3), colour[:, None, None], images)


class PersonTransform:
    """A decoded image -> float32 tensor [3, H, W] in 0..255, or the same as `Pixels`.

    Args:
        geometry: picture -> uint8 [3, H, W].
        erase: draws the rectangle to erase, int64 [4]; None erases nothing.
        erase_value: colour of erased pixels, in 0..255.
    """

    def __init__(
        self,
        geometry: Callable[[Picture], Tensor],
        erase: Callable[[], Tensor] | None = None,
        erase_value: tuple[float, ...] = (0.0, 0.0, 0.0),
    ) -> None:
        self._geometry, self._erase, self.erase_value = geometry, erase, erase_value

    def __call__(self, picture: Picture) -> Tensor:
        """Transform an image, float32 [3, H, W]."""
        return self.pixels(picture).to_float(self.erase_value)

    def pixels(self, picture: Picture) -> Pixels:
        """Transform an image up to the conversion to float, which a loader does later (`Pixels.to_float`)."""
        image = self._geometry(picture)
        return Pixels(image, _NOTHING if self._erase is None else self._erase())


class ResizeCropFlip:
    """Resize an image, then crop it at random with a black border and mirror it at random.

    Args:
        size: (height, width) to resize to.
        crop: part of the resized image that is returned; the whole image by default.
        padding: width of the black border before a random crop of `size`; 0 does not crop at random.
        flip: probability of mirroring; None draws no random number.
    """

    def __init__(
        self, size: Size, *, crop: Rectangle | None = None, padding: int = 0, flip: float | None = None
    ) -> None:
        self.size, self.padding, self.flip = size, padding, flip
        self.crop = (0, 0, *size) if crop is None else crop

    def __call__(self, picture: Picture) -> Tensor:
        """Transform an image to uint8 [3, H, W]."""
        # Draws as v2.RandomCrop and v2.RandomHorizontalFlip do; calling them takes longer than everything else here.
        top, left, height, width = self.crop
        if self.padding:
            top, left = torch.randint(-self.padding, self.padding + 1, (2,)).tolist()
        mirrored = _draw_mirroring(self.flip)
        crop = (top, left, height, width)
        return torch.from_numpy(resize(np.asarray(picture), self.size, crop, mirrored=mirrored))


class ResizeRandomCrop:
    """Resize an image, then take a random part of it.

    Args:
        size: (height, width) to resize to.
        crop: (height, width) of the part, not larger than `size`.
    """

    def __init__(self, size: Size, crop: Size) -> None:
        self.size, self.crop = size, crop

    def __call__(self, picture: Picture) -> Tensor:
        """Transform an image to uint8 [3, H, W]."""
        top, left = (int(torch.randint(whole - part + 1, ())) for whole, part in zip(self.size, self.crop, strict=True))
        return torch.from_numpy(resize(np.asarray(picture), self.size, (top, left, *self.crop), mirrored=False))


class DrawMirroring:
    """In place of the pixels of an image, whether `ResizeCropFlip` without padding would mirror them.

    The file of the image is not read then, unless another view of the sample needs it.

    Args:
        flip: probability of mirroring; None draws no random number.
    """

    def __init__(self, flip: float | None) -> None:
        self.flip = flip

    def __call__(self) -> Tensor:
        """Draw a bool tensor []."""
        return torch.tensor(_draw_mirroring(self.flip))


def _draw_mirroring(probability: float | None) -> bool:
    return probability is not None and torch.rand(1).item() < probability


class RandomErasing:
    """Draw the rectangle of random erasing (Zhong et al., 2020), int64 [4].

    Its area is 2 to 40 % of the image, its height 0.3 to 3.33 times its width.

    Args:
        size: (height, width) of the image.
        probability: probability of erasing anything.
    """

    def __init__(self, size: Size, probability: float) -> None:
        self.size, self.probability = size, probability
        self._log_ratio = torch.tensor([0.3, 3.33]).log().tolist()

    def __call__(self) -> Tensor:
        """Draw a rectangle as v2.RandomErasing does."""
        if torch.rand(1).item() >= self.probability:
            return _NOTHING
        height, width = self.size
        for _ in range(10):
            area = height * width * torch.empty(1).uniform_(0.02, 0.4).item()
            ratio = torch.empty(1).uniform_(*self._log_ratio).exp_().item()
            rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if rows < height and columns < width:
                top, left = (int(torch.randint(stop, ())) for stop in (height - rows + 1, width - columns + 1))
                return torch.tensor([top, left, rows, columns])
        return _NOTHING


_NOTHING = torch.zeros(4, dtype=torch.int64)
