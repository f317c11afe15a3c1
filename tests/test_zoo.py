"""docs/zoo.md: every recipe has its rows, and figures agree with the configs and with docs/results.md."""

import re

import pytest

from fastreid.evaluation import check_expected_results, expected_figures
from tests.pages import TEXTS, rows
from tests.recipes import RECIPES, is_stage2, merged, name_of

PAGE = "docs/zoo.md"
NOT_MEASURED = "not measured: no data here"
QUICKSTART = [path for path in RECIPES if path.parent.name == "quickstart"]
AERIAL = [path for path in QUICKSTART if tuple(merged(path).DATASETS.NAMES) == ("CARGO",)]
WRITTEN = [path for path in QUICKSTART if path.stem.startswith("diffperson")]  # parts of one comparison
DOMAINS = [path for path in QUICKSTART if path not in (*AERIAL, *WRITTEN)]
PUBLISHED = [path for path in RECIPES if path not in QUICKSTART]
TABLES = [*re.findall(r"^### .+$", TEXTS[PAGE], re.MULTILINE), "## Own images", "## Pre-training"]
ROWS = [row for heading in TABLES for row in rows(PAGE, heading, 5)]
ONE_STAGE = ("AttrBaseline", "Baseline", "ClusterContrast", "DCAC", "DiffusionReID", "Distiller", "DistillerOverhaul")
ONE_STAGE += ("MGN", "PISL")
FIGURES = r"\d\d\.\d+ / \d\d\.\d+"


def of(path, table):
    return [row for row in table if row[0] == name_of(path)]


def test_no_row_is_of_another_file():
    assert {row[0] for row in ROWS} == {name_of(path) for path in PUBLISHED}


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_every_recipe_has_its_protocols_in_the_zoo(path):
    cfg, own = merged(path), of(path, ROWS)
    assert sorted(name for row in own for name in row[2].split(", ")) == sorted(cfg.DATASETS.TESTS or ["–"])
    stage = "–" if cfg.MODEL.META_ARCHITECTURE in ONE_STAGE else "2" if is_stage2(cfg) else "1"
    assert {row[1] for row in own} == {stage}
    for _, _, protocols, published, measured in own:
        assert measured == NOT_MEASURED
        assert re.fullmatch(rf"{FIGURES}|not known here|not in the model zoo; a user reported {FIGURES}", published)
        assert "known" in published or "," not in protocols  # a figure is of one protocol


@pytest.mark.parametrize("path", AERIAL, ids=name_of)
def test_the_quickstart_expects_what_the_zoo_says(path):
    cfg = merged(path)
    check_expected_results(cfg, to_verify=True)
    (row,) = of(path, rows(PAGE, "## Rendered people", 6))
    header = re.search(r"^\| config \| stage \| ALL .*$", TEXTS[PAGE], re.MULTILINE)[0]
    protocols = re.findall(r"`(CARGO\w*)`", header)
    assert sorted(protocols) == sorted(cfg.DATASETS.TESTS)
    maps = {name: float(cell.split(" / ")[0]) for name, cell in zip(protocols, row[2:], strict=True)}
    expected = expected_figures(cfg)
    assert [(f.protocol, f.figure) for f in expected] == [("CARGO", "mAP"), ("CARGO_AG", "mAP")]
    assert {f.protocol: f.value for f in expected} == {name: maps[name] for name in ("CARGO", "CARGO_AG")}
    assert {f.tolerance for f in expected} == {4.0} and "tolerance of 4 mAP" in " ".join(TEXTS[PAGE].split())


@pytest.mark.parametrize("path", DOMAINS, ids=name_of)
def test_two_places_are_expected_as_the_zoo_says(path):
    cfg = merged(path)
    heading = "## Without labels in two" if path.stem.startswith("pisl") else "## Two rendered places"
    (row,) = of(path, rows(PAGE, heading, 3))
    if not cfg.TEST.EXPECTED_RESULTS:
        assert row[1:] == ["not measured yet"] * 2
        return
    check_expected_results(cfg, to_verify=True)
    section = TEXTS[PAGE].partition(f"\n{heading}")[2]
    protocols = re.findall(r"`(\w+)`", re.search(r"^\| config \| .*$", section, re.MULTILINE)[0])
    maps = {name: float(cell.split(" / ")[0]) for name, cell in zip(protocols, row[1:], strict=True)}
    assert {f.protocol: f.value for f in expected_figures(cfg)} == maps
    assert {f.figure for f in expected_figures(cfg)} == {"mAP"} and sorted(maps) == sorted(cfg.DATASETS.TESTS)


def test_the_three_seeds_are_those_of_the_results():
    table = {row[0]: row[1:] for row in rows("docs/results.md", "<!-- results -->", 5)}
    zoo = {row[0]: row[2:] for row in rows(PAGE, "Three seeds", 6)}
    assert zoo == {
        "configs/quickstart/stage1.yml": table["stage 1"],
        "configs/quickstart/stage2.yml": table["MLP, one step"],
    }


def test_the_page_is_linked():
    pages = ("README.md", "docs/usage.md")
    assert [page for page in pages if not re.search(r"\]\((docs/)?zoo\.md\)", TEXTS[page])] == []
