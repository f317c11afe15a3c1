"""benchmarks/gpu.sh: it goes on after a failure, ends in time, and its sections run on a CPU."""

import os
import re
import shutil
import subprocess

import pytest

from fastreid.modeling.amp import cpu_has_bf16
from tests.miniature import ROOT
from tests.warm_python import warm_python


def run(folder, **variables):
    environment = os.environ | {"DEVICE": "cpu", "SIZE": "tiny"} | variables
    command = ["bash", str(folder / "benchmarks/gpu.sh"), str(folder / "out")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.fixture
def copied(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks/gpu.sh", tmp_path / "benchmarks")
    return tmp_path


def python_that(folder, command):
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return str(path)


def sections_of(done):
    return re.findall(r"^== (.*) \(at \d+ s\)$", done.stdout, re.MULTILINE)


def test_it_goes_on_after_a_failure(copied):
    done = run(copied, PYTHON=python_that(copied, "exit 3"), SIZE="true")
    sections = sections_of(done)
    assert len(sections) == 12 and sections[0] == "tests on a GPU" and done.returncode == 1
    broken = re.findall(r"^BROKEN (.*): exit status \d+$", done.stdout, re.MULTILINE)
    assert broken == sections * 2  # when it happens, and at the end
    assert (copied / "out/log.txt").read_text() == done.stdout


def test_all_sections_together_end_in_time(copied):
    done = run(copied, PYTHON=python_that(copied, '[ "$1" = -c ] || exec sleep 60'), LIMIT="6")
    assert done.returncode == 1 and "BROKEN tests on a GPU: it took more than" in done.stdout
    assert done.stdout.count("no time is left") == 2 * (len(sections_of(done)) - 1)
    assert 5 <= int(re.search(r"== all: (\d+) s, 0 figures", done.stdout)[1]) <= 60


FIGURES = {
    "a stopped and resumed run: equal tensors",
    "sampling, random-tiny, bf16: release / library, an image",
    "training, stage1: trainer / bare loop",
    "ranking, tiny 16-d, cpu: it / product",
    "labelling, tiny on cpu: labels and scores",
}
# A CPU that emulates bf16 has no such rate.
OF_BF16 = "sampling, random-tiny, bf16: library, share of the bf16 rate of products"


@pytest.mark.slow
def test_every_section_runs_on_a_cpu(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("benchmarks", "configs", "fastreid", "tests", "tools"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy(ROOT / "pyproject.toml", copy)
    done = run(copy, LIMIT="1400", PYTHON=warm_python())
    assert done.returncode == 0 and "BROKEN" not in done.stdout, done.stdout[-8000:] + done.stderr[-2000:]
    wanted = FIGURES | ({OF_BF16} if cpu_has_bf16() else set())
    assert wanted <= set(re.findall(r"^FIGURE (.*?) = ", done.stdout, re.MULTILINE))
