"""LAGPeR: 7 aerial and 14 ground cameras in seven scenes (Wang et al., CVPR 2025, the SeCap paper)."""

from pathlib import Path

from fastreid.data.benchmarks.base import Benchmark, Protocol, UnexpectedCamera
from fastreid.data.benchmarks.lists import Listed
from fastreid.data.benchmarks.person_camera import person_and_camera
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Folder
from fastreid.structures import UNNAMED_PERSON, PersonImage, View

AERIAL_CAMERAS = frozenset({3, 6, 9, 13, 16, 19, 22})
# There is no camera 10: higher numbers move down by one, to 1 … 21.
MISSING_CAMERA = 10
CAMERAS = frozenset(range(1, 23)) - {MISSING_CAMERA}


def read_lagper(path: Path) -> PersonImage:
    """`0001_c13….jpg` is person 1 under camera 13 (aerial; camera id 12). Person -1 has no label.

    Raises:
        ValueError: the file name has another form.
        UnexpectedCamera: a camera that LAGPeR does not have.
    """
    person, camera = person_and_camera(path)
    if camera not in CAMERAS:
        raise UnexpectedCamera(f"camera c{camera}, where the benchmark has c1 to c22 without c{MISSING_CAMERA}")
    view = View.AERIAL if camera in AERIAL_CAMERAS else View.GROUND
    # Not trained on; in a gallery it counts as a wrong match, as in the published figures.
    person = UNNAMED_PERSON if person == -1 else person
    return PersonImage(str(path), person, camera - (camera > MISSING_CAMERA), view)


AERIAL, GROUND = frozenset({View.AERIAL}), frozenset({View.GROUND})


def _listed(file: str, query: frozenset[View], gallery: frozenset[View] | None, size: int, about: str) -> Protocol:
    return Protocol(
        Listed(file, True, query),
        Listed(file, False, gallery),
        sizes={"query": Sizes(3_046), "gallery": Sizes(size)},
        about=about,
    )


LAGPER = Benchmark(
    "LAGPeR",
    folders=("LAGPeR",),
    train=Folder("bounding_box_train"),
    read=read_lagper,
    protocols={
        "LAGPeR_A2G": _listed("exp3_A2G+.txt", AERIAL, GROUND, 15_533, "Aerial queries against the ground gallery."),
        "LAGPeR_G2A": _listed("exp4_G2A+.txt", GROUND, AERIAL, 7_717, "Ground queries against the aerial gallery."),
        "LAGPeR_G2AG": _listed(
            "exp5_G2A+G.txt", GROUND, None, 20_204, "Ground queries against the gallery of both views."
        ),
    },
    aliases={"LAGPeR": "LAGPeR_A2G"},
    layout="""\
LAGPeR/
  bounding_box_train/<folder>/     0001_c13….jpg: person, camera (3, 6, 9, 13, 16, 19, 22 aerial)
  exp3_A2G+.txt   exp4_G2A+.txt   exp5_G2A+G.txt, and the query… and other folders that they name""",
    train_sizes=Sizes(40_770, 2_708),
)
