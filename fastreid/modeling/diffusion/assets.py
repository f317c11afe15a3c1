"""The Stable Diffusion folders that a config points at."""

from fastreid.utils.errors import UserError


class AssetError(UserError, FileNotFoundError):
    """A folder of the Stable Diffusion assets that is missing or does not fit."""
