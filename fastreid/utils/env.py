"""The machine a run happened on, and the seeds it started from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import sys
from typing import Any

import numpy as np
import torch

_PACKAGES = ("fastreid", "numpy", "torchvision", "timm", "diffusers", "peft", "pillow", "yacs")


def collect_env() -> str:
    """Return a table of versions and devices, for the log and for bug reports."""
    from tabulate import tabulate

    rows = [("python", sys.version.split()[0]), ("platform", platform.platform())]
    rows += [("torch", torch.__version__), ("torch threads", str(torch.get_num_threads()))]
    rows += [(package, _version(package)) for package in _PACKAGES]
    rows += _devices()
    return tabulate(rows, tablefmt="plain")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[tuple[str, str]]:
    rows = [("CPU cores", str(os.cpu_count()))]
    if not torch.cuda.is_available():
        return [*rows, ("CUDA", "no device")]
    rows += [("CUDA", str(torch.version.cuda)), ("cuDNN", str(torch.backends.cudnn.version()))]
    return rows + [(f"GPU {index}", torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the states of all generators of this process as tensors and plain types."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what ``rng_state`` returned; CUDA states only if as many devices are here."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
