"""The stage `filter`: judges written pictures, person by person, and writes a row for each."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastreid.data.images import ImageAccessError, ImageReadError, read_pixels
from fastreid.generation.embedding import Embed
from fastreid.generation.filters.base import UNREADABLE, FilterError, PictureFilter, Verdict, WrittenPerson
from fastreid.generation.filters.settings import StageSettings
from fastreid.generation.filters.sheet import filter_sheet
from fastreid.generation.filters.sources import RealImages, Sources
from fastreid.generation.filters.summary import FilterSummary, Rounds, summarise
from fastreid.generation.journal import Journal, JournalWriter
from fastreid.generation.rows import PICTURE_ROW, VERDICT_ROW, Row
from fastreid.generation.shards import Shard
from fastreid.utils.files import atomic_write, save_picture
from fastreid.utils.progress import progress

logger = logging.getLogger(__name__)

PICTURES, FILTER = "pictures", "filter"
SETTINGS, SUMMARY, SHEET = "settings.json", "summary.json", "kept_and_dropped.jpg"


@dataclass
class FilterStage:
    """Judges the pictures below OUTPUT_DIR/pictures and writes rows to OUTPUT_DIR/filter.

    Pictures that have a row are skipped. If new pictures of a person came, all its pictures are compared again, but
    rows are added for the new ones only. A picture is dropped by the first filter that gives a reason. The filters and
    their thresholds are written to filter/settings.json; later runs and other shards use those thresholds.

    Args:
        output_dir: OUTPUT_DIR.
        filters: name -> filter, in their order.
        sources: name of a data set -> its real images.
        embed: computes features.
        models: name of a data set -> what its re-ID model is, such as a path; a stage is only continued with the same.
        people: numbers of the people whose pictures are written, which shards share; all of the sources by default.
    """

    output_dir: Path
    filters: Mapping[str, PictureFilter]
    sources: Mapping[str, RealImages]
    embed: Embed
    models: Mapping[str, str] = field(default_factory=dict)
    people: Sequence[int] | None = None

    def __post_init__(self) -> None:
        self._pictures = Journal(self.output_dir / PICTURES, PICTURE_ROW)
        self._journal = Journal(self.output_dir / FILTER, VERDICT_ROW)
        self._settings = StageSettings(self._journal.folder / SETTINGS, self.filters, self.models)
        self._sources = Sources(self.sources, self.embed, self.filters, self._settings)

    def run(self, rounds: Rounds, shard: Shard | None = None) -> FilterSummary:
        """Judge the pictures of the people of a shard; write the summary and the contact sheet of all rows.

        Args:
            rounds: how many pictures people should have.
            shard: the part of the people; all by default.

        Returns:
            The summary, which is also in filter/summary.json.

        Raises:
            JournalError: rows are damaged, or the stage was begun with other filters or models.
            FilterError: there are no pictures, or pictures of people or data sets that are no sources.
            InUseError: another process works on this shard.
        """
        shard = shard or Shard()
        self._settings.check()
        pictures = self._pictures.rows()
        if not pictures:
            raise FilterError(f"{self._pictures.folder} has no pictures: run the stage generate first")
        with self._journal.writer(shard.name) as writer:
            unfinished = self._unfinished(pictures, self._journal.rows(), shard, rounds)
            for rows, judged in progress(unfinished, len(unfinished), "filtering people"):
                self._judge_person(rows, judged, writer)
            self._settings.store()
        return self._report(pictures, rounds)

    def _unfinished(
        self, pictures: Sequence[Row], judged: Sequence[Row], shard: Shard, rounds: Rounds
    ) -> list[tuple[list[Row], dict[int, Row]]]:
        """Return the pictures of each person of the shard who has new ones, and its rows by number.

        People whose pictures are not all written are left out: what is kept may depend on how many there are.
        """
        written: dict[int, list[Row]] = {}
        for row in pictures:
            written.setdefault(row["gid"], []).append(row)
        done: dict[int, dict[int, Row]] = {}
        for row in judged:
            done.setdefault(row["gid"], {})[row["number"]] = row
        # All people, as shards must not depend on how many of them have pictures already.
        people = sorted({gid for real in self.sources.values() for gid in real.paths})
        if unknown := sorted(written.keys() - set(people)):
            raise FilterError(
                f"{self._pictures.folder} has pictures of {len(unknown)} people without real images in "
                f"{', '.join(self.sources)} (the first is person {unknown[0]}): use the DATASETS.NAMES and "
                "DATASETS.ROOT that they were written with"
            )
        people = people if self.people is None else list(self.people)
        if few := sorted(written.keys() - set(people)):
            raise FilterError(
                f"{self._pictures.folder} has pictures of {len(few)} people who have fewer training images than "
                f"DIFFPERSON.MIN_IMAGES (the first is person {few[0]}): set the number that they were written with"
            )
        own = shard.of(people)
        mine = [gid for gid in own if rounds.is_whole(len(written.get(gid, ())))]
        if waiting := sorted(set(own) - set(mine)):
            logger.warning(
                "%d of %d people of %s are not judged, as their pictures are not all written (the first is person %d, "
                "who has %d of %d): run the stage generate to its end, then filter again",
                len(waiting), len(own), "this shard" if shard.count > 1 else self._pictures.folder,
                waiting[0], len(written.get(waiting[0], ())), rounds.per_round,
            )  # fmt: skip
        return [
            (written[gid], done.get(gid, {}))
            for gid in mine
            if any(row["number"] not in done.get(gid, {}) for row in written[gid])
        ]

    def _judge_person(self, rows: Sequence[Row], judged: Mapping[int, Row], writer: JournalWriter) -> None:
        rows = sorted(rows, key=lambda row: (row["number"] not in judged, row["number"]))
        verdicts = dict.fromkeys((row["number"] for row in rows), Verdict(UNREADABLE))
        found = [(row, pixels) for row in rows if (pixels := self._read(row)) is not None]
        if found:
            verdicts |= self._verdicts([row for row, _ in found], [pixels for _, pixels in found], judged)
        new = [row for row in rows if row["number"] not in judged]
        writer.add(*(_row(row, verdicts[row["number"]]) for row in new))

    def _verdicts(
        self, rows: Sequence[Row], pixels: Sequence[np.ndarray], judged: Mapping[int, Row]
    ) -> dict[int, Verdict]:
        """Return, by number, the reason of the first filter that drops each picture, and the scores of all filters."""
        gid, name = rows[0]["gid"], rows[0]["source"]
        source, thresholds = self._sources.get(name)
        numbers = [row["number"] for row in rows]
        features = self._sources.embed([str(self._file(row)) for row in rows], name)
        person = WrittenPerson(gid, source, numbers, pixels, features, self.sources[name].paths[gid])
        reasons = [judged[number]["reason"] if number in judged else "" for number in numbers]
        scores: list[dict[str, float]] = [{} for _ in numbers]
        for filter_name, judge in self.filters.items():
            kept = [not reason for reason in reasons]
            for at, verdict in enumerate(judge.judge(person, kept, thresholds.get(filter_name, {}))):
                scores[at] |= verdict.scores
                if numbers[at] not in judged:
                    reasons[at] = reasons[at] or verdict.reason
        return dict(zip(numbers, map(Verdict, reasons, scores), strict=True))

    def _file(self, row: Row) -> Path:
        return self._pictures.folder / row["file"]

    def _read(self, row: Row) -> np.ndarray | None:
        path = self._file(row)
        if not path.exists():
            raise FilterError(f"{path} is gone: run the stage generate again, which writes it again")
        try:
            return read_pixels(str(path))
        except ImageAccessError:
            raise
        except ImageReadError as error:
            logger.warning("%s: it is dropped as %r", error, UNREADABLE)
            return None

    def _report(self, pictures: Sequence[Row], rounds: Rounds) -> FilterSummary:
        judged = self._journal.rows()
        summary = summarise(pictures, judged, rounds, self._settings.thresholds())
        with atomic_write(self._journal.folder / SUMMARY) as file:
            json.dump(summary.as_json(), file, indent=2)
        files = {(row["gid"], row["number"]): self._file(row) for row in pictures}
        save_picture(filter_sheet(judged, files), self._journal.folder / SHEET, quality=85)
        for name, counts in summary.sources.items():
            logger.info(
                "%s: %d of %d pictures of %d people are kept; dropped: %s",
                name, counts.kept, counts.pictures, counts.people,
                ", ".join(f"{count} {reason}" for reason, count in counts.dropped.items()) or "none",
            )  # fmt: skip
        if summary.exhausted:
            logger.warning(
                "people with fewer than %d kept pictures after the last round (%d): %d, such as %s",
                rounds.min_keep, rounds.most, len(summary.exhausted), sorted(summary.exhausted)[:10],
            )  # fmt: skip
        return summary


def _row(picture: Row, verdict: Verdict) -> Row:
    return {
        "gid": picture["gid"],
        "number": picture["number"],
        "kept": not verdict.reason,
        "reason": verdict.reason,
        "scores": dict(verdict.scores),
    }
