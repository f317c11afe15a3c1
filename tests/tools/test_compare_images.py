"""tools/compare_images.py: distances, the threshold of the run, and runs without one."""

import json
import math
import shutil

import pytest
from PIL import Image

from fastreid.utils.manifest import EVALUATION, FORMAT, write_manifest
from tests.miniature import run_tool


@pytest.fixture
def run(people, tmp_path):
    """A folder with a checkpoint and three images, of which the first two are equal."""
    shutil.copy(people / "out/model_final.pth", tmp_path)
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        picture = Image.new("RGB", (32, 64), colour)
        picture.paste("white", (0, 0, 16, 20 if name == "c" else 40))
        picture.save(tmp_path / f"{name}.png")
    return tmp_path


def write_thresholds(folder, threshold):
    point = {"choice": "false matches <= 1 %", "threshold": threshold, "true_match_rate": 61.7}
    (folder / "thresholds.json").write_text(json.dumps({"Mine": {"points": [point]}}))


def compare(folder, *words):
    return run_tool("tools/compare_images.py", "model_final.pth", "a.png", "b.png", "c.png", *words, cwd=folder)


def test_distances_without_a_threshold(run):
    said = compare(run)
    lines = [line.split() for line in said.splitlines()]
    assert lines[2][0] == "b.png" and float(lines[2][1]) == pytest.approx(0, abs=1e-3)
    assert lines[3][0] == "c.png" and float(lines[3][1]) > 1e-3
    assert "No threshold is known: thresholds.json" in said and "same person?" not in said


def test_the_threshold_of_the_run_decides(run):
    write_thresholds(run, 1e-3)
    said = compare(run)
    assert [line.split()[-1] for line in said.splitlines()[2:4]] == ["yes", "no"]
    assert (
        "The threshold is 0.001: at most 1 % of pairs of two people are nearer, and 62 % of pairs of one person" in said
    )
    assert "(Mine of thresholds.json)" in said


def test_no_pair_is_judged_where_there_is_no_threshold(run):
    write_thresholds(run, None)
    said = compare(run)
    assert [line.split()[-2:] for line in said.splitlines()[2:4]] == [["not", "known"]] * 2
    assert "no threshold at which at most 1 % of pairs" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "Other"], "has no protocol 'Other'; it has Mine"),
        (["--false-matches", "5"], "cannot read a threshold from .*thresholds.json"),
    ],
)
def test_a_threshold_that_is_not_there(run, words, message):
    write_thresholds(run, 0.5)
    with pytest.raises(SystemExit, match=message):
        compare(run, *words)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"metric": "euclidean"}, "are euclidean distances, and the checkpoint has TEST.METRIC cosine"),
        ({"metric": "cosine", "changed_by": ["TEST.RERANK"]}, r"depend on the whole gallery \(TEST.RERANK\)"),
    ],
)
def test_thresholds_of_other_distances_are_refused(run, facts, message):
    write_thresholds(run, 0.5)
    found = json.loads((run / "thresholds.json").read_text())
    (run / "thresholds.json").write_text(json.dumps({"Mine": found["Mine"] | facts}))
    with pytest.raises(SystemExit, match=message):
        compare(run)


POINT = {"choice": "false matches <= 1 %", "threshold": 0.5, "true_match_rate": 61.7}
NO_POINT = "cannot read a threshold from M in .*it does not have the point 'false matches <= 1 %' with a threshold"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, "cannot read a threshold from .* is not JSON") for text in ("{", "", "[" * 100_000)),
        *((text, "has no thresholds of a protocol: evaluate again") for text in ("[]", "{}", "3")),
        *((json.dumps({"M": found}), NO_POINT) for found in ([], {}, {"points": 3}, {"points": [3]}, {"points": []})),
        *(
            (json.dumps({"M": {"points": [POINT | wrong]}}), NO_POINT)
            for wrong in (
                {"threshold": "x"},
                {"threshold": 10**400},
                {"threshold": math.nan},
                {"threshold": True},
                {"true_match_rate": None},
                {"true_match_rate": 150},
            )
        ),
        (json.dumps({"M": {"changed_by": 3}}), r"depend on the whole gallery \(3\)"),
    ],
)
def test_a_broken_file_of_thresholds(run, text, message):
    (run / "thresholds.json").write_text(text)
    with pytest.raises(SystemExit, match=message):
        compare(run)


@pytest.mark.parametrize("config", [[], {"MODEL": 3}, {"MODEL": {"WEIGHTS": 3}}])
def test_a_damaged_manifest_raises_no_doubt(run, config):
    write_thresholds(run, 1e-3)
    write_manifest(run / EVALUATION, {"format": FORMAT, "config": config})
    (run / "last_evaluation.json").write_text("[" * 100_000)
    assert "The threshold is 0.001" in compare(run)


def test_thresholds_of_another_checkpoint_are_not_taken(run):
    write_thresholds(run, 1e-3)
    record = {"iteration": 600, "epoch": 1, "best_metric": None, "best_iteration": None}
    (run / "last_evaluation.json").write_text(json.dumps(record))
    said = compare(run)
    assert "may be of iteration 600, and model_final.pth is of iteration" in said and "same person?" not in said
    said = compare(run, "--thresholds", "thresholds.json")
    assert "The threshold is 0.001" in said
    (run / "last_evaluation.json").unlink()
    config = {"MODEL": {"WEIGHTS": "logs/model_best.pth"}}
    write_manifest(run / EVALUATION, {"format": FORMAT, "config": config, "sessions": []})
    assert "may be of model_best.pth, which was evaluated in this folder" in compare(run)
