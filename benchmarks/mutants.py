#!/usr/bin/env python
"""Mutation testing: counts how many small changes of the most important modules the tests detect.

    python benchmarks/mutants.py [--each 12] [--seed 0] [MODULE …]

A change is one that cosmic-ray makes: a comparison turned, a sign, a number, a boolean, a loop that never runs. Of each
module as many are drawn as --each says. The tests of the module's own file (tests mirror the package) run first; if
they pass, all tests of that folder. A change that both pass is listed with its line: a test is missing, or the change
changes nothing.

The repository is copied, so that nothing here is touched. Each change runs in a fork of a process that has imported the
heavy packages, which takes a second instead of ten.
"""

import argparse
import difflib
import functools
import itertools
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
# Figures, losses, samplers and checkpoints: wrong numbers in them are hard to see.
MODULES = (
    "retrieval/*.py",
    "evaluation/breakdown.py", "evaluation/protocols.py", "evaluation/rank.py", "evaluation/roc.py",
    "evaluation/scoring.py", "evaluation/single_shot.py", "evaluation/statistics.py",
    "modeling/losses/*.py", "modeling/diffusion/noise.py", "modeling/diffusion/schedule.py",
    "modeling/diffusion/guidance.py", "modeling/diffusion/sampling.py", "methods/sd_reid/targets.py",
    "data/samplers/*.py",
    "utils/checkpoint.py", "utils/checkpoint_file.py", "utils/seal.py", "utils/weights.py",
)  # fmt: skip
OPERATORS = (
    "Replace", "NumberReplacer", "AddNot", "ZeroIterationForLoop",
)  # fmt: skip
# Changes of annotations (X | None), or that are unlikely mistakes.
LEFT_OUT = ("BitOr", "BitAnd", "BitXor", "Shift", "Invert", "Is", "Pow", "FloorDiv", "Mod")
# The mark of keyword-only arguments is not a multiplication.
SIGNATURE_STAR = re.compile(r"[(,]\s*\*")
# A change that makes the tests much slower is detected.
TIMES_SLOWER, MORE_SECONDS = 3, 30


@dataclass(frozen=True)
class Mutant:
    """The source of a module with one change."""

    module: Path
    source: str

    def difference(self, original: str) -> str:
        """The changed lines with their numbers."""
        lines = difflib.unified_diff(original.splitlines(), self.source.splitlines(), lineterm="", n=0)
        return " | ".join(" ".join(line.split()) for line in list(lines)[2:])


def mutants_of(module: Path) -> Iterator[Mutant]:
    """All changes of a module, in a fixed order."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = module.read_text(encoding="utf-8")
    for name in sorted(operator_names()):
        kind = name.partition("/")[2]
        if not kind.startswith(OPERATORS) or any(word in kind for word in LEFT_OUT):
            continue
        operator = get_operator(name)()
        for occurrence in itertools.count():
            if (mutated := mutate_code(source, operator, occurrence)) is None:
                break
            if len(SIGNATURE_STAR.findall(mutated)) == len(SIGNATURE_STAR.findall(source)):
                yield Mutant(module, mutated)


def tests_of(module: Path, root: Path) -> list[str]:
    """The tests to run in this order: those of the module, then those of its folder."""
    folder = root / "tests" / module.relative_to(root / "fastreid").parent
    own = folder / f"test_{module.stem.removeprefix('_')}.py"
    return [str(path) for path in (own, folder) if path.exists()]


def is_noticed(mutant: Mutant, root: Path) -> bool:
    """Whether a test fails with the changed module, or takes far longer than without the change."""
    original = mutant.module.read_text(encoding="utf-8")
    for tests in tests_of(mutant.module, root):
        limit = TIMES_SLOWER * seconds_of(tests, root) + MORE_SECONDS
        try:
            mutant.module.write_text(mutant.source, encoding="utf-8")
            if not passes(tests, root, limit):
                return True
        finally:
            mutant.module.write_text(original, encoding="utf-8")
    return False


@functools.cache
def seconds_of(tests: str, root: Path) -> float:
    """Return how long the tests take without a change.

    Raises:
        SystemExit: they fail.
    """
    start = time.monotonic()
    if not passes(tests, root, math.inf):
        sys.exit(f"mutants: {tests} fails without any change")
    return time.monotonic() - start


def passes(tests: str, root: Path, limit: float) -> bool:
    """Whether pytest passes in a fork of this process, within a number of seconds."""
    child = os.fork()
    if not child:
        run_tests(tests, root)
    return wait_for(child, limit) == 0


def run_tests(tests: str, root: Path) -> None:
    """Run pytest and end the process with its exit code."""
    import pytest

    os.setpgid(0, 0)  # processes that a test has started are ended with it
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.chdir(root)
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", tests])
    os._exit(0 if code in (0, 5) else 1)  # 5: no tests


def wait_for(child: int, limit: float) -> int:
    """Return the exit code of a process; after `limit` seconds it is killed with its group."""
    deadline = time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -1
        time.sleep(0.02)


def copy_of_repository(folder: Path) -> Path:
    """Copy the package with its compiled modules, and the tests."""
    target = folder / "copy"
    for name in ("fastreid", "tests", "tools", "configs", "benchmarks", "docs", "go"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, target)
    return target


def import_heavy_packages(root: Path) -> None:
    """Import what every test needs, but no module that is changed."""
    sys.dont_write_bytecode = True  # a changed file may have the same time and size
    os.environ.update(PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    sys.path.insert(0, str(root))
    import diffusers  # noqa: F401
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn  # noqa: F401
    import timm
    import torch  # noqa: F401
    import torchvision  # noqa: F401

    assert timm and not any(name.partition(".")[0] == "fastreid" for name in sys.modules)


def main() -> None:
    """Parse the command line, try the changes, and print the table and undetected changes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "modules", nargs="*", default=MODULES, metavar="MODULE", help="below fastreid/; * is understood"
    )
    parser.add_argument("--each", type=int, default=12, help="changes per module; 0 tries all")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    args = parser.parse_args()
    for name in args.modules:
        if not list((ROOT / "fastreid").glob(name)):
            parser.error(f"there is no module fastreid/{name}")
    with tempfile.TemporaryDirectory() as folder:
        root = copy_of_repository(Path(folder))
        import_heavy_packages(root)
        paths = [path for name in args.modules for path in sorted((root / "fastreid").glob(name))]
        rows, missed = [], []
        for module in (path for path in paths if path.name != "__init__.py"):
            original, found = module.read_text(encoding="utf-8"), list(dict.fromkeys(mutants_of(module)))
            if args.each:
                found = random.Random(f"{args.seed} {module.name}").sample(found, min(args.each, len(found)))
            name = module.relative_to(root).as_posix()
            unnoticed = [mutant.difference(original) for mutant in found if not is_noticed(mutant, root)]
            missed += [f"{name}: {text}" for text in unnoticed]
            rows.append((name, len(found), len(found) - len(unnoticed)))
            print(f"{name}: {len(found) - len(unnoticed)} of {len(found)} noticed", flush=True)
            print("\n".join(f"    {text}" for text in unnoticed), flush=True)
    tried, noticed = sum(row[1] for row in rows), sum(row[2] for row in rows)
    print(tabulate([*rows, ("all", tried, noticed)], headers=["module", "changes", "noticed"]))
    print(f"{noticed / max(tried, 1):.1%} noticed; not noticed:\n" + "\n".join(missed))


if __name__ == "__main__":
    main()
