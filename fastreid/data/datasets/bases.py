"""What training and evaluation get their images from, and the base class of users' own data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from fastreid.structures import PersonImage

Rows = Sequence[PersonImage | tuple]

# As VDT's and SD-ReID's tuples spell them.
_VIEW_NAMES = {"aerial": 0, "ground": 1, "wearable": 2}
# fast-reid's other arguments; here the loaders decode, transform and combine, and the log tells.
_FAST_REID_ARGUMENTS = {"transform", "mode", "combineall", "verbose"}


class DatasetError(RuntimeError):
    """A data set that is missing, incomplete or unreadable."""


class ImageDataset:
    """Three lists of images under one name. A list that is given as a function is read when it is first asked for.

    Data sets written for fast-reid derive from this and call ``super().__init__(train, query, gallery)`` with tuples
    ``(path, person, camera)``, or ``(path, person, camera, view, …)`` with the view as a number or as "Aerial",
    "Ground", "Wearable"; entries after it are not read.

    People and cameras of the *training* tuples may be strings; they are numbered in sorted order. In query and gallery
    they are whole numbers, as a person must have the same one in both.

    Args:
        train, query, gallery: lists of `PersonImage` or tuples, or functions that return them.
        name: as users call it; if left out, `build_datasets` gives it the name it is registered under.

    Raises:
        DatasetError: when a list is first asked for: an entry of another form.
    """

    def __init__(
        self,
        train: Rows | Callable[[], Rows],
        query: Rows | Callable[[], Rows],
        gallery: Rows | Callable[[], Rows],
        name: str = "",
        **fast_reid: Any,
    ) -> None:
        if unknown := fast_reid.keys() - _FAST_REID_ARGUMENTS:
            raise TypeError(f"{type(self).__name__}: ImageDataset takes no argument {', '.join(sorted(unknown))}")
        self.name = name
        self._rows = {"train": train, "query": query, "gallery": gallery}

    @cached_property
    def train(self) -> list[PersonImage]:
        """Images to train on."""
        return self._images("train")

    @cached_property
    def query(self) -> list[PersonImage]:
        """Images to search with."""
        return self._images("query")

    @cached_property
    def gallery(self) -> list[PersonImage]:
        """Images to search in."""
        return self._images("gallery")

    def _images(self, split: str) -> list[PersonImage]:
        given = self._rows[split]
        rows = list(given() if callable(given) else given)
        numbers = _training_numbers(rows) if split == "train" else ({}, {})
        images = []
        for row in rows:
            try:
                images.append(row if isinstance(row, PersonImage) else _image(row, *numbers))
            except (TypeError, ValueError) as error:
                raise DatasetError(
                    f"{type(self).__name__}: {split} holds {row!r}; expected (path, person, camera[, view]), with "
                    f"whole numbers in query and gallery ({error})"
                ) from error
        return images

    def check_before_run(self, required_files: str | Iterable[str]) -> None:
        """Make sure that files or folders exist (fast-reid's data sets call this).

        Raises:
            DatasetError: naming those that do not.
        """
        paths = [required_files] if isinstance(required_files, str) else list(required_files)
        if gone := [path for path in paths if not os.path.exists(path)]:
            raise DatasetError(f"{type(self).__name__}: {', '.join(gone)} not found; check DATASETS.ROOT")

    def get_num_pids(self, data: Rows) -> int:
        """People among images or tuples."""
        return len({row.person if isinstance(row, PersonImage) else row[1] for row in data})

    def get_num_cams(self, data: Rows) -> int:
        """Cameras among images or tuples."""
        return len({row.camera if isinstance(row, PersonImage) else row[2] for row in data})


def _training_numbers(rows: Rows) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers for people and cameras that are named by strings."""
    tuples = [row for row in rows if not isinstance(row, PersonImage) and len(row) >= 3]
    people, cameras = ({row[column] for row in tuples if isinstance(row[column], str)} for column in (1, 2))
    return number_names(people), number_names(cameras)


def number_names(names: Iterable[str]) -> dict[str, int]:
    """Each name -> its place in sorted order."""
    return {name: number for number, name in enumerate(sorted(set(names)))}


def _image(row: tuple, people: dict[str, int], cameras: dict[str, int]) -> PersonImage:
    path, person, camera, *rest = row
    view = rest[0] if rest else 0
    if isinstance(view, str):
        view = _VIEW_NAMES.get(view.lower(), view)
    return PersonImage(str(path), int(people.get(person, person)), int(cameras.get(camera, camera)), int(view))
