"""Benchmarks of image retrieval: CUB-200-2011, Cars-196, Stanford Online Products and In-Shop Clothes.

They have classes instead of people, and no cameras. In the first three every test image is a query, and the gallery is
all other test images: each image has a camera of its own, so that a ranking leaves out the query itself and nothing
else. In-Shop has a list of queries and a gallery, which have a camera each, so that nothing is left out. Rank-k is then
the Recall@k of the field.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastreid.data.benchmarks.lists import NUMBER, read_lines
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import MissingImages
from fastreid.data.datasets.bases import DatasetError, ImageDataset
from fastreid.structures import PersonImage, View
from fastreid.utils.logger import log_once

logger = logging.getLogger(__name__)

QUERY_CAMERA, GALLERY_CAMERA = 0, 1
_SHOWN = 3
# Classes that are trained on, by the usual split: the first half.
_CUB_TRAINED, _CARS_TRAINED = 100, 98

Rows = dict[str, list[tuple[Path, int]]]
"""Split -> file and class of each image."""


@dataclass(frozen=True)
class RetrievalSet:
    """One benchmark.

    Attributes:
        name: its registered name, which is that of fast-reid's project FastRetri.
        folders: possible names of its folder below the data root.
        read: folder -> files and classes of "train" and "test", or of "train", "query" and "gallery".
        layout: the expected tree of files, shown if it is missing.
        sizes: split -> published number of images.
        other_name: a second registered name.
    """

    name: str
    folders: tuple[str, ...]
    read: Callable[[Path], Rows]
    layout: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    other_name: str = ""

    def load(self, root: str | Path) -> ImageDataset:
        """Return the data set below `root`; its lists are read on first access.

        Raises:
            DatasetError: on access to a split: files are missing, or have another form.
        """
        candidates = [Path(root) / folder for folder in self.folders]
        home = next(filter(Path.is_dir, candidates), candidates[0])
        found: Rows = {}

        def images(split: str, camera: int | None) -> list[PersonImage]:
            if not found:
                found.update(self._rows(home))
            rows = found[split if split in found else "test"]
            return [
                PersonImage(str(path), number, index if camera is None else camera, View.GROUND)
                for index, (path, number) in enumerate(rows)
            ]

        has_queries = "query" in self.sizes
        return ImageDataset(
            lambda: images("train", 0),
            lambda: images("query", QUERY_CAMERA if has_queries else None),
            lambda: images("gallery", GALLERY_CAMERA if has_queries else None),
            self.name,
        )

    def _rows(self, home: Path) -> Rows:
        try:
            rows = self.read(home)
        except MissingImages as error:
            raise DatasetError(
                f"{self.name}: {error}. Expected below DATASETS.ROOT or $FASTREID_DATASETS:\n{self.layout}"
            ) from None
        counts = Counter(path for images in rows.values() for path, _ in images)
        if repeated := [path for path, count in counts.items() if count > 1]:
            raise DatasetError(
                f"{self.name}: the lists in {home} name {len(repeated):,} images more than once, for example "
                f"{repeated[0].relative_to(home)}: a query would find itself in the gallery"
            )
        for split, published in self.sizes.items():
            images = rows[split]
            if not images:
                raise DatasetError(f"{self.name}: the lists in {home} name no {split} images")
            if missing := [path for path, _ in images if not path.is_file()]:
                shown = ", ".join(str(path.relative_to(home)) for path in missing[:_SHOWN])
                raise DatasetError(
                    f"{self.name}: {len(missing):,} of {len(images):,} {split} images in {home} are missing: {shown}"
                )
            if difference := Sizes(published).explain(Sizes(len(images))):
                log_once(logger, logging.WARNING, f"{home}, {split}: {difference}")
        return rows


def _table(file: Path, columns: int, header: str = "") -> list[list[str]]:
    """The words of each line of a list file.

    Args:
        file: the file.
        columns: number of words in a line.
        header: first word of the line that names the columns, if there is one among the first two lines.

    Raises:
        MissingImages: no such file, or a line with another number of words.
    """
    rows = [line.split() for line in read_lines(file) if line]
    rows = rows[next((number for number, row in enumerate(rows[:2], 1) if row[0] == header), 0) :]
    if wrong := [row for row in rows if len(row) != columns]:
        raise MissingImages(
            f"{len(wrong):,} of {len(rows):,} lines of {file} do not have {columns} words, for example "
            f"{' '.join(wrong[0])!r}"
        )
    return rows


def _whole(text: str, file: Path) -> int:
    """A number of a list file."""
    if not NUMBER.fullmatch(text):
        raise MissingImages(f"{file} has {text!r} where a whole number is expected")
    return int(text)


def _read_cub(home: Path) -> Rows:
    names = dict(_table(home / "images.txt", 2))
    rows: Rows = {"train": [], "test": []}
    labels = home / "image_class_labels.txt"
    for number, label in _table(labels, 2):
        if number not in names:
            raise MissingImages(f"{labels} has image {number}, which images.txt does not name")
        category = _whole(label, labels)
        split = "train" if category <= _CUB_TRAINED else "test"
        rows[split].append((home / "images" / names[number], category))
    return rows


def _read_cars(home: Path) -> Rows:
    file = home / "cars_annos.mat"
    if not file.is_file():
        raise MissingImages(f"there is no {file}")
    from scipy.io import loadmat  # slow to import, and one data set needs it

    try:
        annotations = loadmat(file, squeeze_me=True)["annotations"]
        fields = (np.atleast_1d(annotations[name]).tolist() for name in ("relative_im_path", "class"))
        images = [(home / str(name), int(label)) for name, label in zip(*fields, strict=True)]
    except Exception as error:  # scipy raises many kinds of errors for damaged files
        raise MissingImages(f"{file} is not the file of Cars-196 ({error or type(error).__name__})") from None
    trained = [image for image in images if image[1] <= _CARS_TRAINED]
    return {"train": trained, "test": [image for image in images if image[1] > _CARS_TRAINED]}


def _read_products(home: Path) -> Rows:
    rows: Rows = {}
    for split, file in (("train", home / "Ebay_train.txt"), ("test", home / "Ebay_test.txt")):
        table = _table(file, 4, header="image_id")
        rows[split] = [(home / path, _whole(label, file)) for _, label, _, path in table]
    return rows


def _read_in_shop(home: Path) -> Rows:
    lists = [home / place / "list_eval_partition.txt" for place in ("Eval", "")]
    file = next(filter(Path.is_file, lists), lists[0])
    images = next((home / place for place in ("Img", "") if (home / place / "img").is_dir()), home / "Img")
    rows: Rows = {"train": [], "query": [], "gallery": []}
    for name, item, split in _table(file, 3, header="image_name"):  # after the number of images
        if split not in rows:
            raise MissingImages(f"{file} has the split {split!r}; expected train, query or gallery")
        rows[split].append((images / name, _whole(item.removeprefix("id_"), file)))
    return rows


RETRIEVAL_SETS = (
    RetrievalSet(
        "CUB",
        ("CUB_200_2011", "CUB-200-2011"),
        _read_cub,
        """\
CUB_200_2011/
  images.txt                   1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
  image_class_labels.txt       1 1: image, class; classes 1 to 100 are trained on, the others are tested
  images/                      001.Black_footed_Albatross/ …""",
        {"train": 5_864, "test": 5_924},
    ),
    RetrievalSet(
        "CARS",
        ("Cars196", "cars196", "Cars_196", "CARS_196", "cars"),
        _read_cars,
        """\
Cars196/
  cars_annos.mat               the file of all images; classes 1 to 98 are trained on, the others are tested
  car_ims/                     000001.jpg …""",
        {"train": 8_054, "test": 8_131},
        other_name="Cars196",
    ),
    RetrievalSet(
        "SOP",
        ("Stanford_Online_Products",),
        _read_products,
        """\
Stanford_Online_Products/
  Ebay_train.txt, Ebay_test.txt   1 1 1 bicycle_final/111085122871_0.JPG: image, class, super class, file
  bicycle_final/ …""",
        {"train": 59_551, "test": 60_502},
    ),
    RetrievalSet(
        "InShop",
        ("In-shop", "InShop", "In-Shop Clothes Retrieval Benchmark", "inshop"),
        _read_in_shop,
        """\
In-shop/
  Eval/list_eval_partition.txt    img/WOMEN/Dresses/id_00000002/02_1_front.jpg id_00000002 train
  Img/img/                        WOMEN/ …, MEN/ …""",
        {"train": 25_882, "query": 14_218, "gallery": 12_612},
    ),
)
