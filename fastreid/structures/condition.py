"""The condition of a denoiser: tokens and view control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ControlMaps:
    """Maps that are added inside a UNet, finest level first, or the view embedding of a denoiser of vectors.

    Args:
        down: [B, C, h, w] for each level of the encoder; the embedding is one map [B, E].
        up: [B, C, h, w] for each level, for the skip connections into the decoder.
        mid: [B, C, 1, 1] for the middle block, or None for zero.
        index: [B], which map of the first dimension each sample has, if samples share maps. `Condition.rows` looks
            them up, and a denoiser takes its result only. None: each sample has a map of its own.
    """

    down: tuple[Tensor, ...]
    up: tuple[Tensor, ...]
    mid: Tensor | None = None
    index: Tensor | None = None

    def map(self, down: Callable[[Tensor], Tensor], up: Callable[[Tensor], Tensor]) -> ControlMaps:
        """Apply functions to each map.

        Args:
            down: applied to the maps of the encoder.
            up: applied to the maps of the decoder and of the middle block.
        """
        mid = None if self.mid is None else up(self.mid)
        return replace(self, down=tuple(map(down, self.down)), up=tuple(map(up, self.up)), mid=mid)

    def rows(self, start: int, stop: int | None) -> ControlMaps:
        """Return the maps of the samples `start` to `stop` (None: the last) of the batch, one for each sample."""
        index = None if self.index is None else self.index[start:stop]

        def cut(maps: Tensor) -> Tensor:
            return maps[start:stop] if index is None else maps.index_select(0, index)

        return replace(self.map(cut, cut), index=None)

    @staticmethod
    def cat(parts: Sequence[ControlMaps]) -> ControlMaps:
        """Join maps along the batch.

        Args:
            parts: all with the same levels, and all with an index or all without.
        """
        mids = [part.mid for part in parts if part.mid is not None]
        return ControlMaps(
            tuple(map(torch.cat, zip(*(part.down for part in parts), strict=True))),
            tuple(map(torch.cat, zip(*(part.up for part in parts), strict=True))),
            torch.cat(mids) if mids else None,
            _joined_index(parts),
        )


def _joined_index(parts: Sequence[ControlMaps]) -> Tensor | None:
    """The index into the joined maps."""
    found, num_maps = [], 0
    for part in parts:
        if part.index is None:
            return None
        found.append(part.index + num_maps)
        num_maps += part.down[0].shape[0]
    return torch.cat(found)


@dataclass(frozen=True)
class Condition:
    """Condition of a batch of B samples.

    Args:
        tokens: [B, N, D], which the denoiser attends to.
        control: maps of view control, or None for a denoiser without it.
    """

    tokens: Tensor
    control: ControlMaps | None = None

    def rows(self, start: int, stop: int | None) -> Condition:
        """Return the condition of the samples `start` to `stop` (None: the last), with control maps for each sample."""
        control = None if self.control is None else self.control.rows(start, stop)
        return Condition(self.tokens[start:stop], control)

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """Join conditions along the batch.

        Args:
            parts: all with the same control maps, or all without.
        """
        controls = [part.control for part in parts if part.control is not None]
        tokens = torch.cat([part.tokens for part in parts])
        return Condition(tokens, ControlMaps.cat(controls) if controls else None)
