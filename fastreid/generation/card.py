"""The data card of generated people: what they were made from, by what, how many were kept, and how good they are."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.data.benchmarks.diff_person import META, NAME
from fastreid.data.images import read_image
from fastreid.evaluation.report.thumbnails import jpeg_uri
from fastreid.generation.export_plan import FILTER, PICTURES, ExportError
from fastreid.generation.journal import Journal
from fastreid.generation.rows import EXPORTED_ROW, PICTURE_ROW, VERDICT_ROW, Row, read_rows
from fastreid.utils.display_text import file_names, printable
from fastreid.utils.files import atomic_write, save_picture
from fastreid.utils.manifest import code_version, now

ABOUT = "Synthetic pictures of people."
UNKNOWN_LICENCE = "not known: ask its owner before you publish anything that was made from it"
RENDERED = "rendered by this library: shows no real people"
# Name of a benchmark, or of another source -> what is known of its licence (docs/datasets.md).
LICENCES = {
    "CARGO": "academic use only",
    "AG_ReID_v1": "published without a licence file",
    "AG_ReID_v2": "published without a licence file",
    "G2APS_ReID": "the owner of its images forbids redistribution",
    "DukeMTMC": "withdrawn by its owners",
    "openpeople": "MIT",
}
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~&!])")


@dataclass(frozen=True)
class Source:
    """A data set that people were generated from.

    Attributes:
        name: its name.
        people: number of its people in the export.
        pictures: number of their pictures.
        licence: its licence, in words.
    """

    name: str
    people: int
    pictures: int
    licence: str


@dataclass(frozen=True)
class Model:
    """A model that took part.

    Attributes:
        role: what it did, "captions".
        path: its folder, file or name.
        licence: its licence, in words.
    """

    role: str
    path: str
    licence: str = UNKNOWN_LICENCE


@dataclass(frozen=True)
class Card:
    """The content of a data card.

    Attributes:
        sources: the data sets that people were generated from.
        models: the models that took part.
        settings: key -> value.
        counts: what was counted -> number.
        drops: name of a filter -> number of pictures that it dropped.
        figures: name -> a number or text, or a mapping of these, of diversity and consistency.
        sheets: title -> a picture.
        made: command, commit and date.
        title: name of the data set.
        about: what the pictures are.
    """

    sources: Sequence[Source]
    models: Sequence[Model]
    settings: Mapping[str, Any]
    counts: Mapping[str, int]
    drops: Mapping[str, int]
    figures: Mapping[str, Any] = field(default_factory=dict)
    sheets: Mapping[str, str | os.PathLike[str]] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    title: str = NAME
    about: str = ABOUT


def collect_card(
    folder: str | os.PathLike[str],
    *,
    models: Sequence[Model],
    settings: Mapping[str, Any],
    figures: Mapping[str, Any] | None = None,
    sheets: Mapping[str, str | os.PathLike[str]] | None = None,
    licences: Mapping[str, str] | None = None,
    root: str | os.PathLike[str] = "",
    exclude_sources: Sequence[str] = (),
    trained_on: Sequence[str] = (),
) -> Card:
    """The card of a finished export; command, commit and date are those of this process.

    Args:
        folder: the output folder of the stages, with `pictures`, `filter` and `DiffPerson`.
        models: the models that took part.
        settings: key -> value.
        figures: diversity and consistency.
        sheets: title -> a picture, of kept and dropped pictures.
        licences: name of a source -> its licence, in front of what the library knows.
        root: folder of the source data sets (`DATASETS.ROOT`), to know rendered ones.
        exclude_sources: data sets whose people were left out; nothing of them is counted.
        trained_on: names of the data sets that the generator was trained on; those of the sources by default.

    Raises:
        ExportError: nothing has been exported.
        JournalError: meta.jsonl or a manifest is damaged.
    """
    folder = Path(folder)
    exported = exported_rows(folder)
    written, judged = rows_without(folder, exclude_sources)
    pictures = Counter(row["source"] for row in exported)
    people = Counter(source for source, _ in {(row["source"], row["gid"]) for row in exported})
    given = licences or {}
    sources = sorted({row["source"] for row in written} | pictures.keys())
    return Card(
        sources=[
            Source(name, people[name], pictures[name], given.get(name) or licence_of(name, root)) for name in sources
        ],
        models=models,
        settings=settings,
        counts={
            "generated pictures": len(written),
            **({"kept pictures": sum(row["kept"] for row in judged)} if judged else {}),
            "exported pictures": len(exported),
            "exported people": sum(people.values()),
        },
        drops=dict(sorted(Counter(row["reason"] for row in judged if not row["kept"]).items())),
        figures=figures or {},
        sheets=sheets or {},
        made=_made(),
        about=_about(trained_on or sources, exclude_sources),
    )


def _about(trained_on: Sequence[str], exclude_sources: Sequence[str]) -> str:
    text = f"{ABOUT} The model that generated them was fine-tuned on people of {', '.join(trained_on)}."
    return f"{text} Pictures of people of {', '.join(exclude_sources)} are left out." if exclude_sources else text


def rows_without(folder: str | os.PathLike[str], exclude_sources: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Return the rows of the stages `generate` and `filter`, without those of some data sets.

    Args:
        folder: the output folder of the stages.
        exclude_sources: names of data sets.

    Raises:
        JournalError: a manifest is damaged.
    """
    pictures, verdicts = Journal(Path(folder) / PICTURES, PICTURE_ROW), Journal(Path(folder) / FILTER, VERDICT_ROW)
    written = [row for row in pictures.rows() if row["source"] not in exclude_sources]
    people = {row["gid"] for row in written}
    return written, [row for row in verdicts.rows() if row["gid"] in people]


def exported_rows(folder: str | os.PathLike[str]) -> list[Row]:
    """Return the rows of meta.jsonl of an export.

    Args:
        folder: the output folder of the stages.

    Raises:
        ExportError: there is no such file.
        JournalError: a line is damaged.
    """
    path = Path(folder) / NAME / META
    if not path.is_file():
        raise ExportError(f"{path.parent} has no {path.name}: run the stage export first")
    return list(read_rows(path, EXPORTED_ROW, "run the stage export again, which writes it again"))


def licence_of(source: str, root: str | os.PathLike[str] = "") -> str:
    """What the library knows of the licence of a source.

    Args:
        source: name of a data set.
        root: folder of the data sets; rendered ones have the names of real ones.
    """
    benchmark = BENCHMARK_OF.get(source)
    if benchmark is None:
        return LICENCES.get(source, UNKNOWN_LICENCE)
    if root and (benchmark.home(Path(root)) / "render.json").is_file():
        return RENDERED
    return LICENCES.get(benchmark.name, UNKNOWN_LICENCE)


def write_card(card: Card, folder: str | os.PathLike[str]) -> None:
    """Write card.md, card.html and the sheets that card.md shows into a folder.

    Args:
        card: the content.
        folder: the folder, usually that of the data set.

    Raises:
        ImageReadError: a sheet cannot be read.
        DiskError: the disk is full.
    """
    folder = Path(folder)
    names = file_names(card.sheets)
    sheets = []
    for title, path in card.sheets.items():
        picture, file = read_image(os.fspath(path)), f"card_{names[title]}.jpg"
        save_picture(picture, folder / file, quality=90)
        sheets.append({"title": title, "file": file, "uri": jpeg_uri(picture)})
    for name, escapes in (("card.md", False), ("card.html", True)):
        with atomic_write(folder / name) as page:
            page.write(printable(_render(f"{name}.j2", card, sheets, escapes=escapes)))


def _render(name: str, card: Card, sheets: Sequence[Mapping[str, str]], *, escapes: bool) -> str:
    environment = Environment(autoescape=escapes, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["md"] = _escaped
    template = environment.from_string((resources.files(__package__) / name).read_text(encoding="utf-8"))
    style = (resources.files("fastreid.evaluation.report") / "page.css").read_text(encoding="utf-8")
    return template.render(
        title=card.title, about=card.about, style=Markup(style), sections=_sections(card), sheets=sheets
    )  # fmt: skip


def _sections(card: Card) -> list[dict[str, Any]]:
    total = sum(card.drops.values()) + card.counts.get("kept pictures", 0)
    return [
        _section(
            title="Sources",
            note="The licences of the sources and of the models may restrict what the pictures can be used for.",
            head=("data set", "people", "pictures", "licence"),
            rows=[(s.name, f"{s.people:,}", f"{s.pictures:,}", s.licence) for s in card.sources],
        ),
        _section(
            title="Models", head=("task", "model", "licence"), rows=[(m.role, m.path, m.licence) for m in card.models]
        ),
        _section(title="Counts", head=("", "number"), rows=[(what, f"{n:,}") for what, n in card.counts.items()]),
        _section(
            title="Dropped pictures",
            head=("filter", "pictures", "share"),
            rows=[(name, f"{n:,}", f"{n / total:.1%}") for name, n in card.drops.items()],
            empty="No picture was dropped.",
        ),
        _section(
            title="Diversity and consistency",
            head=("figure", "value"),
            rows=list(_flat(card.figures)),
            empty="Not measured.",
        ),
        _section(title="Settings", head=("key", "value"), rows=list(_flat(card.settings))),
        _section(title="How it was made", head=("", "value"), rows=list(card.made.items())),
    ]


def _section(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", empty: str = "None."
) -> dict[str, Any]:
    return {"title": title, "head": head, "rows": rows, "note": note, "empty": empty}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, value) of nested mappings, names of inner ones behind a colon."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        label = f"{prefix}{name}"
        rows += _flat(value, f"{label}: ") if isinstance(value, Mapping) else [(label, _shown(value))]
    return rows


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(text: object) -> str:
    """Text without Markdown's signs, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def _made() -> dict[str, str]:
    code = code_version()
    commit = code["commit"] or "not known"
    return {
        "command": shlex.join([Path(sys.executable or "python").name, *sys.argv]),
        "version": str(code["version"]),
        "commit": f"{commit} (with changes)" if code["changed"] else commit,
        "date": now(),
    }
