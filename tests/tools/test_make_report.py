"""The report tool as a user runs it."""

import json
import os
import subprocess
from pathlib import Path

from tests.evaluation.report.fake_runs import write_runs
from tests.warm_python import warm_python

TOOL = Path(__file__).parents[2] / "tools" / "make_report.py"


def run_tool(folder, cwd, *runs):
    arguments = {"--output": folder / "out" / "report.html", "--results": folder / "out" / "results.json"}
    runs = runs or ("--stage1", folder / "stage1", "--stage2", folder / "stage2")
    return run_words(cwd, *runs, *(part for pair in arguments.items() for part in pair))


def run_words(cwd, *words):
    return subprocess.run(
        [warm_python(), TOOL, *map(str, words)],
        cwd=cwd, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(TOOL.parents[1])},
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
    assert twice.returncode == 1 and "two runs have the same name: stage1, stage1; give them names" in twice.stderr
    folders_only = run_tool(tmp_path, tmp_path, folders[1], "--run", f"other={folders[0]}", f"{folders[0]}/")
    assert folders_only.returncode == 0, folders_only.stderr
    assert list(json.loads((tmp_path / "out/results.json").read_text())) == ["stage2", "stage1", "other"]
    wrong = run_tool(tmp_path, tmp_path, "--run", str(folders[0]))
    assert wrong.returncode == 2 and "is not NAME=FOLDER" in wrong.stderr


def test_files_are_written_beside_the_first_run_by_default(tmp_path):
    write_runs(tmp_path)
    before = (tmp_path / "stage1/results.json").read_bytes()
    done = run_words(tmp_path / "stage2", ".", "../stage1")
    assert done.returncode == 0, done.stderr
    assert list(json.loads((tmp_path / "report.json").read_text())) == ["stage2", "stage1"]
    assert (tmp_path / "report.html").is_file() and "The report is in ../report.html" in done.stdout
    assert (tmp_path / "stage1/results.json").read_bytes() == before
    assert run_words(tmp_path, "stage1", "--output", "own/page.html").returncode == 0
    assert {path.name for path in (tmp_path / "own").iterdir()} == {"page.html", "page.json"}


def test_impossible_requests_are_one_sentence(tmp_path):
    write_runs(tmp_path)
    none = run_words(tmp_path)
    assert none.returncode == 1 and "a report needs at least one run" in none.stderr
    same = run_words(tmp_path, "stage1", "--output", "page.json")
    assert same.returncode == 1 and "cannot both be written to page.json; give another --results" in same.stderr
    assert not (tmp_path / "page.json").exists()


def test_a_damaged_config_is_not_what_it_is_written_again_with(tmp_path):
    write_runs(tmp_path)
    (tmp_path / "stage1/config.yaml").write_bytes(b"\xff\xfe\x00")
    done = run_tool(tmp_path, tmp_path)
    assert done.returncode == 1 and "write it again with" in done.stderr
    assert "--config-file CONFIG_OF_THE_RUN --resume" in done.stderr
