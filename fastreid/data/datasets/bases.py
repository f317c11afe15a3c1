"""Data sets of images for training and evaluation, and the base class of user-defined ones."""

from __future__ import annotations

import logging
import operator
import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from fastreid.structures import PersonImage
from fastreid.structures.names import is_canonical, sorted_positions
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

Rows = Sequence[PersonImage | tuple]

_WITH_NUMBER = re.compile(r"(.*_)(-[1-9][0-9]{0,17}|[0-9]{1,18})", re.DOTALL)
_LEAST, _LARGEST = -(2**63), 2**63 - 1  # of int64

# As in the tuples of VDT and SD-ReID.
_VIEW_NAMES = {"aerial": 0, "ground": 1, "wearable": 2}
# fast-reid's other arguments, which have no effect here.
_FAST_REID_ARGUMENTS = {"transform", "mode", "verbose"}


class DatasetError(UserError, RuntimeError):
    """A data set that is missing, incomplete or unreadable."""


def _list_of(split: str, doc: str) -> property:
    """A list that is read on first access; subclasses may set it before they call the base class."""
    return property(lambda self: self._images(split), lambda self, rows: self._give(split, rows), doc=doc)


class ImageDataset:
    """Lists of training, query and gallery images. A list that is given as a function is read on first access.

    Data sets written for fast-reid derive from this and call ``super().__init__(train, query, gallery)`` with tuples
    ``(path, person, camera)``, or ``(path, person, camera, view, …)`` with the view as a number or as "Aerial",
    "Ground", "Wearable"; further entries are ignored.

    People and cameras of the *training* tuples may be strings: "mydata_7" is person 7 where all names have one prefix
    and different numbers; other names are numbered in sorted order. In query and gallery they are whole numbers, as a
    person must have the same one in both. The attributes `train`, `query` and `gallery` are lists of `PersonImage`.

    Args:
        train: list of `PersonImage` or tuples, or a function that returns one.
        query: the same for the queries.
        gallery: the same for the gallery.
        name: name of the data set; by default, `build_datasets` sets the registered name.
        combineall: train on query and gallery too, also without DATASETS.COMBINEALL.
        others: fast-reid's transform, mode and verbose, which have no effect; others are logged as unknown.

    Attributes:
        unlabelled: why the persons of the training images are not known, as the end of a sentence; "" if they are.
        training_only: what the data set has instead of query and gallery, for messages; "" if it has them.
        attribute_names: what the values of `PersonImage.attributes` mean; () if the images have none.
        place: the file or folder that a user's own images were read from; "" for other data sets.
        person_names: {id: name} of people who have names in every list.
        camera_names: {id: name} of cameras that have names in every list.
        training_person_names: {id: name} of people who have names in training tuples alone; set when `train` is read.
        training_camera_names: {id: name} of cameras that have names in training tuples alone; set when `train` is read.

    Raises:
        DatasetError: on first access to a list: an entry has another form.
    """

    unlabelled: str = ""
    training_only: str = ""
    attribute_names: Sequence[str] = ()
    place: str = ""
    person_names: Mapping[int, str] = {}
    camera_names: Mapping[int, str] = {}
    training_person_names: Mapping[int, str] = {}
    training_camera_names: Mapping[int, str] = {}

    # fast-reid's name for person ids, beside -1, that are not trained on; subclasses may set it.
    _junk_pids: Sequence[int] = ()
    # Set by the properties, possibly before __init__ runs.
    _rows: dict[str, Rows | Callable[[], Rows]]
    _read: dict[str, list[PersonImage]]
    _people_are_named: bool

    def __init__(
        self,
        train: Rows | Callable[[], Rows],
        query: Rows | Callable[[], Rows],
        gallery: Rows | Callable[[], Rows],
        name: str = "",
        *,
        combineall: bool = False,
        **others: Any,
    ) -> None:
        if unknown := others.keys() - _FAST_REID_ARGUMENTS:
            logger.warning("%s: ImageDataset does not read %s", type(self).__name__, ", ".join(sorted(unknown)))
        self.name = name
        self.combineall = combineall
        self.train, self.query, self.gallery = train, query, gallery

    train = _list_of("train", "Images to train on.")
    query = _list_of("query", "Images to search with.")
    gallery = _list_of("gallery", "Images to search in.")

    def training_people(self, combineall: bool = False) -> list[tuple[PersonImage, Hashable]]:
        """Training images, each with a key of its person; with `combineall` those of query and gallery too.

        The key is None for the training images of a data set that is `unlabelled`.
        """
        images, named = self.train, self._people_are_named
        found = [(image, ("train", image.person) if named else image.person) for image in images]
        unlabelled: list[tuple[PersonImage, Hashable]] = []
        if self.unlabelled:
            unlabelled, found = [(image, None) for image in images], []
        if combineall or self.combineall:
            found += [(image, image.person) for image in (*self.query, *self.gallery)]
        labelled = [(i, who) for i, who in found if i.person >= 0 and (named or i.person not in self._junk_pids)]
        return unlabelled + labelled

    def _give(self, split: str, rows: Rows | Callable[[], Rows]) -> None:
        self.__dict__.setdefault("_rows", {})[split] = rows
        self.__dict__.setdefault("_read", {}).pop(split, None)

    def _images(self, split: str) -> list[PersonImage]:
        if split not in self._read:
            given = self._rows[split]
            self._read[split] = self._converted(split, list(given() if callable(given) else given))
        return self._read[split]

    def _converted(self, split: str, rows: list[PersonImage | tuple]) -> list[PersonImage]:
        numbers = self._training_numbers(rows) if split == "train" else ({}, {})
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

    def _training_numbers(self, rows: Rows) -> tuple[dict[str, int], dict[str, int]]:
        """Numbers for people and cameras that are named by strings; "market1501_7" is person 7."""
        people, cameras = (self._names(rows, column) for column in (1, 2))
        numbers = _numbers_within(people)
        # Then their numbers mean nothing in query and gallery.
        self._people_are_named = bool(people) and numbers is None
        found = sorted_positions(people) if numbers is None else numbers, sorted_positions(cameras)
        if self._people_are_named:
            self.training_person_names = {number: name for name, number in found[0].items()}
        self.training_camera_names = {number: name for name, number in found[1].items()}
        return found

    def _names(self, rows: Rows, column: int) -> set[str]:
        """Strings in a column of the tuples.

        Raises:
            DatasetError: the column has numbers too, which could be equal to the number of a name.
        """
        values = [_column(row, column) for row in rows]
        names = {value for value in values if isinstance(value, str)}
        other = next((value for value in values if value is not None and not isinstance(value, str)), None)
        if names and other is not None:
            raise DatasetError(
                f"{type(self).__name__}: train has {'people' if column == 1 else 'cameras'} that are named "
                f"({min(names)!r}) and others that are numbered ({other!r}); name all of them, or number all"
            )
        return names

    def __len__(self) -> int:
        """Number of training images, as in fast-reid."""
        return len(self.train)

    def show_train(self) -> None:
        """Log the numbers of people, images and cameras of the training images; fast-reid's method."""
        logger.info("%s", self._counts("train"))

    def show_test(self) -> None:
        """Log the numbers of people, images and cameras of queries and gallery; fast-reid's method."""
        logger.info("%s; %s", self._counts("query"), self._counts("gallery"))

    def _counts(self, split: str) -> str:
        images = self._images(split)
        people, cameras = self.get_num_pids(images), self.get_num_cams(images)
        return f"{self.name or type(self).__name__}, {split}: {people} people, {len(images)} images, {cameras} cameras"

    def check_before_run(self, required_files: str | Iterable[str]) -> None:
        """Check that files or folders exist (fast-reid's data sets call this).

        Raises:
            DatasetError: some do not exist; names them.
        """
        paths = [required_files] if isinstance(required_files, str) else list(required_files)
        if gone := [path for path in paths if not os.path.exists(path)]:
            raise DatasetError(f"{type(self).__name__}: {', '.join(gone)} not found; check DATASETS.ROOT")

    def get_num_pids(self, data: Rows) -> int:
        """Number of people in images or tuples."""
        return len({row.person if isinstance(row, PersonImage) else row[1] for row in data})

    def get_num_cams(self, data: Rows) -> int:
        """Number of cameras in images or tuples."""
        return len({row.camera if isinstance(row, PersonImage) else row[2] for row in data})


def _column(row: PersonImage | tuple, column: int) -> object:
    if isinstance(row, PersonImage):
        return row.person if column == 1 else row.camera
    return row[column] if isinstance(row, tuple | list) and len(row) >= 3 else None


def _numbers_within(names: Iterable[str]) -> dict[str, int] | None:
    """The number at the end of each name, if all names have the same prefix and different numbers."""
    names = set(names)
    found = {name: match for name in names if (match := _WITH_NUMBER.fullmatch(name))}
    if len(found) < len(names) or len({match[1] for match in found.values()}) > 1:
        return None
    numbers = {name: int(match[2]) for name, match in found.items()}
    return numbers if len(set(numbers.values())) == len(numbers) else None


def _image(row: tuple, people: dict[str, int], cameras: dict[str, int]) -> PersonImage:
    path, person, camera, *rest = row
    view = rest[0] if rest else 0
    if isinstance(view, str):
        view = _VIEW_NAMES.get(view.lower(), view)
    person, camera = people.get(person, person), cameras.get(camera, camera)
    return PersonImage(os.fsdecode(path), _whole(person), _whole(camera), _whole(view))


def _whole(value: Any) -> int:
    """A whole number of any type; int() alone would convert 7.9 and b"7" to 7, and "1_1" to 11.

    Raises:
        ValueError: the value is not a whole number, or too large for int64.
        TypeError: the value is not a number.
    """
    if isinstance(value, str):
        if not is_canonical(value.removeprefix("-")) or value == "-0":
            raise ValueError(f"{value!r} is not how a whole number is written")
        return int(value)
    if isinstance(value, bytes | bytearray):
        raise TypeError(f"{value!r} is no number")
    try:
        number = operator.index(value)
    except TypeError:
        number = int(value)
        if number != value:
            raise ValueError(f"{value!r} is no whole number") from None
    if not _LEAST <= number <= _LARGEST:
        raise ValueError(f"{value!r} does not fit 64 bits")
    return number
