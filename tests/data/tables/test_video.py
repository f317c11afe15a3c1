"""Boxes that are cut out of videos: which pixels, and what is refused."""

import av
import numpy as np
import pytest
from PIL import Image

from fastreid.data.tables import VideoError, crop_videos
from fastreid.data.tables.video import read_boxes

HEADER = "frame,person,left,top,right,bottom"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of ten frames of 64x48; in frame n, the left half has the grey value 20 n, the right half is white."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("door", "yard"):
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
            for number in range(10):
                picture = np.full((48, 64, 3), 255, np.uint8)
                picture[:, :32] = 20 * number
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return folder


def boxes(folder, *rows, header=HEADER):
    file = folder / "boxes.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def crop(videos, tmp_path, *rows, header=HEADER, **options):
    return crop_videos([videos / "door.mp4"], [boxes(tmp_path, *rows, header=header)], tmp_path / "crops", **options)


def test_boxes_are_cut_out_of_their_frames(videos, tmp_path):
    counts = crop(videos, tmp_path, "0,ann,0,0,32,48", "7,ann,0,0,32,48", "7,bob,40,10,64,30")
    assert counts == {"door": 3}
    found = {path.relative_to(tmp_path / "crops").as_posix(): Image.open(path) for path in tmp_path.rglob("*.jpg")}
    assert {name: image.size for name, image in found.items()} == {
        "door/ann/000000_0.jpg": (32, 48),
        "door/ann/000007_0.jpg": (32, 48),
        "door/bob/000007_1.jpg": (24, 20),
    }
    grey = {name: float(np.asarray(image)[:, 4:-8].mean()) for name, image in found.items()}
    assert grey["door/ann/000000_0.jpg"] == pytest.approx(0, abs=8)
    assert grey["door/ann/000007_0.jpg"] == pytest.approx(140, abs=8)
    assert grey["door/bob/000007_1.jpg"] == pytest.approx(255, abs=8)


def test_sizes_other_names_and_frames_from_1(videos, tmp_path):
    counts = crop(videos, tmp_path, "10,-3.4,5.5,20,20,7", header="Frame,x,y,w,h,ID", first_frame=1)
    assert counts == {"door": 1}
    (path,) = tmp_path.rglob("*.jpg")
    assert path.parent.name == "7" and path.name == "000009_0.jpg"
    assert Image.open(path).size == (17, 20)  # columns 0 to 16: the part inside the frame


def test_every_third_frame_of_two_videos(videos, tmp_path):
    tables = []
    for name in ("door", "yard"):
        (tmp_path / name).mkdir()
        tables.append(boxes(tmp_path / name, *(f"{frame},ann,0,0,9,9" for frame in range(10))))
    counts = crop_videos([videos / "door.mp4", videos / "yard.mp4"], tables, tmp_path / "crops", every=3)
    assert counts == {"door": 4, "yard": 4}
    assert sorted(path.stem for path in (tmp_path / "crops/yard/ann").iterdir()) == [
        f"{frame:06d}_0" for frame in (0, 3, 6, 9)
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0,ann,0,0,9,9", "10,ann,0,0,9,9"], "boxes in 1 frames after the end of .*door.mp4, which has 10 frames"),
        (["0,ann,70,0,99,9"], "1 boxes are outside of the frame, lines 2"),
        (["0,ann,9,0,9,9"], "line 2: the box from \\(9, 0\\) to \\(9, 9\\) is empty"),
        (["0,ann,0,0,9,nine"], "line 2: bottom is 'nine', which is not a number"),
        (["0,ann,0,0,nan,9"], "line 2: right is 'nan'"),
        (["0.5,ann,0,0,9,9"], "line 2: frame '0.5' is no whole number"),
        (["-1,ann,0,0,9,9"], "line 2: frame '-1' is no whole number from 0 on"),
        (["0,,0,0,9,9"], "the person '' cannot be the name of a folder"),
        (["0,a/b,0,0,9,9"], "the person 'a/b' cannot"),
        (["0,ann,0,0,9"], "line 2: fewer values, where the header has 6 columns"),
        (["0,ann,0,5,0,5,9,5,9,5"], "line 2: 10 values, where the header has 6 columns"),
        (["1_0,ann,0,0,9,9"], "line 2: frame is '1_0', which is not a number"),
        (["0,ann,0,0,9,\u0663"], "line 2: bottom is '\u0663', which is not a number"),
    ],
)
def test_wrong_boxes_are_refused_and_nothing_is_left(videos, tmp_path, rows, message):
    with pytest.raises(VideoError, match=message):
        crop(videos, tmp_path, *rows)
    assert [path.name for path in tmp_path.iterdir()] == ["boxes.csv"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("frame,left,top,right,bottom", "lacks person"),
        ("frme,person,x,y,w,h", "lacks frame.*'frme' may be frame"),
        ("frame,person,x,y,w,x2", "lacks height"),
        ("frame,person,x,left,w,h", "left twice"),
        ("frame,person,x,y,w,h,right,bottom", "has both right, bottom and width, height"),
        ("1,1,10.5,20,30,40", "has no header"),
    ],
)
def test_wrong_headers(tmp_path, header, message):
    with pytest.raises(VideoError, match=message):
        read_boxes(boxes(tmp_path, header=header))


def test_files_that_cannot_be_used(videos, tmp_path, monkeypatch):
    table = boxes(tmp_path, "0,ann,0,0,9,9")
    with pytest.raises(VideoError, match="2 videos and 1 tables"):
        crop_videos([videos / "door.mp4"] * 2, [table], tmp_path / "crops")
    with pytest.raises(VideoError, match="two have the same: door, door"):
        crop_videos([videos / "door.mp4"] * 2, [table] * 2, tmp_path / "crops")
    with pytest.raises(VideoError, match="--every must be at least 1"):
        crop_videos([videos / "door.mp4"], [table], tmp_path / "crops", every=0)
    with pytest.raises(VideoError, match="cannot read the video .*boxes.csv"):
        crop_videos([table], [table], tmp_path / "crops")
    with pytest.raises(VideoError, match="cannot read .*none.csv"):
        crop_videos([videos / "door.mp4"], [tmp_path / "none.csv"], tmp_path / "crops")
    with pytest.raises(VideoError, match="no box in the frames that are read"):
        crop_videos([videos / "door.mp4"], [boxes(tmp_path, "1,ann,0,0,9,9")], tmp_path / "crops", every=2)
    (tmp_path / "crops").mkdir()
    with pytest.raises(VideoError, match="crops exists"):
        crop_videos([videos / "door.mp4"], [table], tmp_path / "crops")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(VideoError, match="pip install av"):
        crop_videos([videos / "door.mp4"], [table], tmp_path / "other")
    assert not (tmp_path / "other").exists()
