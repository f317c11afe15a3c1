"""./quickstart.sh dcac on a few rendered people: two places, one table, finished runs are not trained again."""

import json

import pytest

from tests.miniature import ROOT, make_scratch
from tests.recipes import merged

DATA, LOGS = "datasets/quickstart_dg", "logs/quickstart_dg"


@pytest.fixture(scope="module")
def dcac(tmp_path_factory):
    """A scratch copy in which ./quickstart.sh dcac has run, with its output and its calls of Python."""
    scratch = make_scratch(tmp_path_factory.mktemp("dcac") / "copy")
    done = scratch.script("quickstart.sh", "dcac")
    return scratch, done, scratch.calls()


def trained(calls):
    """Return the configs that train_net was called with."""
    words = [call.split() for call in calls if call.startswith("tools/train_net.py")]
    return [call[call.index("--config-file") + 1] for call in words]


def test_it_renders_two_places_trains_and_writes_one_report(dcac):
    scratch, done, calls = dcac
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    logs = scratch.folder / LOGS
    runs = [path.split("/")[-1].removesuffix(".yml") for path in trained(calls)]
    assert runs[0] == "dg_baseline"
    figures = json.loads((logs / "report.json").read_text())
    assert list(figures) == runs and all(set(own) == {"Market1501", "DukeMTMC"} for own in figures.values())
    assert all(name in (logs / "report.html").read_text(encoding="utf-8") for name in (*runs, "DukeMTMC"))
    lines = done.stdout[done.stdout.index("==> writing the report") :].splitlines()
    assert [line.split()[0] for line in lines[4 : 5 + len(runs)]] == [*runs, "chance"]
    assert lines[-1].endswith(f"open {LOGS}/report.html")
    domains = [
        json.loads((scratch.folder / DATA / name / "render.json").read_text())["request"]
        for name in ("Market1501", "DukeMTMC")
    ]
    assert [d["domain"] for d in domains] == ["campus_summer", "station_winter"]
    assert domains[0]["seed"] != domains[1]["seed"]  # other people


def test_a_second_run_trains_only_what_is_unfinished(dcac):
    scratch, _, first = dcac
    scratch.calls()
    assert scratch.script("quickstart.sh", "dcac", on_tool="note").returncode == 0
    assert trained(scratch.calls()) == []
    (scratch.folder / LOGS / "dg_baseline/results.json").unlink()
    assert scratch.script("quickstart.sh", "dcac", on_tool="note").returncode == 0
    assert trained(scratch.calls()) == trained(first)[:1]


@pytest.mark.parametrize("words", [("dcca",), ("sd_reid", "dcac"), ("../environment",)])
def test_an_unknown_mode_lists_the_modes(dcac, words):
    scratch = dcac[0]
    scratch.calls()
    refused = scratch.script("quickstart.sh", *words, on_tool="fail")
    said = f"quickstart.sh: unknown mode '{' '.join(words)}'; modes: dcac sd_reid (default: sd_reid)"
    assert refused.returncode == 2 and refused.stderr.strip() == said and scratch.calls() == []


def test_its_runs_are_where_the_script_looks_for_them():
    script = (ROOT / "go/quickstart_dcac.sh").read_text()
    (runs,) = [line for line in script.splitlines() if line.startswith("runs=(")]
    for name in runs.removeprefix("runs=(").removesuffix(")").split():
        cfg = merged(ROOT / f"configs/quickstart/{name}.yml")
        assert cfg.OUTPUT_DIR == f"{LOGS}/{name}"
        assert (tuple(cfg.DATASETS.NAMES), tuple(cfg.DATASETS.TESTS)) == (("Market1501",), ("Market1501", "DukeMTMC"))
