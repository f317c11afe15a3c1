"""Small modules that several networks share."""

from fastreid.layers.patch_stems import PATCH_STEMS

__all__ = ["PATCH_STEMS"]
