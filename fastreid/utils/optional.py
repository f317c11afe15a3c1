"""Packages that the library can do without: one that is missing or broken costs a warning, not the run."""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

_said: set[str] = set()


def optional(name: str, effect: str) -> ModuleType | None:
    """Import a module; None, after one warning, if it is missing or cannot be imported.

    Args:
        name: as "matplotlib.figure".
        effect: what the run goes on without, as "no plots are drawn".
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a package with a broken binary, or of another time, raises anything
        if name not in _said:
            _said.add(name)
            why = "is not installed" if _is_missing(error, name) else f"is broken ({type(error).__name__}: {error})"
            package = name.partition(".")[0]
            logger.warning("the package %s %s: %s", "tensorboard" if "tensorboard" in name else package, why, effect)
        return None


def _is_missing(error: Exception, name: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in (
        name.partition(".")[0],
        "tensorboard",
    )


def summary_writer() -> type:
    """TensorBoard's SummaryWriter, or a class of its interface that writes nothing."""
    module = optional("torch.utils.tensorboard", "no TensorBoard files are written (metrics.json has the same numbers)")
    return _NoWriter if module is None else module.SummaryWriter


class _NoWriter:
    """Takes what a SummaryWriter takes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None


def shield_diffusers() -> None:
    """Let diffusers' models be imported though peft is broken; they need it for LoRA only.

    It looks whether peft is installed, and imports it, with its errors, wherever a model is imported.
    """
    if "peft" in sys.modules:
        return
    try:
        importlib.import_module("peft")
    except ImportError:
        pass  # what diffusers expects of one that is missing
    except Exception as error:
        logger.warning("the package peft is broken (%s: %s): LoRA cannot be trained", type(error).__name__, error)
    else:
        return
    from diffusers.utils import import_utils

    if hasattr(import_utils, "_peft_available"):
        import_utils._peft_available = False
