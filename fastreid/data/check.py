"""Checks of a data set on disk: its counts beside the published ones, unreadable images, and a contact sheet."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from PIL import Image, ImageDraw, ImageOps
from tabulate import tabulate
from tqdm import tqdm

from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.data.benchmarks.base import SPLITS
from fastreid.data.benchmarks.lists import Listed
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.datasets import ImageDataset
from fastreid.data.images import ImageReadError, read_image
from fastreid.structures import PersonImage, View
from fastreid.utils.display_text import printable

HEADERS = ("data set", "split", "images", "published", "people", "published", "unnamed", "cameras", "views")
CELL, GAP, MARGIN = (64, 128), 4, (64, 30)
_MOST_LETTERS = 10  # in a cell


def counts_table(trained: Iterable[ImageDataset], tested: Iterable[ImageDataset]) -> str:
    """Images, people, cameras and views of training and of test sets, beside the published counts."""
    rows = [_counts(dataset, "train") for dataset in trained]
    rows += [_counts(dataset, split) for dataset in tested for split in ("query", "gallery")]
    if len({view for row in rows for view in str(row[-1]).split(", ") if view}) < 2:  # a single view has no meaning
        rows = [(*row[:-1], None) for row in rows]
    return counts_as_text(HEADERS, rows)


def counts_as_text(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of names and counts; columns without any value, such as published counts, are left out.

    Args:
        headers: names of the columns; the first one is that of names.
        rows: values, None for those that are not known.
    """
    used = [i for i in range(len(headers)) if i == 0 or not rows or any(row[i] is not None for row in rows)]
    # Names that look like numbers stay text. tabulate has no column 0 in a table without rows.
    names: Any = [0] if rows else False
    return tabulate(
        [[row[i] for i in used] for row in rows],
        headers=[headers[i] for i in used],
        intfmt=",",
        missingval="-",
        disable_numparse=names,
    )


def _counts(dataset: ImageDataset, split: str) -> tuple[object, ...]:
    benchmark, images = BENCHMARK_OF.get(dataset.name), getattr(dataset, split)
    found, published = Sizes.of(images), benchmark.sizes(dataset.name, split) if benchmark else Sizes()
    name = _train_name(dataset) if split == "train" else dataset.name
    views = ", ".join(_view_name(view) for view in sorted({image.view for image in images}))
    cameras = len({image.camera for image in images})
    unnamed = len(images) - (found.images or 0) or None
    if split == "train" and dataset.unlabelled:
        found, unnamed = Sizes(len(images)), None
    return (printable(name), split, found.images, published.images, found.ids, published.ids, unnamed, cameras, views)


def unlabelled_note(datasets: Iterable[ImageDataset]) -> str:
    """A sentence for each data set whose training images have no person labels; "" if there is none."""
    return "\n".join(
        f"{printable(dataset.name)}: no person labels ({reason}); it can be trained on by methods that need none"
        for dataset in datasets
        if (reason := dataset.unlabelled)
    )


def _train_name(dataset: ImageDataset) -> str:
    benchmark = BENCHMARK_OF.get(dataset.name)
    return benchmark.train_name(dataset.name) if benchmark else dataset.name


def with_distinct_training(datasets: Iterable[ImageDataset]) -> list[ImageDataset]:
    """The data sets without those that train on the images of an earlier one."""
    first: dict[str, ImageDataset] = {}
    for dataset in datasets:
        first.setdefault(_train_name(dataset), dataset)
    return list(first.values())


def _view_name(view: int) -> str:
    return View(view).name.lower() if view in set(View) else str(view)


def list_checksums(names: Iterable[str], root: str) -> str:
    """SHA-256 of the list files that the named protocols read, one per line; "" if they read none.

    Users build some sets themselves (G2APS-ReID): equal checksums mean equal protocols.
    """
    files = {}
    for name in names:
        if (benchmark := BENCHMARK_OF.get(name)) is None:
            continue
        query = benchmark.protocol(name).query
        if isinstance(query, Listed):
            file = benchmark.home(root) / query.file
            files[query.file] = hashlib.sha256(b"\n".join(file.read_bytes().split())).hexdigest()
    return "\n".join(f"{digest}  {file}" for file, digest in files.items())


def check_first_images(
    trained: Iterable[ImageDataset],
    tested: Iterable[ImageDataset],
    build_loader: Callable[[Sequence[PersonImage]], Iterable[Mapping[str, Any]]],
) -> None:
    """Decode the first image of every used split, to find wrong paths and files before a long run.

    Args:
        trained: data sets that are trained on.
        tested: data sets that are tested.
        build_loader: images -> batches, as the run reads them.

    Raises:
        ImageReadError: an image cannot be decoded; names its data set and split.
    """
    splits = [(dataset, "train") for dataset in trained]
    splits += [(dataset, split) for dataset in tested for split in ("query", "gallery")]
    for dataset, split in splits:
        first = getattr(dataset, split)[:1]
        try:
            for _ in build_loader(first) if first else ():
                pass
        except ImageReadError as error:
            raise type(error)(f"{dataset.name}, first image of {split}: {error}", error.reason) from error


def paths_of(datasets: Iterable[ImageDataset]) -> list[str]:
    """The paths of all images, sorted."""
    return sorted({image.path for dataset in datasets for split in SPLITS for image in getattr(dataset, split)})


def unreadable(datasets: Iterable[ImageDataset], num_threads: int = 4) -> list[str]:
    """Decode every image, and return a sentence for each that cannot be decoded."""
    paths = paths_of(datasets)

    def problem(path: str) -> str | None:
        try:
            read_image(path)
        except ImageReadError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(num_threads) as pool:
        results = tqdm(
            pool.map(problem, paths), "reading images", len(paths), disable=not sys.stderr.isatty(), unit="image"
        )
        return [sentence for sentence in results if sentence]


def contact_sheet(dataset: ImageDataset, num_people: int = 6, max_cameras: int = 24) -> Image.Image:
    """A picture with people in rows and cameras in columns, of the people that most cameras saw.

    Without person labels, a row has an image of each camera, in the order of the data set.
    """
    images = [image for split in SPLITS for image in getattr(dataset, split) if image.person >= 0]
    if dataset.unlabelled:
        images = _numbered_by_camera(dataset.train)
    cells: dict[int, dict[tuple[int, int], PersonImage]] = {}
    for image in images:
        # A protocol may number views instead of cameras.
        cells.setdefault(image.person, {}).setdefault((image.view, image.camera), image)
    people = sorted(cells, key=lambda person: (-len(cells[person]), person))[:num_people]
    columns = sorted({key for person in people for key in cells[person]})[:max_cameras]
    width, height = CELL[0] + GAP, CELL[1] + GAP
    sheet = Image.new("RGB", (MARGIN[0] + len(columns) * width, MARGIN[1] + len(people) * height), "white")
    draw = ImageDraw.Draw(sheet)
    has_views = len({view for view, _ in columns}) > 1
    for x, (view, camera) in enumerate(columns):
        title = f"{_camera_name(dataset, camera)}\n{_view_name(view) if has_views else ''}"
        draw.multiline_text((MARGIN[0] + x * width, 2), title, "black")
    for y, person in enumerate(people):
        name = dataset.person_names.get(person, str(person))
        draw.text((2, MARGIN[1] + y * height + CELL[1] // 2), _drawable(name, person), "black")
        for x, key in enumerate(columns):
            if key in cells[person]:
                corner = (MARGIN[0] + x * width, MARGIN[1] + y * height)
                sheet.paste(_cell(cells[person][key].path), corner)
    return sheet


def _numbered_by_camera(images: Iterable[PersonImage]) -> list[PersonImage]:
    counts: Counter[tuple[int, int]] = Counter()
    numbered = []
    for image in images:
        numbered.append(replace(image, person=counts[image.view, image.camera]))
        counts[image.view, image.camera] += 1
    return numbered


def _camera_name(dataset: ImageDataset, camera: int) -> str:
    name = dataset.camera_names.get(camera)
    return f"cam {camera}" if name is None else _drawable(name, camera)


def _drawable(name: str, number: int) -> str:
    """The beginning of a name, or its number if Pillow's font lacks its characters."""
    return name[:_MOST_LETTERS] if name.isascii() and name.isprintable() else f"{number}"


def _cell(path: str) -> Image.Image:
    """The image, scaled to a cell; a cross if it cannot be read."""
    try:
        return ImageOps.contain(read_image(path), CELL)
    except ImageReadError:
        crossed = Image.new("RGB", CELL, "lightgrey")
        draw = ImageDraw.Draw(crossed)
        draw.line((0, 0, *CELL), "red", 2)
        draw.line((0, CELL[1], CELL[0], 0), "red", 2)
        return crossed


def protocols_named(name: str) -> Sequence[str]:
    """The protocols that `name` stands for: all of a benchmark, or itself."""
    benchmarks = {benchmark.name: benchmark for benchmark in BENCHMARK_OF.values()}
    return list(benchmarks[name].protocols) if name in benchmarks else [name]
