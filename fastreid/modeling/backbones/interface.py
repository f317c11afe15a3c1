"""What a backbone may declare about its output."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class SizedBackbone(Protocol):
    """A backbone that knows the number of channels of its maps."""

    @property
    def feature_dim(self) -> int:
        """Channels C of the maps, or width of the vectors."""


@runtime_checkable
class ViewAwareBackbone(SizedBackbone, Protocol):
    """A backbone that returns `PersonFeatures`: a ViT with a view prompt."""

    @property
    def num_blocks(self) -> int:
        """Transformer blocks L."""

    def __call__(self, images: Any) -> Any:
        """Return the `PersonFeatures` of normalised images [B, 3, H, W]."""


def feature_dim_of(backbone: object) -> int | None:
    """Return the number of channels that a backbone declares, or None."""
    return backbone.feature_dim if isinstance(backbone, SizedBackbone) else None
