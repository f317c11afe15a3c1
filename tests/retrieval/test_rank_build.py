"""Installing without a working C compiler warns and succeeds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("setup.py", "pyproject.toml", "requirements.txt", "fastreid/__init__.py")
SOURCES = ("fastreid/retrieval/rank_cylib", "fastreid/data/resize_cylib")


@pytest.fixture
def copy(tmp_path):
    """Return a copy of the files that building the extension needs."""
    pytest.importorskip("Cython", reason="the extension is compiled through Cython")
    for name in NEEDED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "*.c", "__pycache__")
    for source in SOURCES:
        shutil.copytree(ROOT / source, tmp_path / source, ignore=compiled)
    return tmp_path


def test_without_a_compiler_the_build_warns_and_succeeds(copy):
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=copy, env=os.environ | {"CC": "no-such-compiler"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for module in ("fastreid.retrieval.rank_cylib.rank_cy", "fastreid.data.resize_cylib.resize_cy"):
        assert f'building extension "{module}" failed' in done.stderr
    assert not list(copy.rglob("*_cy*.so"))
