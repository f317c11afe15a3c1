"""A user's own images as a data set: `csv:people.csv`, `folder:people` (a folder per person), `images:frames`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastreid.data.datasets.bases import DatasetError, ImageDataset
from fastreid.data.own_folders import read_folders, read_images
from fastreid.data.own_tables import read_csv
from fastreid.utils.suggest import explain_choice

__all__ = ["SCHEMES", "load_own_images", "place_of", "read_csv", "read_folders", "read_images"]

SCHEMES: dict[str, Callable[[Path], ImageDataset]] = {
    "csv": read_csv,
    "folder": read_folders,
    "images": read_images,
}


def load_own_images(name: str, root: str) -> ImageDataset:
    """Read the data set `SCHEME:PATH`; PATH is absolute, relative to the working directory, or below `root`.

    The paths of its images are absolute.

    Raises:
        DatasetError: an unknown scheme, no such file or folder, or an error in it.
    """
    scheme, place = name.partition(":")[0], place_of(name, root)
    dataset = SCHEMES[scheme](place)
    dataset.name = name
    return dataset


def place_of(name: str, root: str) -> Path:
    """The absolute path of the file or folder that the data set `SCHEME:PATH` is read from.

    Raises:
        DatasetError: an unknown scheme, or no such file or folder.
    """
    scheme, _, place = name.partition(":")
    if scheme not in SCHEMES:
        raise DatasetError(f"{name!r} must be KIND:PATH; {explain_choice('kind', scheme, SCHEMES)}")
    if not place.strip():
        raise DatasetError(f"{name!r} has no path after {scheme}: (an unset variable of the shell?)")
    path = Path(place).expanduser()
    candidates = [path.absolute(), (Path(root) / path).absolute()]
    found = [c for c in dict.fromkeys(candidates) if _is_there(c, scheme, name)]
    if not found:
        looked = " nor ".join(dict.fromkeys(str(c.resolve()) for c in candidates))
        raise DatasetError(f"{name}: there is no {'file' if scheme == 'csv' else 'folder'} {looked}")
    return found[0]


def _is_there(place: Path, scheme: str, name: str) -> bool:
    try:
        return place.is_file() if scheme == "csv" else place.is_dir()
    except OSError as error:
        raise DatasetError(f"{name}: cannot look at {place} ({error.strerror})") from error
