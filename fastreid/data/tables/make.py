"""Makes the table of a user's own images: splits people, draws queries, and writes the CSV file."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastreid.data.own_tables import NO_PERSON
from fastreid.data.tables.inference import SPLIT_OF
from fastreid.data.tables.pattern import PathPattern, PatternError
from fastreid.structures import View
from fastreid.utils.display_text import exact
from fastreid.utils.files import atomic_write
from fastreid.utils.suggest import explain_choice
from fastreid.utils.text import text_of_path

TEST = "test"  # of images whose query or gallery is not chosen yet
NO_CAMERAS = (
    "so the table has no column camera: otherwise every right image would be removed, as one of the query's own "
    "camera. The figures say little about other cameras"
)
_SHOWN = 3
_MOST_UNMATCHED = 1 / 3


@dataclass(frozen=True)
class TableOptions:
    """How a table is made.

    Args:
        test_people: share of the people that are tested, above 0 and below 1; not read where folders say the split.
        seed: another seed chooses other people and queries.

    Raises:
        PatternError: `test_people` is not between 0 and 1.
    """

    test_people: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.test_people < 1:
            raise PatternError(f"the share of tested people must be above 0 and below 1, got {exact(self.test_people)}")

    def draw(self, name: str) -> str:
        """A key to sort by: a random order that depends on the seed and the name only, on every machine."""
        return hashlib.sha256(f"{self.seed}:{name}".encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class TableImage:
    """A row of a table.

    Attributes:
        path: relative to the folder of the images, with `/` between folders.
        person: name of the person.
        camera: name of the camera; "" if there are none.
        view: name of the view; "" if there are none.
        split: train, query, gallery, or test while that is not chosen.
    """

    path: str
    person: str
    camera: str = ""
    view: str = ""
    split: str = TEST


@dataclass(frozen=True)
class Table:
    """A table that was made.

    Attributes:
        images: its rows, sorted by path.
        columns: those beside path and person: camera, view and split.
        unmatched: paths of images that have another form than the pattern.
        notes: sentences about what was chosen.
        splits_people: whether people were split at random, and not by their folders.
        draws_queries: whether there were images of which some were drawn as queries.
    """

    images: list[TableImage]
    columns: list[str]
    unmatched: list[str]
    notes: list[str]
    splits_people: bool = True
    draws_queries: bool = True


def make_table(paths: Iterable[str], pattern: PathPattern, options: TableOptions) -> Table:
    """Make a table of images by their paths.

    People are split at random into training and test, unless the pattern has `{split}`. Tested people must have images
    of two cameras, or two images where there are no cameras. For each of them and each camera with several images, one
    image is drawn as the query; a person without such a camera gives one query. The other images are the gallery.

    Args:
        paths: paths relative to the folder of the images, with `/` between folders.
        pattern: what the parts of a path mean.
        options: share of tested people, and seed.

    Raises:
        PatternError: the pattern fits too few images, names cannot be written into a table, or there are too few
            people to train on and to test.
    """
    images, unmatched = _read(sorted(paths), pattern)
    notes: list[str] = []
    if not images or len(unmatched) > _MOST_UNMATCHED * (len(images) + len(unmatched)):
        total = len(images) + len(unmatched)
        shown = ", ".join(unmatched[:_SHOWN])
        raise PatternError(f"the pattern {pattern.text!r} fits {len(images):,} of {total:,} images; not, e.g., {shown}")
    people, cameras = ({getattr(image, field) for image in images} - {""} for field in ("person", "camera"))
    if len(cameras) > len(people):
        notes.append(
            f"there are more cameras ({len(cameras):,}) than people ({len(people):,}): is one taken for the other in "
            f"the pattern {pattern.text!r}?"
        )
    splits_people = "split" not in pattern.fields
    if splits_people:
        images = _split_people(images, options, notes)
    tested = [image for image in images if image.split != "train"]
    if len({image.camera for image in tested} - {""}) == 1:
        images = [replace(image, camera="") for image in images]
        notes.append(f"all tested images have one camera, {NO_CAMERAS}")
    draws_queries = any(image.split == TEST for image in images)
    images = _draw_queries(images, options)
    has = {
        "camera": any(image.camera for image in images),
        "view": "view" in pattern.fields,
        "split": True,
    }
    columns = [column for column, there in has.items() if there]
    return Table(images, columns, unmatched, notes, splits_people, draws_queries)


def write_table(table: Table, root: Path, output: Path, *, overwrite: bool = False) -> bool:
    """Write a table; its paths are relative to its folder.

    Args:
        table: the table.
        root: the folder of the images.
        output: the CSV file.
        overwrite: whether a file with another content is replaced.

    Returns:
        Whether the file was written; False if it had this content.

    Raises:
        PatternError: the file exists with another content, or a name cannot be written in UTF-8.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "person", *table.columns])
    for image in table.images:
        path = _relative(root / image.path, output.parent)
        try:
            values = [path, image.person, *(getattr(image, column) for column in table.columns)]
            writer.writerow(map(text_of_path, values))
        except UnicodeError as error:
            raise PatternError(f"the path {path!r} is not valid UTF-8 and cannot be in a table: rename it") from error
    content = text.getvalue().encode("utf-8")
    if has_content(output, content, overwrite=overwrite):
        return False
    with atomic_write(output, "wb") as file:
        file.write(content)
    return True


def has_content(output: Path, content: bytes, *, overwrite: bool = False) -> bool:
    """Whether a file has this content already.

    Args:
        output: the file; it need not exist.
        content: what will be written.
        overwrite: whether a file with another content may be replaced.

    Raises:
        PatternError: the file has another content and may not be replaced.
    """
    if not output.is_file():
        return False
    if output.read_bytes() == content:
        return True
    if overwrite:
        return False
    raise PatternError(f"{output} exists and has another content; give another --output, or --overwrite to replace it")


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()


def _read(paths: Sequence[str], pattern: PathPattern) -> tuple[list[TableImage], list[str]]:
    """Return the rows of the paths that fit the pattern, and the other paths."""
    images, unmatched = [], []
    for path in paths:
        values = pattern.read(path)
        if values is None:
            unmatched.append(path)
            continue
        _check_names(path, values)
        if "split" in values:
            values["split"] = _split_of(path, values["split"])
        images.append(TableImage(path, **values))
    return images, unmatched


def _check_names(path: str, values: Mapping[str, str]) -> None:
    """Check that a table gives these names back as they are."""
    for field, value in values.items():
        if value != value.strip():
            raise PatternError(
                f"{path}: the {field} {value!r} begins or ends with a space, which tables ignore: rename"
            )
    if values["person"] == NO_PERSON:
        raise PatternError(f"{path}: in a table, person {NO_PERSON} means that no person is known: rename it")
    views = [view.name.lower() for view in View]
    if values.get("view", views[0]).lower() not in views:
        raise PatternError(f"{path}: {explain_choice('view', values['view'], views)}")


def _split_of(path: str, name: str) -> str:
    if name.lower() not in SPLIT_OF:
        raise PatternError(f"{path}: {explain_choice('split', name, SPLIT_OF)}")
    return SPLIT_OF[name.lower()]


def _split_people(images: Sequence[TableImage], options: TableOptions, notes: list[str]) -> list[TableImage]:
    """Choose the tested people; the images of the others are for training."""
    has_cameras = any(image.camera for image in images)
    seen: dict[str, set[str]] = defaultdict(set)
    for image in images:
        seen[image.person].add(image.camera if has_cameras else image.path)
    able = sorted((person for person, found in seen.items() if len(found) > 1), key=options.draw)
    if has_cameras and not able:  # no person was seen by two
        notes.append(f"no person has images of two cameras, {NO_CAMERAS}")
        return _split_people([replace(image, camera="") for image in images], options, notes)
    wanted = max(1, round(options.test_people * len(seen)))
    tested = set(able[:wanted])
    if len(seen) - len(tested) < 2 or not tested:
        least = "images of two cameras" if has_cameras else "two images"
        raise PatternError(
            f"{len(seen):,} people are too few: at least two are trained on, and at least one with {least} is tested"
        )
    if len(tested) < wanted:
        least = "images of two cameras" if has_cameras else "two images"
        notes.append(f"{len(tested):,} people are tested instead of {wanted:,}: only they have {least}")
    return [replace(image, split=TEST if image.person in tested else "train") for image in images]


def _draw_queries(images: Sequence[TableImage], options: TableOptions) -> list[TableImage]:
    """Turn the images of split test into queries and gallery."""
    groups: dict[str, dict[str, list[TableImage]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        if image.split == TEST:
            groups[image.person][image.camera].append(image)
    queries = set()
    for by_camera in groups.values():
        drawn = [sorted(found, key=lambda image: options.draw(image.path))[0].path for found in by_camera.values()]
        several = [path for path, found in zip(drawn, by_camera.values(), strict=True) if len(found) > 1]
        queries.update(several or drawn[: len(drawn) > 1])
    chosen = {True: "query", False: "gallery"}
    return [replace(image, split=chosen[image.path in queries]) if image.split == TEST else image for image in images]
