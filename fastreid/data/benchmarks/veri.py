"""VeRi-776 (Liu et al., ECCV 2016): vehicles under 20 cameras of a town."""

from functools import partial

from fastreid.data.benchmarks.base import Benchmark, Protocol
from fastreid.data.benchmarks.person_camera import read_person_camera
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Folder

VERI = Benchmark(
    "VeRi",
    folders=("VeRi", "VeRi-776", "VeRi_with_plate", "veri", "veri776"),
    train=Folder("image_train"),
    read=partial(read_person_camera, num_cameras=20),
    protocols={
        "VeRi": Protocol(
            Folder("image_query"),
            Folder("image_test"),
            sizes={"query": Sizes(1_678, 200), "gallery": Sizes(11_579, 200)},
            about="Every query against the whole gallery; only images under other cameras are matches.",
        ),
    },
    layout="""\
VeRi/
  image_train/                 0002_c002_00030600_0.jpg: vehicle, camera (1 to 20), time, box
  image_query/                 image_test/""",
    train_sizes=Sizes(37_778),
)
