"""The random assets are made once, whoever asks for them, and however many at once."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "make_assets.py"


def test_two_at_once_end_well(tmp_path):
    command = [sys.executable, str(TOOL), "--size", "tiny", "--output", str(tmp_path / "assets")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("wrote random weights" in out for out, _ in said) == [False, True]
    assert any("nothing to do" in out for out, _ in said)
    assert sorted(path.name for path in (tmp_path / "assets").iterdir()) == ["assets.json", "scheduler", "unet", "vae"]
    assert [path.name for path in tmp_path.iterdir()] == ["assets"]
