"""The manifest file, and its facts about a process: when, how and on which machine it was started, by which code."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
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
_PIECE, _PIECES = 2**18, 64  # bytes; files of up to 16 MiB are read as a whole


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


def mark_of(path: str | os.PathLike[str], parts: Sequence[str] = ()) -> str | None:
    """Checksum of the names, sizes and contents of files; of large files, of pieces all over them.

    It tells the weights of one model from those of another in seconds, and is no protection against a few changed
    bytes.

    Args:
        path: a file, or a folder with all files below it.
        parts: only these folders in it.

    Returns:
        The checksum; None if there is no such file or folder.
    """
    path = Path(path).expanduser()
    if path.is_file():
        files = [path]
    else:
        folders = [path / part for part in parts] or [path]
        files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    if not files:
        return None
    return digest(f"{file.relative_to(path).as_posix()} {_mark_of_file(file)}" for file in files)


def _mark_of_file(path: Path) -> str:
    size, checksum = path.stat().st_size, hashlib.sha256()
    step = max(_PIECE, size // _PIECES)
    starts = [*range(0, size, step), *([size - _PIECE] if step > _PIECE else [])]
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            checksum.update(file.read(_PIECE))
    return f"{size} {checksum.hexdigest()}"


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
