"""Versions and devices of a run, seeds and states of random generators."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import random
import sys
from typing import Any

import numpy as np
import torch

logger = logging.getLogger(__name__)

_PACKAGES = (
    "fastreid", "numpy", "scipy", "torchvision", "timm", "diffusers", "peft", "transformers", "safetensors", "pillow",
    "yacs",
)  # fmt: skip


def collect_env() -> str:
    """Return a table of versions and devices, for the log and for bug reports."""
    from tabulate import tabulate

    return tabulate([*versions().items(), *devices()], tablefmt="plain")


def versions() -> dict[str, str]:
    """Versions of packages that a result may depend on, by name."""
    own = {"python": sys.version.split()[0], "platform": platform.platform(), "torch": str(torch.__version__)}
    return own | {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def devices() -> list[tuple[str, str]]:
    """CPU cores, torch threads and GPUs of this machine, as (name, value)."""
    rows = [("CPU cores", str(os.cpu_count())), ("torch threads", str(torch.get_num_threads()))]
    if not torch.cuda.is_available():
        return [*rows, ("CUDA", "no device")]
    rows += [("CUDA", str(torch.version.cuda)), ("cuDNN", str(torch.backends.cudnn.version()))]
    return rows + [(f"GPU {index}", torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_all_rng(seed: int | None = None) -> None:
    """Seed as `seed_everything` does; the function of fast-reid of this name.

    Args:
        seed: the seed; None for a random one.
    """
    seed_everything(int.from_bytes(os.urandom(4), "little") if seed is None else seed)


def make_deterministic() -> None:
    """Make torch use deterministic operations only; others raise an error.

    Call it before anything is computed: cuBLAS reads its setting when a device is first used.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


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
    """Restore what ``rng_state`` returned; CUDA states only if the number of devices is the same."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    elif state["cuda"]:
        logger.warning(
            "the checkpoint has the random states of %d GPUs, and torch sees %d here: those of GPUs start afresh, and "
            "the run differs from one that was not stopped",
            len(state["cuda"]), torch.cuda.device_count(),
        )  # fmt: skip
