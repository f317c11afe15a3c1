"""A scratch copy of the repository in which everything runs on twelve rendered people for a few iterations."""

import contextlib
import functools
import io
import logging
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from fastreid.rendering import LAYOUTS, render_benchmark
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
SCRIPTS = tuple(path.name for path in ROOT.glob("*.sh"))
PEOPLE = {"train_ids": 8, "test_ids": 4, "images_per_id": 8}

# Arguments with which every training takes seconds; appended to a command, they override the others.
FEW_PEOPLE = [*(w for name, n in PEOPLE.items() for w in (f"--{name.replace('_', '-')}", str(n))), "--workers", "1"]
FEW_STEPS = shlex.split(
    "MODEL.DEVICE cpu SOLVER.MAX_EPOCH 2 SOLVER.IMS_PER_BATCH 16 SOLVER.CHECKPOINT_PERIOD 1 "
    "DATALOADER.NUM_WORKERS 0 TEST.IMS_PER_BATCH 32 TEST.REPORT False"
)
ADDED = {"tools/render_benchmark.py": FEW_PEOPLE}
ADDED |= dict.fromkeys(("tools/train_net.py", "tools/plain_train_net.py", "tools/transfer.py"), FEW_STEPS)
ADDED["tools/train_small_diffusion.py"] = shlex.split("--steps 2 --vae-steps 2 --text-steps 2 --batch 4")
# Filters keep all pictures of a generator that was hardly trained.
ADDED["tools/diffperson.py"] = [
    *shlex.split("MODEL.DEVICE cpu SOLVER.MAX_EPOCH 1 SOLVER.STEPS [] SOLVER.ITERS_PER_EPOCH 2 SOLVER.IMS_PER_BATCH 4"),
    *shlex.split("DIFFPERSON.DI.ARS_SIZE 3 DIFFPERSON.GEN.PER_ID 3 DIFFPERSON.GEN.STEPS 2 DIFFPERSON.GEN.BATCH 8"),
    *shlex.split("DIFFPERSON.FILTER.MARGIN -2 DIFFPERSON.FILTER.MIN_SHARPNESS 0 DIFFPERSON.FILTER.MAX_CORRELATION 1"),
    *("DIFFPERSON.FILTER.TAU_ID", "'-1'", "DIFFPERSON.FILTER.TAU_DUP", "'2'"),
]

# Stands for the Python of the environment in a scratch copy: records its calls, installs nothing, adds arguments.
_PYTHON = """#!/usr/bin/env bash
echo "$*" >>{log}
case "$1" in
  -c) exec {python} "$@" ;;
  -m) case "$2" in fastreid.*) exec {python} "$@" ;; esac; exit 0 ;;
esac
case "$ON_TOOL" in
  note) exit 0 ;;
  fail) exit 3 ;;
  interrupt) kill -INT $PPID; exit 130 ;;
esac
case "$1" in
{cases}
esac
exec {python} "$@"
"""


@dataclass(frozen=True)
class Scratch:
    """A folder with the scripts, tools and configs of the repository, and a Python that records its calls."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ".venv/bin/python"

    def calls(self) -> list[str]:
        """Return the calls of Python since the last call of this method."""
        log = self.folder / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def script(self, name: str, *words: str, on_tool: str = "run") -> subprocess.CompletedProcess[str]:
        """Run one of the shell scripts from another folder.

        Args:
            name: path of the script below the scratch copy.
            *words: its arguments.
            on_tool: "run" the tools in small, only "note" their calls, let them "fail", or "interrupt" the script.
        """
        environment = {"PYTHON_BIN": str(self.python), "PYTHONPATH": str(ROOT), "ON_TOOL": on_tool}
        command = [str(self.folder / name), *words]
        return subprocess.run(command, cwd="/", env=os.environ | environment, capture_output=True, text=True)

    def tool(self, name: str, *words: str) -> str:
        """Run `tools/…` in this process and in this folder, and return its output; imports are shared between calls."""
        return run_tool(name, *words, cwd=self.folder)


def make_scratch(folder: Path) -> Scratch:
    """Make a scratch copy in the new `folder`."""
    folder.mkdir(parents=True)
    for name in ("fastreid", "tools", "configs", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "go", folder / "go")
    for name in (*SCRIPTS, "setup.py", "pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder)
    scratch = Scratch(folder)
    scratch.python.parent.mkdir(parents=True)
    cases = "\n".join(f'  {tool}) set -- "$@" {shlex.join(words)} ;;' for tool, words in ADDED.items())
    log, python = shlex.quote(str(folder / "calls.log")), shlex.quote(warm_python())
    scratch.python.write_text(_PYTHON.format(log=log, python=python, cases=cases))
    scratch.python.chmod(0o755)
    return scratch


@functools.cache
def finished_quickstart(base: Path) -> tuple[Scratch, subprocess.CompletedProcess[str]]:
    """Return a scratch copy in which ./quickstart.sh has run, with its output; made once for each `base`."""
    scratch = make_scratch(base / "quickstart")
    return scratch, scratch.script("quickstart.sh")


@functools.cache
def rendered(base: Path, *names: str) -> Path:
    """Return a data root with a tiny version of these benchmarks, or of all.

    It is below the temporary folder of the tests, of which each process of pytest-xdist has a part, `base`; the
    processes share it, and must not change it.
    """
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "rendered"
    for name in names or LAYOUTS:
        render_benchmark(root, name, workers=1, **PEOPLE)
    return root


def run_tool(name: str, *words: str, cwd: Path) -> str:
    """Run a tool as from a shell in `cwd`, but in this process, and return its output.

    Raises:
        SystemExit: with the error message of the tool.
    """
    logger, said = logging.getLogger("fastreid"), io.StringIO()
    handlers, level = list(logger.handlers), logger.level
    try:
        with (
            _working_in(cwd),
            mock.patch.object(sys, "argv", [name, *words]),
            mock.patch.object(sys, "path", [str((ROOT / name).parent), *sys.path]),  # as Python does for a script
            contextlib.redirect_stdout(said),
        ):
            runpy.run_path(str(ROOT / name), run_name="__main__")
    finally:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
    return said.getvalue()


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
