"""Reading checkpoint files of any origin, safely, with errors that say what to do."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastreid.utils.errors import UserError
from fastreid.utils.seal import damage_in, is_sealed
from fastreid.utils.suggest import near_matches

State = dict[str, torch.Tensor]

_SHOWN = 5
_SAFE = ".safetensors"


class WeightsError(UserError, RuntimeError):
    """A checkpoint that is missing, unreadable, or does not fill what it must."""


def read_checkpoint(path: str | os.PathLike[str], *, lazily: bool = False) -> Any:
    """Return what a checkpoint file holds, tensors on the CPU, running no code from the file.

    A name that ends in .safetensors is read as such a file: names with tensors, nothing else. ``lazily`` leaves
    tensor data on disk until it is touched (there it always is). A file that this library wrote is compared with its
    checksum first, unless ``lazily``.

    Raises:
        WeightsError: no such file, not a checkpoint (or half of one), or one with objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(_no_such_file(path))
    if path.suffix == _SAFE:
        return _read_safetensors(path)
    if not lazily and is_sealed(path) and (wrong := damage_in(path)):
        raise WeightsError(f"{path} is damaged: {wrong}. Copy it again, or take another checkpoint")
    try:
        with torch.serialization.safe_globals(_harmless_types()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily or None)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a file of tensors and plain types: it is damaged, or holds other "
            f"Python objects, which are not loaded as they could run code ({_first_line(error)}). "
            f"If you trust who wrote it: python tools/convert_checkpoint.py --trust {path} NEW_FILE"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read as a checkpoint; it may be truncated, copy or train it again "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as a safetensors file; it may be truncated, or another kind of file under this "
            f"name ({_first_line(error)})"
        ) from error


def _harmless_types() -> list[Any]:
    """Containers and numbers that fast-reid's checkpoints hold beside tensors; making one runs no code of the file."""
    scalar = np.float64(0).__reduce__()[0]
    # NumPy moved its core: files name the old place.
    places = [scalar, (scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    return [*places, np.dtype, *kinds, Counter]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _no_such_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"no weights file {path}: the folder {path.parent} does not exist. Check MODEL.WEIGHTS"
    files = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".pth", ".pt", ".bin", _SAFE))
    near = near_matches(path.name, files) or files[:_SHOWN]
    there = f"the folder has {', '.join(near)}" if near else "the folder has no checkpoint"
    return f"no weights file {path}: {there}. Check MODEL.WEIGHTS, or run the training that writes it"


def state_dict_in(content: Any, path: str | os.PathLike[str]) -> State:
    """Find the state dict in a file: {"model": …}, {"state_dict": …} or bare; drop "module.".

    Raises:
        WeightsError: there is none.
    """
    if isinstance(content, dict):
        for key in ("model", "state_dict"):
            if isinstance(content.get(key), dict):
                content = content[key]
                break
    tensors = isinstance(content, dict) and bool(content)
    if not tensors or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(
            f"{path} holds no state dict: expected names with tensors, or a dict with them under 'model'"
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}
