"""The content of the folder of a run, without times and paths, to compare two runs file by file."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

# Seconds; they differ from run to run.
TIMES = ("time", "data_time", "eta_seconds")
# Logs have times in every line, and the report has some; the lock file names a process.
LEFT_OUT = ("log.txt", "report.html", ".fastreid.lock", "events.out.tfevents")


def remains_of(folder: Path) -> dict[str, Any]:
    """Return {file name: content} of the folder of a run; the files of TensorBoard are one entry."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(LEFT_OUT))
    return {str(path.relative_to(folder)): _content(path) for path in paths} | {"TensorBoard": _scalars(folder)}


def _content(path: Path) -> Any:
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    if path.name == "metrics.json":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        return [{name: value for name, value in record.items() if name not in TIMES} for record in records]
    if path.name.startswith("manifest"):
        manifest = json.loads(path.read_text())
        del manifest["sessions"], manifest["config"]["OUTPUT_DIR"]
        return manifest
    if path.name == "config.yaml":
        return [line for line in path.read_text().splitlines() if not line.startswith("OUTPUT_DIR:")]
    return path.read_bytes()


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if name not in TIMES]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in sorted(names)}


def differences(
    found: dict[str, Any], expected: dict[str, Any], *, extra: Collection[str] = (), ignored: Collection[str] = ()
) -> list[str]:
    """Return the names of files that are missing in one of them, or differ.

    Args:
        extra: files that may be there in addition.
        ignored: fields of checkpoints and records that may differ.
    """
    names = sorted((found.keys() | expected.keys()) - set(extra))
    return [name for name in names if not _same(found.get(name), expected.get(name), ignored)]


def _same(one: Any, other: Any, ignored: Collection[str]) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
    if isinstance(one, dict) and isinstance(other, dict):
        names = (one.keys() | other.keys()) - set(ignored)
        return all(name in one and name in other and _same(one[name], other[name], ignored) for name in names)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b, ignored) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
