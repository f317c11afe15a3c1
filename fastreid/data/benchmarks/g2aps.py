"""G2APS-ReID: a drone and a surveillance camera, cut out of the person-search set G2APS (SeCap paper, CVPR 2025)."""

from pathlib import Path

from fastreid.data.benchmarks.base import Benchmark, Protocol, UnexpectedCamera
from fastreid.data.benchmarks.lists import Listed
from fastreid.data.benchmarks.person_camera import person_and_camera
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Folder
from fastreid.structures import UNNAMED_PERSON, PersonImage, View

CAMERAS = {0: View.AERIAL, 3: View.GROUND}
UNLABELLED_PERSON = 5555


def read_g2aps(path: Path) -> PersonImage:
    """`0001_c3v1_000123.jpg` is person 1 under camera 3 (ground; camera id 1).

    Person 5555 stands for all people without a label.

    Raises:
        ValueError: the file name has another form.
        UnexpectedCamera: the camera is not 0 or 3.
    """
    person, camera = person_and_camera(path)
    if camera not in CAMERAS:
        raise UnexpectedCamera(f"camera c{camera}, where the benchmark has c0 and c3")
    view = CAMERAS[camera]
    return PersonImage(str(path), UNNAMED_PERSON if person == UNLABELLED_PERSON else person, int(view), view)


AERIAL, GROUND = frozenset({View.AERIAL}), frozenset({View.GROUND})


def _listed(file: str, query: frozenset[View], gallery: frozenset[View], size: int, about: str) -> Protocol:
    return Protocol(
        Listed(file, True, query),
        Listed(file, False, gallery),
        sizes={"query": Sizes(4_876), "gallery": Sizes(size, note="Unlabelled people (5555) are not counted")},
        about=about,
    )


G2APS_REID = Benchmark(
    "G2APS_ReID",
    folders=("G2APS-ReID", "G2APS_ReID"),
    train=Folder("bounding_box_train"),
    read=read_g2aps,
    protocols={
        "G2APS_ReID_A2G": _listed(
            "exp3_A2G+.txt", AERIAL, GROUND, 37_202, "Drone queries against the surveillance gallery."
        ),
        "G2APS_ReID_G2A": _listed(
            "exp4_G2A+.txt", GROUND, AERIAL, 62_791, "Surveillance queries against the drone gallery."
        ),
    },
    aliases={"G2APS_ReID": "G2APS_ReID_A2G"},
    layout="""\
G2APS-ReID/
  bounding_box_train/<id>/         0001_c3v1_000123.jpg: person, camera (0 drone, 3 surveillance), sequence, frame
  query_c0/<id>/                   bounding_box_test_c3/<id>/
  query_c3/<id>/                   bounding_box_test_c0/<id>/
  bounding_box_gallery/            unlabelled people: 5555_c0….jpg, 5555_c3….jpg
  exp3_A2G+.txt                    exp4_G2A+.txt""",
    train_sizes=Sizes(100_871, 1_569),
)
