"""Market-1501 (Zheng et al., ICCV 2015) and DukeMTMC-reID (Zheng et al., ICCV 2017), which has its form."""

from functools import partial

from fastreid.data.benchmarks.base import Benchmark, Protocol
from fastreid.data.benchmarks.person_camera import read_person_camera
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Concatenated, Folder

QUERY, GALLERY = Folder("query"), Folder("bounding_box_test")
# Person 0 stands for all other people in the pictures: in the gallery, but in no query.
DISTRACTOR = 0

MARKET1501 = Benchmark(
    "Market1501",
    folders=(
        *("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "Market1501/Market-1501-v15.09.15"),
        *("Market1501", "Market-1501", "market1501", "Market"),
    ),
    train=Folder("bounding_box_train"),
    read=partial(read_person_camera, num_cameras=6),
    protocols={
        "Market1501": Protocol(
            QUERY,
            GALLERY,
            sizes={"query": Sizes(3_368, 750), "gallery": Sizes(15_913, 751)},
            about="Every query against the whole gallery; only images under other cameras are matches.",
        ),
        "Market1501_500K": Protocol(
            QUERY,
            Concatenated((GALLERY, Folder("images"))),
            sizes={"query": Sizes(3_368, 750)},
            about="Every query against gallery and 500,000 distractors; only images under other cameras are matches.",
        ),
    },
    layout="""\
Market-1501-v15.09.15/
  bounding_box_train/          0002_c1s1_000451_03.jpg: person, camera (1 to 6), sequence, frame, box
  query/                       bounding_box_test/, with 0000 (other people) and -1 (bad boxes)
  images/                      the 500,000 distractors, for Market1501_500K only""",
    train_sizes=Sizes(12_936, 751),
    distractors=(DISTRACTOR,),
)

DUKEMTMC = Benchmark(
    "DukeMTMC",
    folders=("DukeMTMC-reID", "DukeMTMC", "DukeMTMC-reid", "dukemtmc-reid/DukeMTMC-reID", "dukemtmcreid", "dukemtmc"),
    train=Folder("bounding_box_train"),
    read=partial(read_person_camera, num_cameras=8),
    protocols={
        "DukeMTMC": Protocol(
            QUERY,
            GALLERY,
            sizes={"query": Sizes(2_228, 702), "gallery": Sizes(17_661, 1_110)},
            about="Every query against the whole gallery; only images under other cameras are matches.",
        ),
    },
    layout="""\
DukeMTMC-reID/
  bounding_box_train/          0002_c1_f0044158.jpg: person, camera (1 to 8), frame
  query/                       bounding_box_test/""",
    train_sizes=Sizes(16_522, 702),
)
