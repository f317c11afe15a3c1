"""The manifest file, and its facts about a process: when, how and on which machine it was started, by which code."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import fastreid
from fastreid.utils import comm
from fastreid.utils.env import devices, versions
from fastreid.utils.files import atomic_write

TRAINING, EVALUATION = "manifest.json", "manifest_evaluation.json"
FORMAT = 1


def now() -> str:
    """The time in UTC, as ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def session() -> dict[str, Any]:
    """What may differ when a run is resumed: time, command, code, versions and machine."""
    return {
        "started": now(),
        "ended": None,
        "status": "running",
        "command": [sys.executable, *sys.argv],
        "folder": os.getcwd(),
        "code": code_version(),
        "versions": versions(),
        "devices": dict(devices()),
        "processes": comm.get_world_size(),
        "torch_seed": torch.initial_seed(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def sha256_of(path: str | os.PathLike[str]) -> str | None:
    """Checksum of a file; None if there is no such file."""
    path = Path(path).expanduser()
    if not path.is_file():
        return None
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum.update(block)
    return checksum.hexdigest()


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def code_version() -> dict[str, Any]:
    """The version of the library; in a git clone also its commit, and whether tracked files were changed since."""
    root = Path(fastreid.__file__).resolve().parents[1]
    found: dict[str, Any] = {"version": versions()["fastreid"], "commit": None, "changed": None}
    # An installed package may lie in the clone of another project.
    if _git(root, "rev-parse", "--show-toplevel") == str(root):
        found["commit"] = _git(root, "rev-parse", "HEAD")
        found["changed"] = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return found


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest of this format; None if there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest completely or not at all."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")
