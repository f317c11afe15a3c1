"""The stage `export`: the pictures that the filters kept, as the data set DiffPerson."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastreid.data.benchmarks.diff_person import EXPORT, IMAGES, META, NAME, SHARDS, load_diff_person
from fastreid.data.check import contact_sheet
from fastreid.data.images import read_image
from fastreid.data.shards import ShardError, has_index, scan_shard, write_index
from fastreid.generation.export_plan import ExportError, ExportOptions, ExportPlan, Picture, plan_export
from fastreid.generation.shards import Shard
from fastreid.generation.whole import ENDS, is_whole
from fastreid.utils.differences import differences
from fastreid.utils.files import atomic_write, explained_disk_errors, save_picture, sync_folder
from fastreid.utils.lock import path_lock
from fastreid.utils.progress import progress
from fastreid.utils.text import TextError, read_json

logger = logging.getLogger(__name__)

PARTS = f"{NAME}.parts"
SHEET = "sheet.jpg"


@dataclass(frozen=True)
class ExportSummary:
    """The result of a call of `export_pictures`.

    Attributes:
        folder: the data set.
        people: number of people in it.
        images: number of pictures in it.
        complete: whether it is there; if not, parts of other shards are missing.
        reused: whether it was there before the call.
    """

    folder: Path
    people: int
    images: int
    complete: bool
    reused: bool


def export_pictures(
    folder: str | os.PathLike[str], options: ExportOptions, shard: Shard | None = None, *, filtered: bool = True
) -> ExportSummary:
    """Write `folder/DiffPerson` from `folder/pictures` and `folder/filter`.

    People get new numbers from 0 without gaps, in the order of their old ones. The parts are collected in
    `folder/DiffPerson.parts`; the call that finds all parts there, of whatever shard, renames it. So the data set is
    complete when it appears. A call that was killed is repeated; the result is the same. Files of the finished data set
    that are missing or damaged are written again in their place.

    Args:
        folder: the output folder of the stages.
        options: the parameters.
        shard: write only this part of the pictures; None for all.
        filtered: use the stage `filter`; otherwise all pictures are kept.

    Raises:
        ExportError: there is nothing to export, pictures have not been filtered, the data set was exported with other
            parameters or from other pictures, or webdataset is missing.
        DatasetError: an excluded name is not that of a source.
        ImageReadError: a picture cannot be read.
        InUseError: another process writes the same shard.
        DiskError: the disk is full.
    """
    folder, shard = Path(folder), shard or Shard()
    plan = plan_export(folder, options, filtered=filtered)
    target, parts = folder / NAME, folder / PARTS
    with path_lock(folder / f"{NAME}.{shard.name}"), explained_disk_errors(target):
        is_there = _is_there(target, plan)
        reused = is_there and _is_complete(target, plan)
        if is_there and not reused:
            logger.warning("%s is incomplete or damaged; what is missing is written again", target)
        place = target if is_there else parts
        if not reused:
            _begin(place, plan)
            _write_parts(place, plan, shard)
        complete = reused or _finish(place, target, plan)
        if complete:
            _draw_sheet(folder)
    summary = ExportSummary(target, plan.facts["people"], plan.facts["images"], complete, reused)
    _log(summary)
    return summary


def _is_there(target: Path, plan: ExportPlan) -> bool:
    """Whether the data set exists with these facts; raises if it is another one."""
    if not target.exists():
        return False
    _compare(target, plan, f"{target} exists and was not exported (it has no {EXPORT}), so that it is not replaced")
    return True


def _compare(place: Path, plan: ExportPlan, without_facts: str) -> None:
    try:
        had = read_json(place / EXPORT)
    except FileNotFoundError:
        raise ExportError(f"{without_facts}; move it away") from None
    except TextError:
        had = None
    if not isinstance(had, Mapping):
        raise ExportError(f"{place / EXPORT} is damaged: delete {place} to export again")
    if changes := differences(had, plan.facts):
        raise ExportError(
            f"{place} was exported with other parameters or pictures ({'; '.join(changes)}). It is not replaced: move "
            "or delete it to export again"
        )


def _is_complete(target: Path, plan: ExportPlan) -> bool:
    """Whether the data set has all its files, and none is damaged as far as headers and ends of files tell."""
    return (
        _has_meta(target, plan)
        and all(_is_written(target, plan, number) for number in range(len(plan.parts)))
        and (not plan.options.shard_size or has_index(target / SHARDS))
    )


def _has_meta(place: Path, plan: ExportPlan) -> bool:
    try:
        return (place / META).read_text(encoding="utf-8", errors="replace") == plan.meta()
    except FileNotFoundError:
        return False


def _begin(parts: Path, plan: ExportPlan) -> None:
    """Make the folder of the parts, or check that it is of the same export."""
    with path_lock(parts, wait=True):
        (parts / (SHARDS if plan.options.shard_size else IMAGES)).mkdir(parents=True, exist_ok=True)
        if (parts / EXPORT).exists():
            _compare(parts, plan, "")
            return
        with atomic_write(parts / EXPORT) as file:
            json.dump(plan.facts, file, indent=1, ensure_ascii=False)


def _write_parts(parts: Path, plan: ExportPlan, shard: Shard) -> None:
    own = shard.of(range(len(plan.parts)))
    for number in progress(own, len(own), "exporting"):
        if not _is_written(parts, plan, number):
            _write_part(parts, plan, number)


def _is_written(parts: Path, plan: ExportPlan, number: int) -> bool:
    if plan.options.shard_size:
        return _has_pictures(_tar(parts, number), plan.parts[number])
    return all(is_whole(parts / IMAGES / picture.name) for picture in plan.parts[number])


def _has_pictures(tar: Path, pictures: Sequence[Picture]) -> bool:
    """Whether a tar file has these pictures and no others, each with the last bytes of a JPEG."""
    end = ENDS["JPEG"]
    try:
        shard = scan_shard(os.fspath(tar))
        with open(tar, "rb") as file:
            for position, length in shard.members.values():
                file.seek(position + max(0, length - len(end)))
                if file.read(len(end)) != end:
                    return False
    except (FileNotFoundError, ShardError):
        return False
    is_cut_off = shard.size % tarfile.RECORDSIZE > 0
    return not is_cut_off and sorted(shard.members) == [picture.name for picture in pictures]


def _tar(parts: Path, number: int) -> Path:
    return parts / SHARDS / f"{number:06d}.tar"


def _write_part(parts: Path, plan: ExportPlan, number: int) -> None:
    if plan.options.shard_size:
        _write_tar(_tar(parts, number), plan.parts[number], plan.options.quality)
        return
    for picture in plan.parts[number]:
        path = parts / IMAGES / picture.name
        if not is_whole(path):
            _write_file(path, _jpeg(picture, plan.options.quality))


def _write_file(path: Path, content: bytes) -> None:
    """Write a file at once, but without `atomic_write`, which flushes each file to the disk and so takes far longer."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _write_tar(path: Path, pictures: list[Picture], quality: int) -> None:
    """Write a WebDataset shard with an image and its row for each picture; the same bytes each time."""
    try:
        import webdataset
    except ImportError as error:
        raise ExportError(
            "DIFFPERSON.EXPORT.SHARD_SIZE needs the package webdataset, which is not installed: pip install "
            "webdataset, or set it to 0"
        ) from error
    with atomic_write(path, "wb") as file:
        options: dict[str, Any] = {"encoder": False, "mtime": 0, "verbose": 0}
        with webdataset.ShardWriter("%06d.tar", len(pictures), float("inf"), opener=lambda _: file, **options) as shard:
            for picture in pictures:
                row = json.dumps(picture.row, ensure_ascii=False, sort_keys=True).encode()
                key = picture.name.removesuffix(".jpg")
                shard.write({"__key__": key, "jpg": _jpeg(picture, quality), "json": row})


def _jpeg(picture: Picture, quality: int) -> bytes:
    content = io.BytesIO()
    read_image(os.fspath(picture.path)).save(content, format="JPEG", quality=quality)
    return content.getvalue()


def _finish(place: Path, target: Path, plan: ExportPlan) -> bool:
    """Complete the folder if all parts are there, and give it its name; whether the data set is complete."""
    with path_lock(place, wait=True):
        if place != target and _is_there(target, plan):  # another process was faster
            shutil.rmtree(place, ignore_errors=True)
            return True
        numbers = range(len(plan.parts))
        if missing := sum(not _is_written(place, plan, number) for number in numbers):
            logger.info("%d of %d parts of %s are left to other shards", missing, len(numbers), target)
            return False
        if not _has_meta(place, plan):
            with atomic_write(place / META) as file:
                file.write(plan.meta())
        if plan.options.shard_size:
            write_index(place / SHARDS)
        own = (f".{META}.*.tmp", f".{EXPORT}.*.tmp", "tmp*.tmp", f"{SHARDS}/.*.tmp")  # not those of the card
        for leftover in (path for pattern in own for path in place.glob(pattern)):
            leftover.unlink(missing_ok=True)  # of processes that were killed
        if place != target:
            place.rename(target)
            sync_folder(target.parent)
    return True


def _draw_sheet(folder: Path) -> None:
    if not is_whole(folder / NAME / SHEET):
        save_picture(contact_sheet(load_diff_person(folder)), folder / NAME / SHEET, quality=90)


def _log(summary: ExportSummary) -> None:
    if summary.complete:
        done = "is there already, with" if summary.reused else "has"
        logger.info("%s %s %d pictures of %d people", summary.folder, done, summary.images, summary.people)
