"""What a result came from, in a file beside it: config, code, versions, machine, data, weights."""

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


def manifest_of(
    cfg: Any, splits: Mapping[str, Mapping[str, Iterable[Any]]], names: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What stays the same in all sessions of a run.

    Args:
        cfg: the config as it is used.
        splits: {data set: {split: images}}; an image has path, person, camera and view.
        names: {data set: {"people" or "cameras": {name: id}}} where names are not the ids themselves.
    """
    weights = {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS}
    if cfg.MODEL.BACKBONE.PRETRAIN:
        weights["MODEL.BACKBONE.PRETRAIN_PATH"] = cfg.MODEL.BACKBONE.PRETRAIN_PATH
    return {
        "format": FORMAT,
        "config": json.loads(json.dumps(cfg)),  # yacs nodes are dicts; tuples become lists
        "seed": cfg.MODEL.SEED,
        "weights": {key: {"path": path, "sha256": sha256_of(path)} for key, path in weights.items() if path},
        "datasets": {
            name: {split: fingerprint(images) for split, images in parts.items()} for name, parts in splits.items()
        },
        "names": dict(names or {}),
        "sessions": [],
    }


def session() -> dict[str, Any]:
    """What may differ when a run is resumed: when and how it was started, by which code, on which machine."""
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


def fingerprint(images: Iterable[Any]) -> dict[str, Any]:
    """Counts of a split, and a checksum of its images' names, people, cameras and views; pixels are not read.

    Names count from the folder that all of them are in, so that it does not matter where a data set lies.
    """
    images = list(images)
    names = names_of(images)
    lines = sorted(f"{name}\t{i.person}\t{i.camera}\t{int(i.view)}" for name, i in zip(names, images, strict=True))
    return {
        "images": len(images),
        "people": len({image.person for image in images}),
        "cameras": len({image.camera for image in images}),
        "views": len({int(image.view) for image in images}),
        "sha256": hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest(),
    }


def names_of(images: Iterable[Any]) -> list[str]:
    """Paths of images from the folder that all of them are in, so that it does not matter where a data set lies."""
    paths = [image.path for image in images]
    folders = {os.path.dirname(path) for path in paths}
    # Folders may be named from different starts; then they have nothing in common.
    common = os.path.commonpath(folders) if len({os.path.isabs(f) for f in folders}) == 1 else ""
    return [_name(path, common) for path in paths]


def _name(path: str, common: str) -> str:
    return Path(os.path.relpath(path, common) if common else path).as_posix()


def sha256_of(path: str | os.PathLike[str]) -> str | None:
    """Checksum of a file; None if it is not there."""
    path = Path(path).expanduser()
    if not path.is_file():
        return None
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum.update(block)
    return checksum.hexdigest()


def code_version() -> dict[str, Any]:
    """The library's version; of a git clone also its commit, and whether files of it were changed since."""
    root = Path(fastreid.__file__).resolve().parents[1]
    found: dict[str, Any] = {"version": versions()["fastreid"], "commit": None, "changed": None}
    # An installed package may lie below somebody else's clone.
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
    """A manifest of this format; None if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write it whole or not at all."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")
