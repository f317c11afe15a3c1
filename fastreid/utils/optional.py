"""Optional packages: a warning is logged if one is missing or broken, and the run continues."""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

_logged: set[str] = set()


def optional(name: str, effect: str) -> ModuleType | None:
    """Import a module; log one warning and return None if it is missing or cannot be imported.

    Args:
        name: the module, such as "matplotlib.figure".
        effect: what the run goes on without, as "no plots are drawn".
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # broken or outdated packages may raise any error
        if name not in _logged:
            _logged.add(name)
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
    """TensorBoard's SummaryWriter, or a class with the same interface that writes nothing."""
    module = optional("torch.utils.tensorboard", "no TensorBoard files are written (metrics.json has the same numbers)")
    return _NoWriter if module is None else module.SummaryWriter


class _NoWriter:
    """A SummaryWriter that does nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None


def shield_diffusers() -> None:
    """Make models of diffusers importable if peft is broken; they need it for LoRA only.

    diffusers imports peft with each model if it is installed, and fails with its errors.
    """
    if "peft" in sys.modules:
        return
    try:
        importlib.import_module("peft")
    except ImportError:
        pass  # diffusers handles a missing package
    except Exception as error:
        logger.warning("the package peft is broken (%s: %s): LoRA cannot be trained", type(error).__name__, error)
    else:
        return
    from diffusers.utils import import_utils

    if hasattr(import_utils, "_peft_available"):
        import_utils._peft_available = False


def hide_loading_bars() -> None:
    """Let transformers and diffusers load and save without progress bars unless stderr is a terminal."""
    if sys.stderr.isatty():
        return
    for package in ("transformers", "diffusers"):
        importlib.import_module(f"{package}.utils.logging").disable_progress_bar()
