"""./quickstart.sh dcac on a few rendered people: two places, one table, finished runs are not trained again."""

import pytest

from tests.miniature import ROOT, make_scratch
from tests.recipes import merged
from tests.two_places import check_report, check_second_run, runs_of

LOGS = "logs/quickstart_dg"
PLACES = {"Market1501": "campus_summer", "DukeMTMC": "station_winter"}


@pytest.fixture(scope="module")
def dcac(tmp_path_factory):
    """A scratch copy in which ./quickstart.sh dcac has run, with its output and its calls of Python."""
    scratch = make_scratch(tmp_path_factory.mktemp("dcac") / "copy")
    done = scratch.script("quickstart.sh", "dcac")
    return scratch, done, scratch.calls()


@pytest.mark.slow
def test_it_renders_two_places_trains_and_writes_one_report(dcac):
    check_report(*dcac, LOGS, runs_of("dcac"), PLACES)


@pytest.mark.slow
def test_a_second_run_trains_only_what_is_unfinished(dcac):
    check_second_run(dcac[0], "dcac", LOGS, "dg_baseline")


@pytest.mark.parametrize("words", [("dcca",), ("sd_reid", "dcac"), ("../environment",), ("two_places",)])
def test_an_unknown_mode_lists_the_modes(tmp_path, words):
    scratch = make_scratch(tmp_path / "copy")
    refused = scratch.script("quickstart.sh", *words, on_tool="fail")
    said = f"quickstart.sh: unknown mode '{' '.join(words)}'; modes: dcac diffperson pisl sd_reid (default: sd_reid)"
    assert refused.returncode == 2 and refused.stderr.strip() == said and scratch.calls() == []


def test_its_runs_are_where_the_script_looks_for_them():
    for name in runs_of("dcac"):
        cfg = merged(ROOT / f"configs/quickstart/{name}.yml")
        assert cfg.OUTPUT_DIR == f"{LOGS}/{name}"
        assert (tuple(cfg.DATASETS.NAMES), tuple(cfg.DATASETS.TESTS)) == (("Market1501",), tuple(PLACES))
