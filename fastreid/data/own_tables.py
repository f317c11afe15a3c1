"""A user's own images in a table: a CSV file with a header."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections.abc import Hashable, Sequence
from pathlib import Path

from fastreid.data.benchmarks.base import SPLITS
from fastreid.data.datasets.bases import DatasetError, ImageDataset
from fastreid.data.formats import image_suffixes
from fastreid.data.own_rows import Row, dataset_of, file_identity
from fastreid.data.shards import is_in_shard
from fastreid.structures import View
from fastreid.utils.logger import log_once
from fastreid.utils.suggest import near_matches
from fastreid.utils.text import TextError, path_of_text, read_text

logger = logging.getLogger(__name__)

REQUIRED, OPTIONAL = ("path", "person"), ("camera", "view", "split")
NO_PERSON = "-1"
UNLABELLED = "it has no column person"
_VIEWS = {name: view for view in View for name in (view.name.lower(), str(int(view)))}
_SHOWN = 5
_OTHER_WORDS = {
    **dict.fromkeys(("pid", "id", "identity", "label", "name", "person_id", "personid"), "person"),
    **dict.fromkeys(("camid", "cam_id", "cam_no", "cid"), "camera"),
    "viewid": "view",
    "set": "split",
}
_SPLIT_VALUES = {*SPLITS, "training", "test", "testing", "val", "valid", "validation", "probe"}
_SPACE = " \t"
_BELOW = re.compile(r"-[1-9][0-9]*")
_OTHER_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}

Values = dict[str, str]


def read_csv(file: Path) -> ImageDataset:
    """Read a table with the columns path and person, and optionally camera, view and split.

    A table without the column person, all of whose images are for training, is a data set without labels.

    Paths are absolute or relative to the file's folder. People and cameras are names: if all of them are whole numbers
    these are the ids, otherwise they are numbered in sorted order; person -1 stands for no person. Spaces and tabs
    around a value are ignored. View is aerial, ground, wearable or 0, 1, 2 (aerial if there is no such column);
    split is train, query or gallery (train if there is none). Without a camera column, no gallery image is removed for
    having the camera of the query.

    Raises:
        DatasetError: rows are wrong; names them and the legal values.
    """
    file = file.absolute()
    rows = _rows(file)
    if not rows:
        raise DatasetError(f"{file} has a header and no rows")
    _check_unread(file, [row for _, row in rows])
    _check_values(file, rows)
    unlabelled = "" if "person" in rows[0][1] else UNLABELLED
    return dataset_of(file, [_row(file, values) for _, values in rows], junk=NO_PERSON, unlabelled=unlabelled)


def _row(file: Path, values: Values) -> Row:
    return Row(
        path=str(file.parent / path_of_text(values["path"])),
        person=values.get("person"),
        camera=values.get("camera"),
        view=_VIEWS[values.get("view", "0").lower()],
        split=values.get("split", "train").lower(),
    )


def _rows(file: Path) -> list[tuple[int, Values]]:
    """The line at which each row ends, and its values without surrounding spaces."""
    try:
        text = read_text(file)
    except TextError as error:
        raise DatasetError(f"{file} is not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise DatasetError(f"cannot read {file}: {error.strerror or error}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DatasetError(f"{file} is not a CSV file: line {line} has a byte of value 0")
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        header = [(name or "").strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = header
        _check_header(file, header)
        # Not enumerate: a quoted field may span lines.
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DatasetError(f"{file} is not a CSV file in UTF-8: {error}") from error
    for line, row in rows:
        if None in row or None in row.values():
            raise DatasetError(
                f"{file}, line {line}: {'more' if None in row else 'fewer'} values than the header has columns"
            )
    _warn_of_spaces(file, [row for _, row in rows])
    return [(line, {name: value.strip(_SPACE) for name, value in row.items()}) for line, row in rows]


def _warn_of_spaces(file: Path, rows: Sequence[Values]) -> None:
    """Warn of names that are equal only without surrounding spaces."""
    for column in ("person", "camera"):
        written = {row[column] for row in rows if column in row}
        merged = sorted(name for name in written if name != name.strip(_SPACE) and name.strip(_SPACE) in written)
        if merged:
            sentence = (
                f"{file}: spaces around a {column}'s name are not part of it, so that these are read as the same "
                f"{column} as without: {', '.join(map(repr, merged[:_SHOWN]))}{' …' if len(merged) > _SHOWN else ''}"
            )
            log_once(logger, logging.WARNING, sentence)


def _check_header(file: Path, header: list[str]) -> None:
    legal = (*REQUIRED, *OPTIONAL)
    # Without people it may be a table of images without labels.
    missing = [name for name in REQUIRED if name not in header] if "path" not in header else []
    twice = sorted({name for name in header if header.count(name) > 1})
    if missing or twice:
        wrong = f"lacks {' and '.join(missing)}" if missing else f"names {', '.join(twice)} twice"
        raise DatasetError(
            f"the header of {file} {wrong}: it is {','.join(header) or '(empty)'}, expected "
            f"path,person[,camera][,view][,split]{_separator_hint(header)}"
        )
    for name in header:
        if name not in legal:
            # A misspelt camera column would silently disable the same-camera rule.
            near = [_OTHER_WORDS[name]] if name in _OTHER_WORDS else near_matches(name, legal)
            if near := [n for n in near if n not in header]:
                raise DatasetError(
                    f"{file} has a column {name!r}; did you mean {' or '.join(near)}? Legal: {', '.join(legal)}"
                    + (". A table of images without labels must not have such a column" if near == ["person"] else "")
                )
            logger.info("%s: column %r is not read", file, name)


def _check_unread(file: Path, rows: Sequence[Values]) -> None:
    """Refuse a column that seems to be the split under another name, as all images would be trained on."""
    for name in rows[0].keys() - {*REQUIRED, *OPTIONAL} if "split" not in rows[0] else ():
        values = {row[name].lower() for row in rows}
        if values <= _SPLIT_VALUES and not values <= {"train", "training"}:
            raise DatasetError(
                f"{file} has a column {name!r} with the values {', '.join(sorted({row[name] for row in rows}))}; did "
                f"you mean split, whose values are {', '.join(SPLITS)}? All images would be for training otherwise"
            )


def _separator_hint(header: Sequence[str]) -> str:
    for separator, name in _OTHER_SEPARATORS.items():
        if any(separator in column for column in header):
            return f". Its columns seem to be separated by {name}: save it with commas"
    return ""


def _check_values(file: Path, rows: Sequence[tuple[int, Values]]) -> None:
    """Report all kinds of mistakes at once, each with its first lines."""
    seen: dict[tuple[Hashable, bool], int] = {}
    mistakes: dict[str, list[str]] = {}
    suffixes = image_suffixes()

    def note(mistake: str, line: int, value: str) -> None:
        mistakes.setdefault(mistake, []).append(f"line {line}: {value!r}")

    for line, row in rows:
        for name in ("path", "person", "camera"):
            if row.get(name, "x") == "":
                note(f"no {name}", line, row["path"])
        if row.get("view", "0").lower() not in _VIEWS:
            note(f"view is not one of {', '.join(_VIEWS)}", line, row["view"])
        split = row.get("split", "train").lower()
        if split not in SPLITS:
            note(f"split is not one of {', '.join(SPLITS)}", line, row["split"])
        elif split != "train" and "person" not in row:
            note("query and gallery need a column person, as evaluation compares people", line, row["path"])
        path = file.parent / path_of_text(row["path"])
        if row["path"] and (problem := _problem_of(path, suffixes)):
            note(problem, line, row["path"])
        person = row.get("person", NO_PERSON)
        if _BELOW.fullmatch(person) and person != NO_PERSON:
            note("person is below -1", line, person)
        # Over query and gallery together: an image in both would find itself.
        is_train = split == "train"
        key = (os.path.normpath(path) if is_train else file_identity(path), is_train)
        if key in seen:
            note("the same image again", line, f"{row['path']} (line {seen[key]})")
        seen.setdefault(key, line)
    if mistakes:
        raise DatasetError(
            f"{file}: "
            + "; ".join(
                f"{what} ({len(cases):,} rows): {', '.join(cases[:_SHOWN])}{' …' if len(cases) > _SHOWN else ''}"
                for what, cases in mistakes.items()
            )
        )


def _problem_of(path: Path, suffixes: frozenset[str]) -> str | None:
    """Why a path is not an image that can be read, by its name and kind alone; None if it may be one."""
    try:
        is_there = path.is_file() or is_in_shard(os.fspath(path))
    except OSError as error:
        return f"cannot look at the image ({error.strerror})"
    except ValueError:
        is_there = False
    if not is_there:
        return "no such image (folders are separated by /)" if "\\" in path.name else "no such image"
    if path.suffix.lower() not in suffixes:
        return f"not named as one of {', '.join(sorted(suffixes))}"
    return None
