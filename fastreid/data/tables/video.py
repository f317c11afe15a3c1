"""Cuts the boxes of people out of videos, into the folders `camera/person` that a table is made of."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from fastreid.data.datasets.bases import DatasetError
from fastreid.data.pictures import clipped_box
from fastreid.utils.folders import atomic_folder
from fastreid.utils.suggest import near_matches
from fastreid.utils.text import TextError, read_text

CROPS = "{camera}/{person}/{name}"  # the pattern of the files that are written
CORNERS, SIZES = ("left", "top", "right", "bottom"), ("left", "top", "width", "height")
_OTHER_NAMES = {
    "left": ("x", "x1", "xmin"),
    "top": ("y", "y1", "ymin"),
    "right": ("x2", "xmax"),
    "bottom": ("y2", "ymax"),
    "width": ("w",),
    "height": ("h",),
    "person": ("id", "pid", "identity", "track", "track_id", "name"),
}
_NAMES = {other: name for name, others in _OTHER_NAMES.items() for other in others}
_SHOWN, _QUALITY = 5, 95


class VideoError(DatasetError):
    """A video or its boxes cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Box:
    """A box in a frame, in pixels; right and bottom are the first column and row outside.

    Attributes:
        line: line of the file, for messages.
        person: name of the person.
        left: first column.
        top: first row.
        right: first column to the right of it.
        bottom: first row below it.
    """

    line: int
    person: str
    left: float
    top: float
    right: float
    bottom: float

    def clipped(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """The part inside a frame, in whole pixels: left, top, right, bottom; None if there is none."""
        return clipped_box((self.left, self.top, self.right, self.bottom), width, height)


def read_boxes(file: Path, *, first_frame: int = 0) -> dict[int, list[Box]]:
    """Read a table of boxes with the columns frame, person, left, top, and right, bottom or width, height.

    Args:
        file: the CSV file.
        first_frame: number of the first frame of the video in the column frame.

    Returns:
        {index of the frame from 0: its boxes}.

    Raises:
        VideoError: no such file, columns are missing, or a row is wrong; the message has the line.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(file), newline=""), skipinitialspace=True, strict=True)
        header = [_column(name) for name in reader.fieldnames or []]
        reader.fieldnames = header
        _check_header(file, header)
        rows = [(reader.line_num, row) for row in reader]
    except (TextError, csv.Error) as error:
        raise VideoError(f"{file} is not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise VideoError(f"cannot read {file}: {error.strerror or error}") from error
    boxes: dict[int, list[Box]] = defaultdict(list)
    for line, row in rows:
        if None in row or None in row.values():
            raise VideoError(
                f"{file}, line {line}: {len(row) - 1 + len(row[None]) if None in row else 'fewer'} values, where the "
                f"header has {len(header)} columns (numbers have a decimal point, not a comma)"
            )
        index = _number(file, line, row, "frame") - first_frame
        if index < 0 or index != int(index):
            raise VideoError(
                f"{file}, line {line}: frame {row['frame']!r} is no whole number from {first_frame} on; --first-frame "
                "is the number of the first frame"
            )
        boxes[int(index)].append(_box(file, line, row))
    return dict(boxes)


def _column(name: str | None) -> str:
    column = (name or "").strip().lower()
    return _NAMES.get(column, column)


def _check_header(file: Path, header: Sequence[str]) -> None:
    corners = "width" not in header and "height" not in header
    if {*CORNERS, *SIZES} <= set(header):
        raise VideoError(f"the header of {file} has both right, bottom and width, height: keep one of them")
    if header and all(_is_number(name) for name in header):
        raise VideoError(
            f"{file} has no header: its first line must be frame,person,left,top,right,bottom or "
            "frame,person,left,top,width,height"
        )
    needed = ("frame", "person", *(CORNERS if corners else SIZES))
    missing = [name for name in needed if name not in header]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise VideoError(f"the header of {file} has {', '.join(twice)} twice (x, x1 and xmin are left, and so on)")
    if missing:
        near = {name: near_matches(name, header) for name in missing}
        hints = [f"{found[0]!r} may be {name}" for name, found in near.items() if found]
        raise VideoError(
            f"the header of {file} lacks {', '.join(missing)}: expected frame,person,left,top,right,bottom or "
            f"frame,person,left,top,width,height{'; ' if hints else ''}{', '.join(hints)}"
        )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*", text) is not None


def _number(file: Path, line: int, row: Mapping[str, Any], column: str) -> float:
    value = float(row[column]) if _is_number(row[column]) else float("nan")
    if not np.isfinite(value):
        raise VideoError(f"{file}, line {line}: {column} is {row[column]!r}, which is not a number")
    return value


def _box(file: Path, line: int, row: Mapping[str, Any]) -> Box:
    person = (row["person"] or "").strip()
    if not person or person in (".", "..") or set(person) & set("/\\\0"):
        raise VideoError(f"{file}, line {line}: the person {person!r} cannot be the name of a folder")
    left, top = _number(file, line, row, "left"), _number(file, line, row, "top")
    if "width" in row:
        right, bottom = left + _number(file, line, row, "width"), top + _number(file, line, row, "height")
    else:
        right, bottom = _number(file, line, row, "right"), _number(file, line, row, "bottom")
    if right <= left or bottom <= top:
        raise VideoError(f"{file}, line {line}: the box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) is empty")
    return Box(line, person, left, top, right, bottom)


def crop_videos(
    videos: Sequence[Path], boxes: Sequence[Path], folder: Path, *, every: int = 1, first_frame: int = 0
) -> dict[str, int]:
    """Cut boxes out of videos, into `folder/camera/person/frame_number.jpg`; each video is a camera of its name.

    The folder is made as a whole or not at all; the caller holds its lock (`fastreid.utils.lock.path_lock`). Parts of a
    box outside of the frame are cut off.

    Args:
        videos: the videos.
        boxes: the table of the boxes of each video; see `read_boxes`.
        folder: where the files are written; it must not exist.
        every: frames from one that is read to the next one.
        first_frame: number of the first frame in the tables.

    Returns:
        {camera: number of files}.

    Raises:
        VideoError: PyAV is missing, a file cannot be read, the folder exists, two videos have the same name, a table
            names frames that the video does not have, or a box is outside of its frame.
    """
    if len(videos) != len(boxes):
        raise VideoError(f"{len(videos)} videos and {len(boxes)} tables of boxes: give one --boxes for each --video")
    if every < 1:
        raise VideoError(f"--every must be at least 1, got {every}")
    cameras = [video.stem for video in videos]
    if len(set(cameras)) < len(cameras):
        raise VideoError(f"each video is a camera of its name, but two have the same: {', '.join(cameras)}")
    if folder.exists():
        raise VideoError(f"{folder} exists; give another --crops, or make a table of it with --root {folder}")
    tables = [read_boxes(file, first_frame=first_frame) for file in boxes]
    with atomic_folder(folder) as draft:
        return {
            camera: _crop(video, table, file, draft / camera, every)
            for camera, video, table, file in zip(cameras, videos, tables, boxes, strict=True)
        }


def _crop(video: Path, table: Mapping[int, Sequence[Box]], file: Path, folder: Path, every: int) -> int:
    """Cut the boxes of a video out, and return the number of files."""
    written, frames, outside = 0, 0, list[Box]()
    for index, frame in enumerate(_frames(video)):
        frames += 1
        if index % every:
            continue
        for number, box in enumerate(table.get(index, ())):
            part = box.clipped(frame.shape[1], frame.shape[0])
            if part is None:
                outside.append(box)
                continue
            place = folder / box.person / f"{index:06d}_{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            left, top, right, bottom = part
            Image.fromarray(frame[top:bottom, left:right]).save(place, quality=_QUALITY)
            written += 1
    if outside:
        lines = ", ".join(str(box.line) for box in outside[:_SHOWN])
        raise VideoError(f"{file}: {len(outside):,} boxes are outside of the frame, lines {lines}")
    if beyond := sorted(index for index in table if index >= frames):
        raise VideoError(
            f"{file} has boxes in {len(beyond):,} frames after the end of {video}, which has {frames:,} frames; "
            "--first-frame is the number of the first one"
        )
    if not written:
        raise VideoError(f"{file} has no box in the frames that are read of {video} (--every {every})")
    return written


def _frames(video: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video as RGB arrays [H, W, 3]."""
    try:
        import av
    except ImportError as error:
        raise VideoError("videos are read by PyAV, which is not installed: pip install av") from error
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise VideoError(f"{video} has no video stream")
            total = container.streams.video[0].frames or None
            frames = tqdm(container.decode(video=0), video.name, total, disable=not sys.stderr.isatty(), unit="frame")
            for frame in frames:
                yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"cannot read the video {video}: {getattr(error, 'strerror', None) or error}") from error
