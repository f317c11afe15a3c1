"""Features of people that a view-aware backbone extracts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PersonFeatures:
    """Output of a view-aware backbone for B images and L transformer blocks.

    Args:
        identity: [B, D] normalised class token after the last block, f.
        view: [B, D] view token after the last block, v.
        id_conditions: [B, L-1, D] class token after each earlier block, e1 … e(L-1), not normalised.
    """

    identity: Tensor
    view: Tensor
    id_conditions: Tensor
