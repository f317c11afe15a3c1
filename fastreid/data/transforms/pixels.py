"""Images on their way from a data worker to the model: bytes, a quarter of what floats would be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Pixels(NamedTuple):
    """One image, or a batch of B.

    Attributes:
        image: uint8 [3, H, W] or [B, 3, H, W].
        erased: int64 [4] or [B, 4]: top, left, height and width of what is to be erased; height 0 is nothing.
    """

    image: Tensor
    erased: Tensor

    def to_float(self, value: Sequence[float], device: torch.device | str = "cpu") -> Tensor:
        """float32 [3, H, W] or [B, 3, H, W] in 0..255 on `device`, with `value` [3] where it is erased."""
        if torch.device(device).type == "cpu":
            # By NumPy, in this thread: torch would share it with a second one, and wait for that one's core, which a
            # data worker has just woken up on. Ten times as long as the work.
            images = torch.from_numpy(self.image.numpy().astype(np.float32))
        else:
            images = self.image.to(device, non_blocking=True).float()
        batch = images if images.ndim == 4 else images[None]
        for image, (top, left, height, width) in zip(batch, self.erased.reshape(-1, 4).tolist(), strict=True):
            if height:
                image[:, top : top + height, left : left + width] = images.new_tensor(value)[:, None, None]
        return images
