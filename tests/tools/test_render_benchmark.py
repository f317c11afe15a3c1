"""The command line of the renderer: it writes what it says, refuses in a sentence, cleans up when it is ended."""

import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.warm_python import warm_python

TOOL = Path(__file__).parents[2] / "tools" / "render_benchmark.py"


@pytest.fixture
def tool():
    """The tool's `main`."""
    return runpy.run_path(str(TOOL))["main"]


def test_it_renders_with_the_knobs_given_and_draws_a_sheet(tool, tmp_path, capsys):
    sheet = tmp_path / "docs" / "sheet.jpg"
    few = "--train-ids 5 --test-ids 2 --images-per-id 4 --workers 1 --noise 0.1 --lookalike-group 2".split()
    tool(["--root", str(tmp_path), *few, "--contact-sheet", str(sheet)])
    said = capsys.readouterr().out
    assert "20 train" in said and "4 query" in said and "people 1, 2, 3, 5" in said
    request = json.loads((tmp_path / "CARGO" / "render.json").read_text())["request"]
    assert (request["config"]["noise"], request["config"]["lookalike_group"], request["train_ids"]) == (0.1, 2, 5)
    assert sheet.stat().st_size > 10_000 and len(list((tmp_path / "CARGO").rglob("*.jpg"))) == 28
    tool(["--root", str(tmp_path), *few])
    assert "already there" in capsys.readouterr().out


def test_it_renders_a_domain_and_notices_another(tool, tmp_path, capsys):
    few = ["--root", str(tmp_path), *"--train-ids 2 --test-ids 2 --images-per-id 4 --workers 1".split()]
    for said in ("rendered in", "already there"):
        tool([*few, "--domain", "night_street"])
        out = capsys.readouterr().out
        assert "domain night_street" in out and said in out
    with pytest.raises(SystemExit, match="domain is night_street, not plain"):
        tool(few)


def test_captions_that_somebody_changed_are_not_lost(tool, tmp_path):
    captions = tmp_path / "captions.jsonl"
    few = ["--root", str(tmp_path), "--train-ids", "2", "--test-ids", "2", "--workers", "1"]
    few += ["--captions", str(captions)]
    tool(few)
    written = captions.read_bytes()
    tool(few)
    captions.write_bytes(written + b"mine")
    with pytest.raises(SystemExit, match="captions.jsonl has other captions, or is no file of captions: name another"):
        tool(few)
    assert captions.read_bytes() == written + b"mine"
    tool([*few, "--overwrite"])
    assert captions.read_bytes() == written


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "cargo"], "did you mean 'CARGO'"),
        (["--occlusion", "3"], "occlusion is 3.0; it must lie in 0..1"),
        (["--captions", "{}/CARGO/render.json"], "has the files of the benchmark only: name another"),
        (["--contact-sheet", "{}/CARGO/train/a.jpg"], "has the files of the benchmark only: name another"),
        (["--captions", "{}/a", "--contact-sheet", "{}/a"], "are both .*a: name two files"),
        (["--domain", "night"], "unknown domain 'night'; did you mean 'night_street'"),
    ],
)
def test_errors_are_a_sentence(tool, tmp_path, arguments, said):
    with pytest.raises(SystemExit, match=said):
        tool(["--root", str(tmp_path), *(word.format(tmp_path) for word in arguments)])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_ending_it_half_way_leaves_nothing(tmp_path, workers):
    command = [warm_python(), str(TOOL), "--root", str(tmp_path), "--train-ids", "2000", "--workers", workers]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=TOOL.parents[1])
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.jpg")):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 143 and "render_benchmark: stopped by SIGTERM" in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_two_at_once_render_it_once(tmp_path):
    few = "--train-ids 4 --test-ids 2 --images-per-id 4 --workers 1".split()
    command = [warm_python(), str(TOOL), "--root", str(tmp_path), *few]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("already there" in out for out, _ in said) == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["CARGO"]
