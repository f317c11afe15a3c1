"""What a denoiser is told beside the noisy sample."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ControlMaps:
    """Maps added inside a UNet, finest level first.

    Attributes:
        down: per encoder level [B, C, h, w].
        up: per level, for the skip connections into the decoder [B, C, h, w].
        mid: [B, C, 1, 1] for the middle block, or None for zero.
    """

    down: tuple[Tensor, ...]
    up: tuple[Tensor, ...]
    mid: Tensor | None = None

    def map(self, down: Callable[[Tensor], Tensor], up: Callable[[Tensor], Tensor]) -> "ControlMaps":
        """Apply `down` to the encoder's maps, `up` to the decoder's and the middle block's."""
        mid = None if self.mid is None else up(self.mid)
        return ControlMaps(tuple(map(down, self.down)), tuple(map(up, self.up)), mid)


@dataclass(frozen=True)
class Condition:
    """Condition of a batch of B samples: cross-attention tokens [B, N, D] and view control."""

    tokens: Tensor
    control: ControlMaps

    def rows(self, start: int, stop: int) -> "Condition":
        """The samples `start` to `stop` of the batch."""

        def cut(tensor: Tensor) -> Tensor:
            return tensor[start:stop]

        return Condition(cut(self.tokens), self.control.map(cut, cut))

    @staticmethod
    def cat(parts: "list[Condition]") -> "Condition":
        """Join conditions along the batch; all must have the same maps."""

        def join(tensors: tuple[Tensor, ...]) -> Tensor:
            return torch.cat(tensors)

        controls = [part.control for part in parts]
        mids = [control.mid for control in controls]
        return Condition(
            join(tuple(part.tokens for part in parts)),
            ControlMaps(
                tuple(map(join, zip(*(control.down for control in controls), strict=True))),
                tuple(map(join, zip(*(control.up for control in controls), strict=True))),
                None if mids[0] is None else join(tuple(mids)),
            ),
        )
