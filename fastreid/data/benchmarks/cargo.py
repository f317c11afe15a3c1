"""CARGO: 13 rendered cameras, 5 aerial and 8 ground (Zhang et al., CVPR 2024, the VDT paper)."""

import re
from pathlib import Path

from fastreid.data.benchmarks.base import Benchmark, Protocol, UnexpectedCamera
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Folder
from fastreid.structures import PersonImage, View

CAMERAS, LAST_AERIAL_CAMERA = range(1, 14), 5
_FILE_NAME = re.compile(r"Cam(?P<camera>[0-9]+)_[^_]+_(?P<person>[0-9]{1,18})_[0-9]+")


def read_cargo(path: Path) -> PersonImage:
    """`Cam2_day_2519_320.jpg` is camera 2 (aerial), person 2519; camera ids count from 0.

    Raises:
        ValueError: the file name has another form.
        UnexpectedCamera: the camera is not one of the 13.
    """
    match = _FILE_NAME.fullmatch(path.stem)
    if not match:
        raise ValueError(f"{path.name} is not CamN_TIME_PERSON_INDEX")
    camera = int(match["camera"])
    if camera not in CAMERAS:
        raise UnexpectedCamera(f"Cam{camera}, where the benchmark has Cam1 to Cam13")
    view = View.AERIAL if camera <= LAST_AERIAL_CAMERA else View.GROUND
    return PersonImage(str(path), int(match["person"]), camera - 1, view)


AERIAL, GROUND = frozenset({View.AERIAL}), frozenset({View.GROUND})
ALL = {"query": Sizes(312), "gallery": Sizes(50_712)}
AERIAL_QUERY, AERIAL_GALLERY = Sizes(178, 89), Sizes(32_268, 2_447)
GROUND_QUERY, GROUND_GALLERY = Sizes(134, 60), Sizes(18_444, 2_404)

# Valid queries: the denominators of published Rank-1 figures.
CARGO = Benchmark(
    "CARGO",
    folders=("CARGO",),
    train=Folder("train"),
    read=read_cargo,
    protocols={
        "CARGO": Protocol(sizes=ALL, valid_queries=312, about="Every query against the whole gallery.", title="ALL"),
        "CARGO_AA": Protocol(
            query_views=AERIAL,
            gallery_views=AERIAL,
            sizes={"query": AERIAL_QUERY, "gallery": AERIAL_GALLERY},
            valid_queries=40,
            about="Aerial queries against the aerial gallery.",
            title="A↔A",
        ),
        "CARGO_GG": Protocol(
            query_views=GROUND,
            gallery_views=GROUND,
            sizes={"query": GROUND_QUERY, "gallery": GROUND_GALLERY},
            valid_queries=112,
            about="Ground queries against the ground gallery.",
            title="G↔G",
        ),
        # Two-way: with the view as camera, all matches of a query are in the other view (VDT, SD-ReID).
        "CARGO_AG": Protocol(
            camera_is_view=True,
            sizes=ALL,
            valid_queries=160,
            about="Across views: an aerial query must find ground images of its person, and the other way round. Each "
            "view counts as one camera, so same-view images of the person are removed; those of other people stay.",
            title="A↔G",
        ),
        # One-way (SeCap, GSAlign and others): no image of the query's own view is in the gallery.
        "CARGO_A2G": Protocol(
            query_views=AERIAL,
            gallery_views=GROUND,
            sizes={"query": AERIAL_QUERY, "gallery": GROUND_GALLERY},
            valid_queries=94,
            about="Aerial queries against the ground gallery.",
        ),
        "CARGO_G2A": Protocol(
            query_views=GROUND,
            gallery_views=AERIAL,
            sizes={"query": GROUND_QUERY, "gallery": AERIAL_GALLERY},
            valid_queries=66,
            about="Ground queries against the aerial gallery.",
        ),
    },
    layout="""\
CARGO/
  train/     Cam1/ … Cam13/     Cam2_day_2519_320.jpg: camera, time, person, number
  query/     Cam1/ … Cam13/
  gallery/   Cam1/ … Cam13/""",
    train_sizes=Sizes(51_451, 2_500),
)
