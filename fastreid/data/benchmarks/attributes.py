"""Data sets of person attributes: PA-100K, and the attributes of Market-1501 and DukeMTMC-reID.

The images that are tested are the queries of a data set; there is no gallery, as attributes are not ranked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastreid.data.benchmarks.base import Benchmark
from fastreid.data.benchmarks.market1501 import DISTRACTOR, DUKEMTMC, MARKET1501
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.datasets.bases import DatasetError, ImageDataset
from fastreid.structures import PersonImage, View
from fastreid.structures.person_image import UNNAMED_PERSON
from fastreid.utils.logger import log_once

logger = logging.getLogger(__name__)

PA100K = "PA100K"
NOT_RANKED = "test images with attributes instead of query and gallery"
_SHOWN = 3

PA100K_FOLDERS = ("PA-100K", "PA100K", "pa100k")
PA100K_LAYOUT = """\
PA-100K/
  annotation.mat               names of 26 attributes; names and labels of the images of train, val and test
  data/                        000001.jpg …; release_data/ and release_data/release_data/ are found, too"""
_PA100K_ATTRIBUTES = 26
_PA100K_SIZES = {"train": 80_000, "val": 10_000, "test": 10_000}
_PA100K_IMAGES = ("data", "release_data/release_data", "release_data")

MARKET1501_LAYOUT = """\
Market-1501-v15.09.15/
  attribute/market_attribute.mat   27 attributes of each person of train and test; it is found in the folder itself, too
  bounding_box_train/          0002_c1s1_000451_03.jpg …
  bounding_box_test/           …"""
DUKEMTMC_LAYOUT = """\
DukeMTMC-reID/
  attribute/duke_attribute.mat     23 attributes of each person of train and test; it is found in the folder itself, too
  bounding_box_train/          0002_c1_f0044158.jpg …
  bounding_box_test/           …"""
Fields = dict[str, tuple[tuple[str, int], ...]]
"""Field of a file -> the attributes that it becomes, by name and value."""


def _colours(upper: str, lower: str) -> Fields:
    pairs = [("up", "upper", colour) for colour in upper.split()]
    pairs += [("down", "lower", colour) for colour in lower.split()]
    return {f"{field}{colour}": ((f"{where} {colour}", 2),) for field, where, colour in pairs}


MARKET1501_FIELDS: Fields = {
    "gender": (("female", 2),),
    "age": (("young", 1), ("teenager", 2), ("adult", 3), ("old", 4)),
    "hair": (("long hair", 2),),
    "up": (("short sleeves", 2),),
    "down": (("short lower clothing", 2),),
    "clothes": (("pants", 2),),
    **{name: ((name, 2),) for name in ("hat", "backpack", "bag", "handbag")},
    **_colours("black white red purple yellow gray blue green", "black white pink purple yellow gray blue green brown"),
}
DUKEMTMC_FIELDS: Fields = {
    "gender": (("female", 2),),
    "top": (("long upper clothing", 2),),
    "shoes": (("light shoes", 2),),
    **{name: ((name, 2),) for name in ("boots", "hat", "backpack", "bag", "handbag")},
    **_colours("black white red purple gray blue green brown", "black white red gray blue green brown"),
}


@dataclass(frozen=True)
class PeopleAttributes:
    """Attributes of the people of a benchmark.

    Lin et al., "Improving person re-identification by attribute and identity learning", Pattern Recognition, 2019.

    Attributes:
        name: registered name.
        benchmark: its images; its first protocol has its name.
        table: name of the file, without .mat, and of what is in it.
        fields: fields of the file.
        layout: the expected tree of files.
    """

    name: str
    benchmark: Benchmark
    table: str
    fields: Fields
    layout: str

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """What the values of `PersonImage.attributes` mean."""
        return tuple(name for values in self.fields.values() for name, _ in values)

    def load(self, root: str | Path) -> ImageDataset:
        """Return the data set; tested are the images of `bounding_box_test` that show one of the test people.

        Args:
            root: folder of all data sets.

        Raises:
            DatasetError: the file of attributes is missing or has another form; on access to a split: as for the
                benchmark, or a person has no attributes.
        """
        home, file = self.benchmark.home(root), f"{self.table}.mat"
        content = _read_mat(self.name, home, (f"attribute/{file}", file), self.layout)
        images = self.benchmark.load(self.benchmark.name, root)

        def with_attributes(split: str, found: Sequence[PersonImage]) -> list[PersonImage]:
            known = self._people(content, split, home)
            people = [image for image in found if image.person != DISTRACTOR]
            if lacking := [image for image in people if image.person not in known]:
                raise DatasetError(
                    f"{self.name}: {file} in {home} has no attributes of {len({i.person for i in lacking}):,} "
                    f"people of its {split} images, for example of {Path(lacking[0].path).name}"
                )
            return [replace(image, attributes=known[image.person]) for image in people]

        dataset = ImageDataset(
            lambda: with_attributes("train", images.train),
            lambda: with_attributes("test", images.gallery),
            [],
            self.name,
        )
        dataset.training_only, dataset.attribute_names = NOT_RANKED, self.attribute_names
        return dataset

    def _people(self, content: Mapping[str, Any], split: str, home: Path) -> dict[int, tuple[int, ...]]:
        """{person: attributes} of a split; the order of fields differs between the splits of the published files."""
        where = f"{self.name}: {self.table}.mat in {home}, {split}"
        try:
            table = {field: np.atleast_1d(values) for field, values in content[self.table][split].items()}
            people = [int(str(number)) for number in table.pop("image_index")]
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise DatasetError(f"{where}: it has another form than the published file ({error!r})") from None
        if different := sorted(table.keys() ^ self.fields.keys()):
            raise DatasetError(
                f"{where}: it has {len(table)} attributes, and the published file has {len(self.fields)}; in one of "
                f"them only: {', '.join(different)}"
            )
        columns = []
        for field, values in self.fields.items():
            if table[field].shape != (len(people),):
                shape = " x ".join(map(str, table[field].shape))
                raise DatasetError(f"{where}: {field} is of {shape} people, and image_index has {len(people)}")
            legal = range(1, 1 + max(value for _, value in values))
            if strange := set(table[field].tolist()) - set(legal):
                expected = ", ".join(map(str, legal))
                raise DatasetError(f"{where}: {field} has the value {min(strange)}; expected {expected}")
            columns += [(table[field] == value).astype(int).tolist() for _, value in values]
        return dict(zip(people, zip(*columns, strict=True), strict=True))


PEOPLE_ATTRIBUTES = (
    PeopleAttributes("Market1501Attr", MARKET1501, "market_attribute", MARKET1501_FIELDS, MARKET1501_LAYOUT),
    PeopleAttributes("DukeMTMCAttr", DUKEMTMC, "duke_attribute", DUKEMTMC_FIELDS, DUKEMTMC_LAYOUT),
)


def load_pa100k(name: str, tested: str, root: str | Path) -> ImageDataset:
    """Return PA-100K (Liu et al., "HydraPlus-Net", ICCV 2017); it trains on its training images.

    Args:
        name: registered name.
        tested: the split that is tested, "val" or "test".
        root: folder of all data sets.

    Raises:
        DatasetError: the file of annotations is missing or has another form; on access to a split: images are missing.
    """
    candidates = [Path(root) / folder for folder in PA100K_FOLDERS]
    home = next(filter(Path.is_dir, candidates), candidates[0])
    content = _read_mat(name, home, ("annotation.mat",), PA100K_LAYOUT)
    file = home / "annotation.mat"
    names = [str(each) for each in _entry(content, "attributes", name, file)]
    if len(names) != _PA100K_ATTRIBUTES:
        raise DatasetError(f"{name}: {file} names {len(names)} attributes, but PA-100K has {_PA100K_ATTRIBUTES}")

    def images(split: str) -> list[PersonImage]:
        files = [str(each) for each in _entry(content, f"{split}_images_name", name, file)]
        labels = np.atleast_2d(_entry(content, f"{split}_label", name, file))
        if labels.shape != (len(files), len(names)):
            raise DatasetError(
                f"{name}: {file} has {len(files):,} names of {split} images, but labels of {len(labels):,} images with "
                f"{labels.shape[1]} attributes; {len(names)} attributes are named"
            )
        if not np.isin(labels, (0, 1)).all():
            raise DatasetError(f"{name}: {split}_label in {file} has other values than 0 and 1")
        place = _folder_of(name, home, files, split)
        rows = zip(files, labels.tolist(), strict=True)
        return [
            PersonImage(str(place / file), UNNAMED_PERSON, 0, View.GROUND, tuple(map(int, row))) for file, row in rows
        ]

    dataset = ImageDataset(lambda: images("train"), lambda: images(tested), [], name)
    dataset.unlabelled, dataset.training_only, dataset.attribute_names = "it has attributes only", NOT_RANKED, names
    return dataset


def _folder_of(name: str, home: Path, files: Sequence[str], split: str) -> Path:
    """The folder of the images, all of which are there; another number than the published one is logged."""
    places = [home / place for place in _PA100K_IMAGES]
    place = next(filter(Path.is_dir, places), places[0])
    found = set(os.listdir(place)) if place.is_dir() else set()
    if missing := [file for file in files if file not in found]:
        raise DatasetError(
            f"{name}: {len(missing):,} of {len(files):,} {split} images in {place} are missing: "
            f"{', '.join(missing[:_SHOWN])}. Expected below DATASETS.ROOT or $FASTREID_DATASETS:\n{PA100K_LAYOUT}"
        )
    if difference := Sizes(_PA100K_SIZES[split]).explain(Sizes(len(files))):
        log_once(logger, logging.WARNING, f"{home}, {split}: {difference}")
    return place


def _read_mat(name: str, home: Path, files: Sequence[str], layout: str) -> dict[str, Any]:
    """The content of the first of some files that exists, in plain types."""
    file = next((home / file for file in files if (home / file).is_file()), None)
    if file is None:
        raise DatasetError(
            f"{name}: there is no {home / files[0]}. Expected below DATASETS.ROOT or $FASTREID_DATASETS:\n{layout}"
        )
    from scipy.io import loadmat  # slow to import, and few data sets need it

    try:
        return loadmat(file, simplify_cells=True)
    except Exception as error:  # scipy raises many kinds of errors for damaged files
        raise DatasetError(f"{name}: {file} cannot be read ({error or type(error).__name__})") from None


def _entry(content: Mapping[str, Any], key: str, name: str, file: Path) -> np.ndarray:
    if key not in content:
        raise DatasetError(f"{name}: {file} has no {key}, so it is not the file of PA-100K")
    return np.atleast_1d(content[key])
