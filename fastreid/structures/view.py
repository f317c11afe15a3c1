"""The views of an aerial-ground benchmark."""

from enum import IntEnum


class View(IntEnum):
    """The kind of camera that an image was taken with."""

    AERIAL = 0
    GROUND = 1
    WEARABLE = 2
