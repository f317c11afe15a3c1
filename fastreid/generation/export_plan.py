"""What an export consists of: the kept pictures with new names, and the facts that two exports are compared by."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode
from fastreid.data.benchmarks.diff_person import file_name, source_numbers
from fastreid.generation.journal import Journal
from fastreid.generation.rows import PICTURE_ROW, VERDICT_ROW, Row
from fastreid.utils.errors import UserError

PICTURES, FILTER = "pictures", "filter"
OWN_CAPTION = "own caption"
_FORMAT = 1


class ExportError(UserError, ValueError):
    """An export that cannot be made, or that other parameters have made before."""


@dataclass(frozen=True)
class ExportOptions:
    """Parameters of an export; see DIFFPERSON.EXPORT in the config.

    Attributes:
        quality: of the JPEG files.
        cameras: "prompt" or "one".
        min_pictures: fewest kept pictures of a person.
        shard_size: pictures in each tar file; 0 for files.
        exclude_sources: names of data sets whose people are left out.
    """

    quality: int = 95
    cameras: str = "prompt"
    min_pictures: int = 1
    shard_size: int = 0
    exclude_sources: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ExportOptions:
        """The options of DIFFPERSON.EXPORT and DATASETS.EXCLUDE_SOURCES."""
        keys = cfg.DIFFPERSON.EXPORT
        return cls(
            quality=keys.QUALITY,
            cameras=keys.CAMERAS,
            min_pictures=keys.MIN_PICTURES,
            shard_size=keys.SHARD_SIZE,
            exclude_sources=tuple(cfg.DATASETS.EXCLUDE_SOURCES),
        )


@dataclass(frozen=True)
class Picture:
    """A picture of an export.

    Attributes:
        path: the picture as it was written.
        row: its row of meta.jsonl; "file" is its new name.
    """

    path: Path
    row: Row

    @property
    def name(self) -> str:
        """Its new name."""
        return str(self.row["file"])


@dataclass(frozen=True)
class ExportPlan:
    """All pictures of an export, sorted by name.

    Attributes:
        pictures: the pictures.
        facts: the content of export.json.
        options: the parameters.
    """

    pictures: tuple[Picture, ...]
    facts: Mapping[str, Any]
    options: ExportOptions

    @cached_property
    def parts(self) -> list[list[Picture]]:
        """Parts that are written independently: the pictures of a person, or those of a tar file."""
        size = self.options.shard_size
        if size:
            return [list(self.pictures[first : first + size]) for first in range(0, len(self.pictures), size)]
        return [list(group) for _, group in groupby(self.pictures, key=lambda picture: picture.row["gid"])]

    def meta(self) -> str:
        """The content of meta.jsonl."""
        return "".join(_line(picture.row) + "\n" for picture in self.pictures)


def plan_export(folder: Path, options: ExportOptions, *, filtered: bool = True) -> ExportPlan:
    """Choose and name the pictures of an export.

    Args:
        folder: has `pictures` and `filter`.
        options: the parameters.
        filtered: use the stage `filter`; otherwise all pictures are kept.

    Raises:
        ExportError: there are no pictures, some have not been filtered, a file is missing, or none is left.
        DatasetError: an excluded name is not that of a source.
        JournalError: a manifest is damaged.
    """
    written = Journal(folder / PICTURES, PICTURE_ROW).rows()
    if not written:
        raise ExportError(f"{folder / PICTURES} has no pictures: run the stage generate first")
    kept = _kept(folder, written) if filtered else [{**row, "scores": {}} for row in written]
    sources = sorted({row["source"] for row in written})
    excluded = source_numbers(sources, options.exclude_sources, str(folder / PICTURES))
    slots = sorted({row["swapped"] for row in written if row["swapped"]}) if options.cameras == "prompt" else []
    pictures: list[Picture] = []
    people = 0
    for _, group in groupby(kept, key=lambda row: row["gid"]):
        rows = [row for row in group if sources.index(row["source"]) not in excluded]
        if len(rows) >= options.min_pictures:
            pictures += [_picture(folder, row, people, sources, slots) for row in rows]
            people += 1
    if not pictures:
        raise ExportError(_nothing_left(folder, len(written), len(kept), options))
    pictures.sort(key=lambda picture: picture.name)
    facts = {
        "format": _FORMAT,
        "settings": {**asdict(options), "exclude_sources": list(options.exclude_sources)},
        "sources": sources,
        "cameras": [OWN_CAPTION, *slots] if options.cameras == "prompt" else ["all"],
        "people": people,
        "images": len(pictures),
        "pictures": _digest(pictures),
    }
    return ExportPlan(tuple(pictures), facts, options)


def _kept(folder: Path, written: Sequence[Row]) -> list[Row]:
    judged = {(row["gid"], row["number"]): row for row in Journal(folder / FILTER, VERDICT_ROW).rows()}
    kept, missing = [], []
    for row in written:
        found = judged.get((row["gid"], row["number"]))
        if found is None:
            missing.append(row["file"])
        elif found["kept"]:
            kept.append({**row, "scores": found["scores"]})
    if missing:
        raise ExportError(
            f"{len(missing):,} of {len(written):,} pictures in {folder / PICTURES} have not been filtered, for example "
            f"{missing[0]}: run the stage filter first"
        )
    return kept


def _picture(folder: Path, row: Row, gid: int, sources: Sequence[str], slots: Sequence[str]) -> Picture:
    camera = 1 + slots.index(row["swapped"]) if row["swapped"] in slots else 0
    name = file_name(gid, camera, sources.index(row["source"]), row["number"])
    return Picture(
        folder / PICTURES / row["file"], {**row, "file": name, "gid": gid, "camera": camera, "stage_gid": row["gid"]}
    )


def _digest(pictures: Sequence[Picture]) -> str:
    """SHA-256 of the rows and of the sizes of the files, so that other pictures under the same names are noticed."""
    checksum = hashlib.sha256()
    for picture in pictures:
        try:
            size = os.stat(picture.path).st_size
        except FileNotFoundError:
            raise ExportError(
                f"{picture.path} is missing, which the manifest of {PICTURES} names: restore it, or delete "
                f"{picture.path.parents[1]} to write the pictures again"
            ) from None
        checksum.update(f"{_line(picture.row)}\t{size}\n".encode())
    return checksum.hexdigest()


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, sort_keys=True)


def _nothing_left(folder: Path, written: int, kept: int, options: ExportOptions) -> str:
    why = f"the filters kept {kept:,}"
    if kept:
        why += (
            f", and after DATASETS.EXCLUDE_SOURCES {list(options.exclude_sources)} no person has "
            f"DIFFPERSON.EXPORT.MIN_PICTURES {options.min_pictures}"
        )
    return f"{folder}: none of the {written:,} pictures is left to export: {why}"
