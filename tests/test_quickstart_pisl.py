"""./quickstart.sh pisl on a few rendered people: labels in one place, none in the other one, and a report of both."""

import json
import shutil

import pytest

from tests.miniature import ROOT, make_scratch
from tests.recipes import merged
from tests.two_places import check_report, check_second_run, runs_of

LOGS = "logs/quickstart_pisl"
PLACES = {"Market1501": "campus_summer", "MSMT17": "plain"}
# 64 images of 8 people, which the first run has hardly learnt to tell apart.
FEW_NEIGHBOURS = "\nCLUSTER:\n  MIN_SAMPLES: 2\n"


@pytest.fixture(scope="module")
def pisl(tmp_path_factory):
    """A scratch copy in which ./quickstart.sh pisl has run, with its output and its calls of Python."""
    scratch = make_scratch(tmp_path_factory.mktemp("pisl") / "copy")
    configs = scratch.folder / "configs"
    configs.unlink()
    shutil.copytree(ROOT / "configs", configs)
    recipe = configs / "quickstart/pisl.yml"
    recipe.write_text(recipe.read_text().replace("\nCLUSTER:\n", FEW_NEIGHBOURS))
    done = scratch.script("quickstart.sh", "pisl")
    return scratch, done, scratch.calls()


@pytest.mark.slow
def test_labels_in_one_place_none_in_the_other_and_one_report(pisl):
    check_report(*pisl, LOGS, runs_of("pisl"), PLACES)


@pytest.mark.slow
def test_the_report_shows_the_patches(pisl):
    folder = pisl[0].folder / LOGS
    logged = json.loads((folder / "pisl/patches.json").read_text())
    section = (folder / "report.html").read_text(encoding="utf-8").partition('<section id="patches">')[2]
    assert len(logged["images"]) == 8 and "cannot be read" not in section
    assert section.count("<img ") == 8 * len(logged["epochs"]) > 0
    assert "<h3>pisl</h3>" in section and "<h3>pisl_baseline</h3>" not in section


@pytest.mark.slow
def test_a_second_run_trains_only_what_is_unfinished(pisl):
    check_second_run(pisl[0], "pisl", LOGS, "pisl_baseline")


def test_its_runs_are_where_the_script_looks_for_them():
    before, after = (merged(ROOT / f"configs/quickstart/{name}.yml") for name in runs_of("pisl"))
    assert [cfg.OUTPUT_DIR for cfg in (before, after)] == [f"{LOGS}/{name}" for name in runs_of("pisl")]
    assert after.MODEL.WEIGHTS == f"{before.OUTPUT_DIR}/model_final.pth"
    assert (tuple(before.DATASETS.NAMES), tuple(after.DATASETS.NAMES)) == (("Market1501",), ("MSMT17",))
    assert tuple(before.DATASETS.TESTS) == tuple(after.DATASETS.TESTS) == tuple(PLACES)
