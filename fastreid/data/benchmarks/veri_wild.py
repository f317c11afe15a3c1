"""VERI-Wild (Lou et al., CVPR 2019): vehicles under 174 cameras in a month."""

from pathlib import Path

from fastreid.data.benchmarks.base import Benchmark, Protocol
from fastreid.data.benchmarks.lists import NUMBER, Lines, read_lines
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import MissingImages
from fastreid.structures import PersonImage, View

INFO = "train_test_split/vehicle_info.txt"


def read_veri_wild(path: Path, vehicle: int, camera: int) -> PersonImage:
    """Image of a vehicle; the list gives the vehicle, vehicle_info.txt the camera."""
    return PersonImage(str(path), vehicle, camera, View.GROUND)


class WildLines(Lines):
    """`00001/000001.jpg` in a list is vehicle 1; `00001/000001;90;…` in vehicle_info.txt gives its camera, 90."""

    def rows(self, home: Path) -> list[tuple[str, tuple[int, ...]]]:
        """The image's name, vehicle and camera of each line.

        Raises:
            MissingImages: images without a camera, or outside a vehicle's folder.
        """
        fields = [line.split(";") for line in read_lines(home / INFO)]
        cameras = {of[0]: int(of[1]) for of in fields if len(of) > 1 and NUMBER.fullmatch(of[1].strip())}
        rows: list[tuple[str, tuple[int, ...]]] = []
        unknown = []
        for name, _ in super().rows(home):
            vehicle, image = name.partition("/")[0], str(Path(name).with_suffix(""))
            if NUMBER.fullmatch(vehicle) and image in cameras:
                rows.append((name, (int(vehicle), cameras[image])))
            else:
                unknown.append(image)
        if unknown:
            raise MissingImages(
                f"{home / INFO} says no camera for {len(unknown):,} of {len(unknown) + len(rows):,} images of "
                f"{self.name}, for example {unknown[0]}; its lines are VEHICLE/IMAGE;CAMERA;…"
            )
        return rows


def _list(*names: str) -> WildLines:
    return WildLines(tuple(f"train_test_split/{name}.txt" for name in names), ("images",), suffix=".jpg")


def _protocol(vehicles: int, gallery: int, note: str = "") -> Protocol:
    test = f"test_{vehicles}"
    return Protocol(
        _list(f"{test}_query", f"{test}_id_query"),
        _list(test, f"{test}_id"),
        sizes={"query": Sizes(vehicles, vehicles), "gallery": Sizes(gallery, vehicles, note)},
        about=f"One query per vehicle of {vehicles:,}; only images under other cameras are matches.",
    )


VERI_WILD = Benchmark(
    "VeRiWild",
    folders=("VERI-Wild", "VeRi-Wild", "VeRiWild", "veriwild"),
    train=_list("train_list"),
    read=read_veri_wild,
    protocols={
        "SmallVeRiWild": _protocol(3_000, 38_861, "The paper says 41,816 with the queries, the lists have 41,861"),
        "MediumVeRiWild": _protocol(5_000, 64_389),
        "LargeVeRiWild": _protocol(10_000, 128_517),
    },
    aliases={"VeRiWild": "LargeVeRiWild"},
    layout="""\
VERI-Wild/
  images/00001/                000001.jpg: images of vehicle 1
  train_test_split/            train_list.txt, test_3000_query.txt, test_3000.txt, and the same with 5000 and 10000
                               00001/000001.jpg: vehicle, image
    vehicle_info.txt           00001/000001;90;…: vehicle, image, camera, time, model, type, colour""",
    train_sizes=Sizes(277_797, 30_671),
)
