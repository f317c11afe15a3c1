"""OpenMP's waiting threads spin for a limited time wherever fastreid is imported first; the user's choice wins."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastreid.utils.threads import SPIN_COUNT

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    path
    for path in sorted([*ROOT.glob("tools/*.py"), *ROOT.glob("benchmarks/*.py")])
    if "__main__" in path.read_text(encoding="utf-8")
]
LOAD_OPENMP = {"torch", "torchvision", "timm", "diffusers", "peft", "sklearn"}


def spin_count_of(script: str, **variables: str) -> list[str]:
    """What GNU's OpenMP says that it uses, once for each process that loads it."""
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    environment = kept | {"OMP_DISPLAY_ENV": "verbose", **variables}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return [line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch uses GNU's OpenMP on Linux only")
@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, str(SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
    ],
)
def test_openmp_takes_the_limit_unless_the_user_chose(variables, count):
    assert spin_count_of("import fastreid, torch", **variables)[:1] == [count]


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch uses GNU's OpenMP on Linux only")
def test_processes_that_are_started_later_inherit_it():
    child = "import subprocess, sys; import torch, fastreid; subprocess.run([sys.executable, '-c', 'import torch'])"
    assert spin_count_of(child)[-1] == str(SPIN_COUNT)


def first_import(script: Path) -> str:
    """The first of fastreid and what loads OpenMP, also through another script beside it; "" if there is none."""
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in (name.partition(".")[0] for name in names):
            beside = script.with_name(f"{name}.py")
            if found := name if name in LOAD_OPENMP | {"fastreid"} else beside.exists() and first_import(beside):
                return found
    return ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_scripts_import_fastreid_before_anything_that_loads_openmp(script):
    assert first_import(script) in ("", "fastreid")
