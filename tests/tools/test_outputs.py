"""A tool does not write over what it reads."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.report.fake_runs import write_runs
from tests.miniature import run_tool

REFUSED = "would be overwritten, but this command also reads it"


@pytest.fixture
def inputs(tmp_path):
    rows, ids = np.eye(4, dtype="f4"), {"pids": [0, 1, 0, 1], "camids": [0, 0, 1, 1]}
    np.savez(tmp_path / "q.npz", features=rows, **ids)
    np.save(tmp_path / "g.npy", rows)
    (tmp_path / "g.csv").write_text("pid,camid\n0,1\n1,1\n0,1\n1,1\n")
    (tmp_path / "link.json").symlink_to(tmp_path / "q.npz")
    torch.save({"model": {"w": torch.ones(3)}}, tmp_path / "old.pth")
    (tmp_path / "mine.yml").write_text("MODEL: {META_ARCHITECTURE: SDReIDStage2}\n")
    write_runs(tmp_path)
    for split, person in (("query", 1), ("query", 2), ("gallery", 1), ("gallery", 2)):
        folder = tmp_path / "people" / split / str(person)
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 16), (person, 0, 0)).save(folder / f"c{len(split)}_1.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "target"),
    [
        ("evaluate_features.py --query q.npz --gallery q.npz --output q.npz", "q.npz"),
        ("evaluate_features.py --query q.npz --gallery g.npy --output g.csv", "g.csv"),
        ("evaluate_features.py --query q.npz --gallery q.npz --output link.json", "q.npz"),
        ("convert_checkpoint.py old.pth old.pth --overwrite", "old.pth"),
        ("choose_view_weights.py --config-file mine.yml --output mine.yml", "mine.yml"),
        ("make_report.py stage1 --output r.html --results stage1/results.json", "stage1/results.json"),
        ("check_dataset.py folder:people --contact-sheet people/query/1/c5_1.jpg", "people/query/1/c5_1.jpg"),
    ],
)
def test_an_input_is_not_overwritten(inputs, command, target):
    before = (inputs / target).read_bytes()
    name, *words = command.split()
    with pytest.raises(SystemExit, match=REFUSED):
        run_tool(f"tools/{name}", *words, cwd=inputs)
    assert (inputs / target).read_bytes() == before


@pytest.mark.parametrize(
    "words", [("--output", "model.pth"), ("--results", "table.txt"), ("--output", "r.json", "--results", "x.json")]
)
def test_a_report_is_html_and_its_figures_are_json(inputs, words):
    with pytest.raises(SystemExit, match=r"the page is an \.html file, and the figures are a \.json file"):
        run_tool("tools/make_report.py", "stage1", *words, cwd=inputs)


def test_a_report_is_written_again(inputs):
    for _ in range(2):
        words = ("--output", "stage1/report.html", "--results", "stage1/report.json")
        run_tool("tools/make_report.py", "stage1", *words, cwd=inputs)
    assert set(json.loads((inputs / "stage1/report.json").read_text())) == {"stage1"}
