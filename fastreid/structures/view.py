"""The views of an aerial-ground benchmark."""

from enum import IntEnum


class View(IntEnum):
    """The kind of camera that an image was taken with."""

    AERIAL = 0
    GROUND = 1
    WEARABLE = 2


def view_name(view: int) -> str:
    """Return "aerial", "ground" or "wearable"; a view without a name keeps its number."""
    return View(view).name.lower() if view in set(View) else f"view {view}"
