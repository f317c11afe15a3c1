"""Repeated code: the share of lines that belong to a run of equal lines which occurs more than once."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RUN = 6
"""Equal lines in a row that count as a repetition."""


@dataclass(frozen=True)
class Repetition:
    """Result of `find_repetition`.

    Attributes:
        share: Repeated lines over all lines that were compared.
        places: Repeated lines as "FILE:LINE".
    """

    share: float
    places: list[str]


def find_repetition(files: Iterable[Path]) -> Repetition:
    """Find runs of at least `RUN` lines that occur more than once.

    Lines are compared without the white space around them. Empty lines, comments and imports are left out: a block of
    imports is the same wherever the same names are used.
    """
    places, windows = [], defaultdict(list)
    for file in files:
        lines = _compared_lines(file)
        first = len(places)
        places += [f"{file}:{number}" for number, _ in lines]
        for start in range(len(lines) - RUN + 1):
            window = tuple(text for _, text in lines[start : start + RUN])
            windows[window].append(first + start)
    starts = [start for found in windows.values() if len(found) > 1 for start in found]
    repeated = sorted({start + offset for start in starts for offset in range(RUN)})
    return Repetition(len(repeated) / max(len(places), 1), [places[index] for index in repeated])


def _compared_lines(file: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines of a file that are compared."""
    found, in_import = [], False
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        in_import = in_import or text.startswith(("import ", "from "))
        if text and not in_import and not text.startswith(("#", "//")):
            found.append((number, text))
        if in_import and (text.endswith(")") or "(" not in text and not text.endswith(",")):
            in_import = False
    return found
