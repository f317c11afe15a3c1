"""CUHK03 (Li et al., CVPR 2014): five pairs of cameras; boxes drawn by hand (labeled) or by a detector (detected).

Its new protocol (Zhong et al., CVPR 2017) is that of Market-1501. The classic one has 20 splits with 100 test people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastreid.data.benchmarks.base import Benchmark, Protocol
from fastreid.data.benchmarks.lists import find_listed
from fastreid.data.benchmarks.person_camera import ground_image, person_and_camera
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Entry, FirstOf, Folder, MissingImages, Source
from fastreid.structures import PersonImage
from fastreid.utils.text import read_text

# Cameras of each pair; no two pairs share people.
NUM_CAMERAS = 2
_FILE_NAME = re.compile(r"(?P<pair>[0-9])_(?P<person>[0-9]{3,17})_(?P<camera>[0-9])_[0-9]+")


def read_cuhk03(path: Path) -> PersonImage:
    """`1_001_2_06.png` is person 1 of camera pair 1 (person 1001) under its camera 2 (camera id 1).

    File names in Market-1501's form are read too: `0001_c1_000151.png`.

    Raises:
        ValueError: the file name has another form.
        UnexpectedCamera: the camera is not 1 or 2.
    """
    match = _FILE_NAME.fullmatch(path.stem)
    person, camera = (match["pair"] + match["person"], match["camera"]) if match else person_and_camera(path)
    return ground_image(path, int(person), int(camera), NUM_CAMERAS)


@dataclass(frozen=True)
class Split(Source):
    """A split that a file lists, of images extracted from cuhk-03.mat.

    Attributes:
        file: name of the file.
        boxes: "labeled" or "detected"; the images are in images_labeled or images_detected.
        part: "train", "query" or "gallery".
    """

    file: str
    boxes: str
    part: str

    @property
    def name(self) -> str:
        """The split and its file, for messages."""
        return f"{self.part} of {self.file}"

    def is_there(self, home: Path) -> bool:
        """Whether the file exists."""
        return (home / self.file).is_file()

    def entries(self, home: Path) -> list[Entry]:
        """The images in the order of the file.

        Raises:
            MissingImages: no such file, a file of another form, or missing images.
        """
        if not self.is_there(home):
            raise MissingImages(f"no file {home / self.file}")
        try:
            names = self.read(home / self.file)
        except Exception as error:  # scipy and json raise many kinds of errors for damaged files
            raise MissingImages(f"cannot read {self.name} in {home}: {type(error).__name__}: {error}") from error
        return [Entry(path) for path in find_listed(home, [f"images_{self.boxes}/{n}" for n in names], self.name)]

    def read(self, file: Path) -> Sequence[str]:
        """Names of the images."""
        raise NotImplementedError


class MatSplit(Split):
    """The .mat file of Zhong et al.: `filelist`, and positions in it from 1 (`train_idx`, `query_idx` and others)."""

    def read(self, file: Path) -> Sequence[str]:
        """Names of the images."""
        from scipy.io import loadmat

        content = loadmat(file, simplify_cells=True)
        names, chosen = np.ravel(content["filelist"]), np.ravel(content[f"{self.part}_idx"])
        if chosen.min() < 1:
            raise ValueError(f"{self.part}_idx counts from {chosen.min()}, not from 1")
        return [str(name) for name in names[chosen.astype(int) - 1]]


class JsonSplit(Split):
    """The .json file of torchreid and fast-reid: a list of splits with rows (path, person, camera); the first is read.

    The paths are those of the machine that wrote the file, so only file names are read.
    """

    def read(self, file: Path) -> Sequence[str]:
        """Names of the images."""
        rows = json.loads(read_text(file))[0][self.part]
        return [path.replace("\\", "/").rpartition("/")[2] for path, *_ in rows]


_MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def _new(boxes: str, part: str) -> Source:
    return FirstOf(
        (
            MatSplit(f"cuhk03_new_protocol_config_{boxes}.mat", boxes, part),
            JsonSplit(f"splits_new_{boxes}.json", boxes, part),
            Folder(f"{boxes}/{_MARKET_FOLDERS[part]}"),
        )
    )


def _classic(boxes: str, part: str) -> Source:
    return JsonSplit(f"splits_classic_{boxes}.json", boxes, part)


def _protocol(source: Callable[[str, str], Source], boxes: str, about: str, **sizes: Sizes) -> Protocol:
    train, query, gallery = (source(boxes, part) for part in ("train", "query", "gallery"))
    return Protocol(query, gallery, train=train, sizes=sizes, about=f"{about} {_ABOUT_BOXES[boxes]}")


_NEW_QUERY = Sizes(1_400, 700)
_ABOUT_BOXES = {"labeled": "The boxes are drawn by hand.", "detected": "The boxes are those of a detector."}
_ABOUT_NEW = "New protocol: every query against the whole gallery; only images under the other camera are matches."
_ABOUT_CLASSIC = "Classic protocol, first split: every image of 100 people against all of them."
_CLASSIC = {"train": Sizes(ids=1_367), "query": Sizes(ids=100), "gallery": Sizes(ids=100)}

CUHK03 = Benchmark(
    "CUHK03",
    folders=("cuhk03", "CUHK03", "CUHK03-NP", "cuhk03-np", "cuhk03np"),
    train=_new("labeled", "train"),
    read=read_cuhk03,
    protocols={
        "CUHK03_labeled": _protocol(
            _new, "labeled", _ABOUT_NEW, train=Sizes(7_368, 767), query=_NEW_QUERY, gallery=Sizes(5_328, 700)
        ),
        "CUHK03_detected": _protocol(
            _new, "detected", _ABOUT_NEW, train=Sizes(7_365, 767), query=_NEW_QUERY, gallery=Sizes(5_332, 700)
        ),
        "CUHK03_classic_labeled": _protocol(_classic, "labeled", _ABOUT_CLASSIC, **_CLASSIC),
        "CUHK03_classic_detected": _protocol(_classic, "detected", _ABOUT_CLASSIC, **_CLASSIC),
    },
    aliases={"CUHK03": "CUHK03_labeled"},
    layout="""\
cuhk03/
  images_labeled/              1_001_1_01.png: pair of cameras, person, camera (1 or 2), image
  images_detected/             (as torchreid or fast-reid extract them from cuhk-03.mat, which is not read here)
  cuhk03_new_protocol_config_labeled.mat       cuhk03_new_protocol_config_detected.mat
  splits_classic_labeled.json                  splits_classic_detected.json, for the classic protocol""",
)
