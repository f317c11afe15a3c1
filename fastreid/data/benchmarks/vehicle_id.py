"""PKU VehicleID (Liu et al., CVPR 2016): vehicles seen from the front or behind, cameras unknown."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fastreid.data.benchmarks.base import Benchmark, Protocol
from fastreid.data.benchmarks.lists import Lines
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Entry, Source
from fastreid.structures import PersonImage, View

# The cameras are unknown: all queries have one and the gallery another, so that no match is removed.
QUERY_CAMERA, GALLERY_CAMERA = 0, 1


def read_vehicle_id(path: Path, vehicle: int, camera: int = QUERY_CAMERA) -> PersonImage:
    """Image of a vehicle; the list gives the vehicle."""
    return PersonImage(str(path), vehicle, camera, View.GROUND)


@dataclass(frozen=True)
class OneOfEach(Source):
    """One image of each vehicle of a list (`gallery`), or all others.

    The chosen image is the one whose name without its suffix has the lowest SHA-256, a pseudo-random choice that does
    not depend on the order of the lines.
    """

    images: Lines
    gallery: bool

    @property
    def name(self) -> str:
        """The part and its list, for messages."""
        return f"{'gallery' if self.gallery else 'queries'} of {self.images.name}"

    def is_there(self, home: Path) -> bool:
        """Whether the list exists."""
        return self.images.is_there(home)

    def entries(self, home: Path) -> list[Entry]:
        """The chosen image of each vehicle, or all others."""
        entries = self.images.entries(home)
        images_of: dict[tuple[int, ...], list[Path]] = defaultdict(list)
        for entry in entries:
            images_of[entry.numbers].append(entry.path)
        chosen = {min(paths, key=_digest) for paths in images_of.values()}
        camera = GALLERY_CAMERA if self.gallery else QUERY_CAMERA
        return [Entry(e.path, (*e.numbers, camera)) for e in entries if (e.path in chosen) == self.gallery]


def _digest(path: Path) -> str:
    return sha256(path.stem.encode("utf-8", "surrogateescape")).hexdigest()


def _list(name: str) -> Lines:
    return Lines((f"train_test_split/{name}.txt",), ("image",), numbers=1, suffix=".jpg")


def _protocol(vehicles: int, queries: int, paper: str) -> Protocol:
    test = _list(f"test_list_{vehicles}")
    sizes = {"query": Sizes(queries, note=f"The paper says {paper}"), "gallery": Sizes(vehicles, vehicles)}
    about = f"All images but one of each of {vehicles:,} vehicles against a gallery of that one image per vehicle."
    return Protocol(OneOfEach(test, gallery=False), OneOfEach(test, gallery=True), sizes=sizes, about=about)


VEHICLE_ID = Benchmark(
    "VehicleID",
    folders=("VehicleID", "VehicleID_V1.0", "vehicleid"),
    train=_list("train_list"),
    read=read_vehicle_id,
    protocols={
        "SmallVehicleID": _protocol(800, 5_693, "6,532"),
        "MediumVehicleID": _protocol(1_600, 11_777, "11,395"),
        "LargeVehicleID": _protocol(2_400, 17_377, "17,638"),
    },
    aliases={"VehicleID": "LargeVehicleID"},
    layout="""\
VehicleID/
  image/                       0061606.jpg
  train_test_split/            train_list.txt, test_list_800.txt, test_list_1600.txt, test_list_2400.txt
                               0061606 18803: image, vehicle""",
    train_sizes=Sizes(113_346, 13_164, "The paper says 110,178 images of 13,134 vehicles"),
)
