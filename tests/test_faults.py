"""Runs that are killed, stopped, or have a damaged checkpoint end with the same files as undisturbed runs."""

import re
import subprocess
import sys

import pytest

from tests.miniature import ROOT


@pytest.mark.slow
def test_faults_lose_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/faults.py"), "--kills", "2", "--others", "1"]
    command += ["--folder", str(tmp_path), "INPUT.SIZE_TRAIN", "[64, 32]", "INPUT.SIZE_TEST", "[64, 32]"]
    command += ["--stages", "stage2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(stage[12]) .* (\d+)  +(\d+) of (\d+)  +(\S.*)$", done.stdout, re.MULTILINE)
    assert len(rows) >= 19
    assert all(same == of and lost == "nothing" for _, _, same, of, lost in rows), done.stdout
