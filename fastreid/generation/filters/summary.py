"""What the filter stage reports: counts for each source, and the people who have too few pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastreid.generation.rows import Row


@dataclass(frozen=True)
class Rounds:
    """How often more pictures are written of people who have too few.

    Round r, from 0, writes the pictures `per_round` * r … `per_round` * (r + 1) - 1 of a person.

    Args:
        min_keep: fewest kept pictures of a person.
        per_round: pictures that a round writes.
        most: most rounds, the first one included.
    """

    min_keep: int
    per_round: int
    most: int

    def written(self, largest_number: int) -> int:
        """Return how many rounds were begun, if this is the largest number of the pictures of a person."""
        return largest_number // self.per_round + 1

    def is_whole(self, count: int) -> bool:
        """Return whether a person with so many pictures has all pictures of the rounds that were begun."""
        return count > 0 and (count % self.per_round == 0 or count >= self.per_round * self.most)


@dataclass(frozen=True)
class SourceCounts:
    """Counts of a source.

    Attributes:
        people: people with judged pictures.
        pictures: judged pictures.
        kept: those that were kept.
        dropped: reason -> number, in alphabetical order.
    """

    people: int
    pictures: int
    kept: int
    dropped: dict[str, int]


@dataclass(frozen=True)
class FilterSummary:
    """The state of the filter stage.

    Attributes:
        sources: name -> counts.
        thresholds: source -> filter -> name -> value, those that were calibrated or given.
        short: people for whom another round should be written -> their kept pictures.
        exhausted: people who have too few after the last round -> their kept pictures.
        rounds: how many pictures people should have.
    """

    sources: dict[str, SourceCounts]
    thresholds: Mapping[str, Mapping[str, Mapping[str, float]]]
    short: dict[int, int]
    exhausted: dict[int, int]
    rounds: Rounds

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "thresholds": self.thresholds}


def summarise(
    pictures: Sequence[Row],
    judged: Sequence[Row],
    rounds: Rounds,
    thresholds: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> FilterSummary:
    """Return the summary of rows.

    People who have pictures that are not judged yet are neither short nor exhausted.

    Args:
        pictures: rows of the stage that wrote them.
        judged: rows of the filter stage.
        rounds: how many pictures people should have.
        thresholds: as in the result.
    """
    written: dict[int, list[int]] = {}
    for row in pictures:
        written.setdefault(row["gid"], []).append(row["number"])
    source_of = {row["gid"]: row["source"] for row in pictures}
    known = [row for row in judged if row["gid"] in source_of]
    finished, kept = Counter(row["gid"] for row in known), Counter(row["gid"] for row in known if row["kept"])
    judged_people = [gid for gid in sorted(written) if finished[gid] == len(written[gid])]
    few = {gid: kept[gid] for gid in judged_people if kept[gid] < rounds.min_keep}
    exhausted = {gid: count for gid, count in few.items() if rounds.written(max(written[gid])) >= rounds.most}
    return FilterSummary(
        sources={name: _counts(rows) for name, rows in sorted(_by_source(known, source_of).items())},
        thresholds=thresholds,
        short={gid: count for gid, count in few.items() if gid not in exhausted},
        exhausted=exhausted,
        rounds=rounds,
    )


def _by_source(rows: Sequence[Row], source_of: Mapping[int, str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(source_of[row["gid"]], []).append(row)
    return found


def _counts(rows: Sequence[Row]) -> SourceCounts:
    dropped = Counter(row["reason"] for row in rows if not row["kept"])
    return SourceCounts(
        people=len({row["gid"] for row in rows}),
        pictures=len(rows),
        kept=sum(row["kept"] for row in rows),
        dropped=dict(sorted(dropped.items())),
    )
