"""The report tool as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.evaluation.report.fake_runs import write_runs

TOOL = Path(__file__).parents[2] / "tools" / "make_report.py"


def run_tool(folder, cwd, *runs):
    arguments = {"--output": folder / "out" / "report.html", "--results": folder / "out" / "results.json"}
    runs = runs or ("--stage1", folder / "stage1", "--stage2", folder / "stage2")
    return subprocess.run(
        [sys.executable, TOOL, *map(str, runs), *(str(part) for pair in arguments.items() for part in pair)],
        cwd=cwd, capture_output=True, text=True, env={"PYTHONPATH": str(TOOL.parents[1])},
    )  # fmt: skip


def test_prints_the_table_and_writes_both_files(tmp_path):
    write_runs(tmp_path)
    done = run_tool(tmp_path, cwd="/")
    assert done.returncode == 0, done.stderr
    assert all(row in done.stdout for row in ("stage 1", "stage 2", "chance", "A↔G", "ALL"))
    assert set(json.loads((tmp_path / "out/results.json").read_text())) == {"stage1", "stage2"}
    assert (tmp_path / "out/report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_missing_run_is_one_sentence_not_a_traceback(tmp_path):
    done = run_tool(tmp_path, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "config.yaml is missing" in done.stderr and "train_net.py" in done.stderr
    assert not (tmp_path / "out").exists()


def test_runs_of_any_name_and_number(tmp_path):
    folders = write_runs(tmp_path)
    runs = [part for i in range(3) for part in ("--run", f"my run {i}={folders[i % 2]}")]
    done = run_tool(tmp_path, tmp_path, *runs)
    assert done.returncode == 0, done.stderr
    assert list(json.loads((tmp_path / "out/results.json").read_text())) == ["my run 0", "my run 1", "my run 2"]
    twice = run_tool(tmp_path, tmp_path, "--stage1", folders[0], "--run", f"stage1={folders[1]}")
    assert twice.returncode == 1 and "two runs have the same name: stage1, stage1" in twice.stderr
    wrong = run_tool(tmp_path, tmp_path, "--run", str(folders[0]))
    assert wrong.returncode == 2 and "is not NAME=FOLDER" in wrong.stderr
