"""Infers the pattern of the paths of images: which folder is the camera's, and which one the person's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreid.data.tables.pattern import PathPattern, PatternError

# Names of folders that are parts of a data set. Queries are drawn for the people of a part that is called test.
SPLIT_OF = {
    **dict.fromkeys(("train", "training", "bounding_box_train", "image_train"), "train"),
    **dict.fromkeys(("query", "queries", "probe", "image_query"), "query"),
    **dict.fromkeys(("gallery", "bounding_box_test", "image_test"), "gallery"),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation"), "test"),
}
_LIKE_CAMERAS = re.compile(r"(?:cam(?:era)?|kamera|c|ch|channel)[ _.-]?\d{1,3}", re.IGNORECASE)
# Forms of a camera in the names of files, in folders of people.
_WORDS = ("cam", "Cam", "camera", "Camera", "c", "C")
_EXAMPLES = 3


@dataclass(frozen=True)
class Inferred:
    """A pattern that was inferred.

    Attributes:
        text: the pattern.
        reason: a sentence that says why.
    """

    text: str
    reason: str


def infer_pattern(paths: Sequence[str]) -> Inferred:
    """Infer the pattern of paths relative to their folder, with `/` between folders.

    Args:
        paths: the paths, at least one.

    Raises:
        PatternError: the paths have different depths, or can be read in several ways; the message asks for a pattern.
    """
    depths = Counter(path.count("/") for path in paths)
    if len(depths) > 1:
        counts = ", ".join(f"{count:,} below {depth} folders" for depth, count in sorted(depths.items()))
        raise PatternError(f"images have different numbers of folders above them ({counts}). {_ask(paths)}")
    folders = [path.split("/")[:-1] for path in paths]
    if folders[0] and {names[0].lower() for names in folders} <= SPLIT_OF.keys():
        inner = infer_pattern([path.partition("/")[2] for path in paths])
        return Inferred(f"{{split}}/{inner.text}", f"the outer folders are parts of a data set; {inner.reason}")
    levels = [[names[level] for names in folders] for level in range(len(folders[0]))]
    if not levels:
        return _flat(paths)
    if len(levels) == 1:
        return _one_level(paths, levels[0])
    if len(levels) == 2:
        return _two_levels(paths, *levels)
    counts = ", ".join(f"{len(set(names)):,}" for names in levels)
    raise PatternError(f"images are below {len(levels)} levels of folders, with {counts} names. {_ask(paths)}")


def _flat(paths: Sequence[str]) -> Inferred:
    text = "{person:d}_c{camera:d}*"
    if _fits(text, paths):
        return Inferred(text, "all file names begin with PERSON_cCAMERA, as those of Market-1501")
    raise PatternError(
        "all images are in one folder, and their names are not PERSON_cCAMERA…. If folders above it say the person or "
        f"the camera, name the top one as --root. {_ask(paths, '{person}_*')}"
    )


def _one_level(paths: Sequence[str], people: Sequence[str]) -> Inferred:
    """A level of folders: of people, with cameras in the file names or without; or of cameras."""
    if all(map(_LIKE_CAMERAS.fullmatch, people)) and len(set(people)) < len(paths):
        text = "{camera}/{person}_*"
        if _fits(text, paths):
            return Inferred(
                text, f"the folders are called like cameras ({_shown(people)}), and all file names have an underscore"
            )
        raise PatternError(f"the folders are called like cameras ({_shown(people)}), not like people. {_ask(paths)}")
    for word in _WORDS:
        for text in (f"{{person}}/{word}{{camera:d}}*", f"{{person}}/*_{word}{{camera:d}}*"):
            if len(_values(text, paths, "camera")) > 1:
                return Inferred(
                    text, f"each folder is read as a person, and {word} and digits in the file names as the camera"
                )
    return Inferred("{person}/{name}", "each folder is read as a person; no cameras were found in the file names")


def _two_levels(paths: Sequence[str], outer: Sequence[str], inner: Sequence[str]) -> Inferred:
    """Two levels of folders: cameras are fewer than people, and the names of the inner level recur."""
    camera_first, person_first = "{camera}/{person}/{name}", "{person}/{camera}/{name}"
    like = [all(map(_LIKE_CAMERAS.fullmatch, names)) for names in (outer, inner)]
    counts = len(set(outer)), len(set(inner))
    if like[0] != like[1]:
        level, names = ("outer", outer) if like[0] else ("inner", inner)
        reason = f"the {level} folders are called like cameras ({_shown(names)})"
        return Inferred(camera_first if like[0] else person_first, reason)
    recurs = len(set(zip(outer, inner, strict=True))) > counts[1]
    if not recurs or counts[0] == counts[1]:
        why = "as many names on both levels" if recurs else "no name of an inner folder occurs in two outer ones"
        raise PatternError(
            f"images are below two levels of folders, with {counts[0]:,} and {counts[1]:,} names, and there are {why}. "
            f"{_ask(paths, camera_first, person_first)}"
        )
    cameras, people = (outer, inner) if counts[0] < counts[1] else (inner, outer)
    reason = (
        f"of the two levels of folders, the one with fewer names ({_shown(cameras)}) is read as the camera, and the "
        f"one with more ({_shown(people)}) as the person"
    )
    return Inferred(camera_first if counts[0] < counts[1] else person_first, reason)


def _fits(text: str, paths: Sequence[str]) -> bool:
    pattern = PathPattern(text)
    return all(pattern.read(path) for path in paths)


def _values(text: str, paths: Sequence[str], field: str) -> set[str]:
    """The values of a field, or none if the pattern does not fit all paths."""
    pattern = PathPattern(text)
    found = [pattern.read(path) for path in paths]
    return {values[field] for values in found if values} if all(found) else set()


def _shown(names: Sequence[str]) -> str:
    distinct = sorted(set(names))
    more = f", … {len(distinct):,} in all" if len(distinct) > _EXAMPLES else ""
    return f"{', '.join(distinct[:_EXAMPLES])}{more}"


def _ask(paths: Sequence[str], *patterns: str) -> str:
    suggestions = " or ".join(f'--pattern "{text}"' for text in patterns or ("{camera}/{person}/{name}",))
    return f"Say what the parts of a path mean, for example {suggestions}; a path here is {Path(paths[0]).as_posix()}"
