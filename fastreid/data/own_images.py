"""A user's own images as a data set, by name alone: `csv:people.csv`, or `folder:people` with a folder per person."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from fastreid.data.benchmarks.base import SPLITS
from fastreid.data.benchmarks.sources import IMAGE_SUFFIXES, View, images_below
from fastreid.data.datasets.bases import DatasetError, ImageDataset, number_names
from fastreid.structures import PersonImage
from fastreid.utils.suggest import explain_choice, near_matches

logger = logging.getLogger(__name__)

REQUIRED, OPTIONAL = ("path", "person"), ("camera", "view", "split")
_VIEWS = {name: view for view in View for name in (view.name.lower(), str(int(view)))}
_SHOWN = 5
_OTHER_WORDS = {"pid": "person", "identity": "person", "camid": "camera", "viewid": "view", "set": "split"}

Row = dict[str, str]


def read_csv(file: Path) -> ImageDataset:
    """A table with a header: path, person, and if wanted camera, view and split.

    Paths are absolute or relative to the file's folder. People and cameras are numbers or names (names are numbered in
    sorted order); view is aerial, ground, wearable or 0, 1, 2 (aerial if there is no such column); split is train,
    query or gallery (train if there is none). Without a camera column no gallery image is ever removed for being of
    the query's camera.

    Raises:
        DatasetError: naming the rows that are wrong, and what is legal.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True, strict=True)
            header = [(name or "").strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = header
            _check_header(file, header)
            # Not enumerate: a quoted field may span lines.
            rows = [(reader.line_num, _stripped(file, reader.line_num, row)) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file} is not a CSV file in UTF-8: {error}") from error
    if not rows:
        raise DatasetError(f"{file} has a header and no rows")
    _check_values(file, rows)
    return _dataset(file, [row for _, row in rows], has_cameras="camera" in header)


def read_folders(home: Path) -> ImageDataset:
    """`home/<person>/…`, all to train on, or `home/{train,query,gallery}/<person>/…`; no cameras, one view.

    Raises:
        DatasetError: no images, or images outside a person's folder.
    """
    has_splits = any((home / split).is_dir() for split in SPLITS)
    depth = 2 if has_splits else 1
    rows, astray = [], []
    for path in images_below(home):
        parts = path.relative_to(home).parts
        split = parts[0] if has_splits else "train"
        if len(parts) <= depth or split not in SPLITS:
            astray.append(path)
        else:
            rows.append({"path": str(path), "person": parts[depth - 1], "split": split})
    form = f"{home}/{{train,query,gallery}}/PERSON/" if has_splits else f"{home}/PERSON/"
    if astray:
        raise DatasetError(f"{len(astray):,} images are not below {form}, for example {astray[0]}")
    if not rows:
        raise DatasetError(f"no images below {form}")
    return _dataset(home, rows, has_cameras=False)


SCHEMES: dict[str, Callable[[Path], ImageDataset]] = {"csv": read_csv, "folder": read_folders}


def load_own_images(name: str, root: str) -> ImageDataset:
    """The data set `SCHEME:PATH`, PATH being absolute, relative to the working directory, or below `root`.

    Raises:
        DatasetError: an unknown scheme, nothing there, or what its reader finds wrong.
    """
    scheme, _, place = name.partition(":")
    if scheme not in SCHEMES or not place:
        raise DatasetError(f"{name!r} must be KIND:PATH; {explain_choice('kind', scheme, SCHEMES)}")
    path = Path(place).expanduser()
    candidates = [path, Path(root) / path]
    found = next((c for c in candidates if (c.is_file() if scheme == "csv" else c.is_dir())), None)
    if found is None:
        looked = " nor ".join(dict.fromkeys(str(c.resolve()) for c in candidates))
        raise DatasetError(f"{name}: there is no {'file' if scheme == 'csv' else 'folder'} {looked}")
    dataset = SCHEMES[scheme](found)
    dataset.name = name
    return dataset


def _check_header(file: Path, header: list[str]) -> None:
    legal = (*REQUIRED, *OPTIONAL)
    missing = [name for name in REQUIRED if name not in header]
    twice = sorted({name for name in header if header.count(name) > 1})
    if missing or twice:
        wrong = f"lacks {' and '.join(missing)}" if missing else f"names {', '.join(twice)} twice"
        raise DatasetError(
            f"the header of {file} {wrong}: it is {','.join(header) or '(empty)'}, expected "
            "path,person[,camera][,view][,split]"
        )
    for name in header:
        if name not in legal:
            # A misspelt camera column would silently switch the same-camera rule off.
            near = [_OTHER_WORDS[name]] if name in _OTHER_WORDS else near_matches(name, legal)
            if near := [n for n in near if n not in header]:
                raise DatasetError(
                    f"{file} has a column {name!r}; did you mean {' or '.join(near)}? Legal: {', '.join(legal)}"
                )
            logger.info("%s: column %r is not read", file, name)


def _stripped(file: Path, line: int, row: dict) -> Row:
    if None in row or None in row.values():
        raise DatasetError(
            f"{file}, line {line}: {'more' if None in row else 'fewer'} values than the header has columns"
        )
    return {name: value.strip() for name, value in row.items()}


def _check_values(file: Path, rows: Sequence[tuple[int, Row]]) -> None:
    """Every kind of mistake is told at once, each with its first lines."""
    seen: dict[tuple[str, bool], int] = {}
    mistakes: dict[str, list[str]] = {}

    def tell(what: str, line: int, value: str) -> None:
        mistakes.setdefault(what, []).append(f"line {line}: {value!r}")

    for line, row in rows:
        for name in ("path", "person", "camera"):
            if row.get(name, "x") == "":
                tell(f"no {name}", line, row["path"])
        if row.get("view", "0").lower() not in _VIEWS:
            tell(f"view is not one of {', '.join(_VIEWS)}", line, row["view"])
        if row.get("split", "train").lower() not in SPLITS:
            tell(f"split is not one of {', '.join(SPLITS)}", line, row["split"])
        path = file.parent / row["path"]
        if row["path"] and not path.is_file():
            tell("no such image", line, row["path"])
        elif row["path"] and path.suffix.lower() not in IMAGE_SUFFIXES:
            tell(f"not named as one of {', '.join(sorted(IMAGE_SUFFIXES))}", line, row["path"])
        if row["person"].startswith("-") and row["person"] != "-1":
            tell("person is below -1", line, row["person"])
        # Of query and gallery together: an image would find itself.
        key = (os.path.normpath(path), row.get("split", "train").lower() == "train")
        if key in seen:
            tell("the same image again", line, f"{row['path']} (line {seen[key]})")
        seen.setdefault(key, line)
    if mistakes:
        raise DatasetError(
            f"{file}: "
            + "; ".join(
                f"{what} ({len(cases):,} rows): {', '.join(cases[:_SHOWN])}{' …' if len(cases) > _SHOWN else ''}"
                for what, cases in mistakes.items()
            )
        )


def _dataset(place: Path, rows: list[Row], *, has_cameras: bool) -> ImageDataset:
    people = _numbers(row["person"] for row in rows)
    cameras = _numbers(row["camera"] for row in rows) if has_cameras else {}
    splits: dict[str, list[PersonImage]] = {split: [] for split in SPLITS}
    folder = place.parent if place.is_file() else place
    for row in rows:
        split = row.get("split", "train").lower()
        # Without cameras: one for all queries and another for the gallery, so that nothing is ever removed.
        camera = cameras[row["camera"]] if has_cameras else int(split == "gallery")
        view = _VIEWS[row.get("view", "0").lower()]
        splits[split].append(PersonImage(str(folder / row["path"]), people[row["person"]], camera, view))
    if not has_cameras and (splits["query"] or splits["gallery"]):
        logger.warning(
            "%s has no cameras: the same-camera rule is off, gallery images of the query's own camera count", place
        )
    trained = {image.person for image in splits["train"]}
    tested = {image.person for image in (*splits["query"], *splits["gallery"])}
    if both := (trained & tested) - {-1}:
        logger.warning("%s: %d people are both trained on and tested: figures will flatter", place, len(both))
    return ImageDataset(**splits)


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """Whole numbers stand for themselves if all are; else names are numbered. -1 is nobody in either case."""
    others = set(names) - {"-1"}
    try:
        numbers = {name: int(name) for name in others}
    except ValueError:
        numbers = number_names(others)
    return {**numbers, "-1": -1}
