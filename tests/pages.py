"""The pages of the documentation, and what is in them."""

import re

from tests.miniature import ROOT

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "pretrained/README.md",
    ROOT / "logs/README.md",
]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
MIGRATING = "docs/migrating_from_fastreid.md"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def rows(page: str, heading: str, count: int) -> list[list[str]]:
    """Cells of the first table of `count` columns after a heading, backticks dropped."""
    text = TEXTS[page].split(heading, 1)[1]
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    split = ([row[1:-1].split("|") for row in table.splitlines()] for table in tables)
    _, _, *found = next(table for table in split if len(table[0]) == count)
    return [[cell.strip().replace("`", "") for cell in cells] for cells in found]
