"""The stages `reference` and `generate`: write the pictures of plans, with a row in the manifest for each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastreid.data.picture_grid import picture_grid, spread_evenly
from fastreid.generation.journal import JournalWriter
from fastreid.generation.painter import Painter
from fastreid.generation.plans import PicturePlan
from fastreid.generation.shards import Shard
from fastreid.generation.stage import StageFolder
from fastreid.generation.whole import is_whole
from fastreid.utils.files import find_leftovers, save_picture
from fastreid.utils.progress import progress

logger = logging.getLogger(__name__)

SHEET = "sheet.jpg"
_SHOWN = 48
_JPEG = {"quality": 95}


class PictureFolder:
    """Writes pictures into the folder of a stage.

    Attributes:
        rows: the rows of the manifest at the start.

    Args:
        stage: the folder.
        extension: "png" or "jpg".
        facts: further entries of every row.
    """

    def __init__(self, stage: StageFolder, extension: str, facts: dict[str, Any]) -> None:
        self.stage, self._extension, self._facts = stage, extension, facts
        self.rows = stage.journal.rows()
        self._listed = {(row["gid"], row["number"]) for row in self.rows}

    def file_of(self, plan: PicturePlan) -> str:
        """Return the path of a picture below the folder."""
        name = f"{plan.number:04d}.{self._extension}"
        return name if plan.gid < 0 else f"{plan.gid:05d}/{name}"

    def missing(self, plans: Sequence[PicturePlan]) -> list[PicturePlan]:
        """Return the plans of the pictures that have no row, or whose file is gone or damaged.

        The header and the end of each file are read, but not its pixels.

        Args:
            plans: what should be there.
        """
        listed = [plan for plan in plans if plan.key in self._listed]
        gone = {plan.key for plan in listed if not is_whole(self._path(plan))}
        if gone:
            logger.warning(
                "%s: %d pictures of the manifest are gone or damaged; they are written again",
                self.stage.folder,
                len(gone),
            )
        return [plan for plan in plans if plan.key in gone or plan.key not in self._listed]

    def remove_leftovers(self, plans: Sequence[PicturePlan], shard: Shard) -> None:
        """Delete the unfinished files of pictures that a killed process has left.

        Nothing is deleted while a process runs that may write the same pictures: one whose number of shards is another.

        Args:
            plans: the pictures of the shard.
            shard: the shard, whose writer is open.
        """
        names: dict[Path, set[str]] = {}
        for plan in plans:
            path = self._path(plan)
            names.setdefault(path.parent, set()).add(path.name)
        found = [path for folder, own in names.items() for path in find_leftovers(folder, own)]
        # Asked after the files were found: a process that starts now has written none of them.
        if all(name.endswith(f"of{shard.count}") for name in self.stage.journal.running()):
            for path in found:
                path.unlink(missing_ok=True)

    def _path(self, plan: PicturePlan) -> Path:
        return self.stage.folder / self.file_of(plan)

    def write(self, painter: Painter, plans: Sequence[PicturePlan], writer: JournalWriter, batch_size: int) -> int:
        """Write pictures, and a row for each when it is complete.

        Args:
            painter: writes them.
            plans: what is written.
            writer: gets the rows.
            batch_size: pictures that are written together.

        Returns:
            The number of pictures.

        Raises:
            DiskError: the disk is full or broken; the pictures that have rows are complete.
        """
        batches = [plans[start : start + batch_size] for start in range(0, len(plans), batch_size)]
        for batch in progress(batches, len(batches), f"writing pictures, {batch_size} at a time"):
            self._write(painter, batch, writer)
        return len(plans)

    def _write(self, painter: Painter, plans: Sequence[PicturePlan], writer: JournalWriter) -> None:
        for plan, picture in zip(plans, painter.paint(plans), strict=True):
            save_picture(picture, self._path(plan), **(_JPEG if self._extension == "jpg" else {}))
        writer.add(*(self._row(plan) for plan in plans if plan.key not in self._listed))

    def _row(self, plan: PicturePlan) -> dict[str, Any]:
        known = {"gid": plan.gid, "number": plan.number, "file": self.file_of(plan), "prompt": plan.prompt}
        return {**known, "seed": plan.seed, **self._facts, **plan.facts}

    def draw_sheet(self, rows: Sequence[dict[str, Any]], title: str) -> Path:
        """Draw some of the pictures, spread evenly over the rows, each above its numbers and its text.

        Args:
            rows: rows of the manifest.
            title: line above the pictures.
        """
        shown = spread_evenly(rows, _SHOWN)
        captions = [
            f"{row['number']}: {row['prompt']}" if row["gid"] < 0 else f"{row['gid']}/{row['number']}: {row['caption']}"
            for row in shown
        ]
        path = self.stage.folder / SHEET
        save_picture(picture_grid(title, [str(self.stage.folder / row["file"]) for row in shown], captions), path)
        return path


def captions_by_person(rows: Iterable[dict[str, Any]]) -> dict[int, list[str]]:
    """Return the captions of each person's images, by the person's number.

    Args:
        rows: rows of captions.jsonl.
    """
    found: dict[int, list[str]] = {}
    for row in rows:
        found.setdefault(row["gid"], []).append(row["caption"])
    return found
