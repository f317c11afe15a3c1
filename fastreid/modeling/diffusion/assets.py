"""The Stable Diffusion folders that a config points at."""


class AssetError(FileNotFoundError):
    """A folder of the Stable Diffusion assets that is missing or does not fit."""
