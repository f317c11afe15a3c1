"""Reading checkpoint files of any program, without running code from them."""

from __future__ import annotations

import os
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastreid.utils.file_kind import is_torchscript, what_it_is
from fastreid.utils.seal import damage_in, is_sealed
from fastreid.utils.state_dicts import State, WeightsError, check_sizes, state_dict_in
from fastreid.utils.suggest import near_matches
from fastreid.utils.torchscript import read_torchscript

__all__ = ["State", "WeightsError", "read_checkpoint", "state_dict_in", "weights_file"]

_SHOWN = 5
_SAFE = ".safetensors"
# Names of a model's weights in a folder of the Hugging Face hub, the preferred one first.
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_REFUSED = re.compile(r"(?:Unsupported|Unsafe|disallowed|blocked) (?:global|class)\S* (?:GLOBAL )?(\S+)")
_REASON = re.compile(r"WeightsUnpickler error:[ \t]*(\S.*)")


def read_checkpoint(path: str | os.PathLike[str], *, lazily: bool = False) -> Any:
    """Return the content of a checkpoint file, tensors on the CPU, without running code from the file.

    A file that this library wrote is compared with its checksum first. Of a TorchScript archive only the tensors are
    read.

    Args:
        path: the file; if its name ends in .safetensors, it is read in that format.
        lazily: leave tensor data on disk until it is used, and skip the checksum.

    Raises:
        WeightsError: no such file, not a checkpoint, a part of one, one with other Python objects, or with tensors that
            claim more values than the file has.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(_no_such_file(path))
    if path.suffix == _SAFE:
        return _read_safetensors(path)
    if not lazily and is_sealed(path) and (wrong := damage_in(path)):
        raise WeightsError(f"{path} is damaged: {wrong}. Copy it again, or take another checkpoint")
    content = _load(path, lazily)
    check_sizes(content, path)
    return content


def weights_file(path: str | os.PathLike[str]) -> Path:
    """Return the file of weights in a folder of the Hugging Face hub; another path is returned as it is.

    Args:
        path: a file, or such a folder.
    """
    path = Path(path).expanduser()
    return next((path / name for name in _IN_FOLDERS if (path / name).is_file()), path)


def _load(path: Path, lazily: bool) -> Any:
    try:
        if is_torchscript(path):
            return read_torchscript(path)
        if found := what_it_is(path):
            raise WeightsError(f"{path} cannot be read as a checkpoint: {found}")
        with torch.serialization.safe_globals(_harmless_types()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily or None)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a file of tensors and plain types: it is damaged, or holds other "
            f"Python objects, which are not loaded as they could run code ({_refused_in(error)}). "
            f"If you trust who wrote it: python tools/convert_checkpoint.py --trust {path} NEW_FILE"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # unpickling a damaged file may raise anything
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
        found = what_it_is(path) if path.stat().st_size else None
        if found:
            raise WeightsError(f"{path} cannot be read as a safetensors file: {found}") from error
        raise WeightsError(
            f"{path} cannot be read as a safetensors file; it may be truncated, or another kind of file under this "
            f"name ({_first_line(error)})"
        ) from error


def _harmless_types() -> list[Any]:
    """Return types of containers and numbers in checkpoints; making them runs no code from the file."""
    scalar = np.float64(0).__reduce__()[0]
    # NumPy moved its core; files name the old module.
    places = [scalar, (scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    # A name in the files of Stable Diffusion 1, where it is the key of plain values; an empty class stands for it.
    callback = (type("ModelCheckpoint", (), {}), "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    return [*places, np.dtype, *kinds, Counter, callback]


def _first_line(error: BaseException) -> str:
    return (_TERMINAL_CODES.sub("", str(error)).splitlines() or [""])[0][:200]


def _refused_in(error: BaseException) -> str:
    """Return the object that torch refused to load, without the advice of torch to load it anyway."""
    if found := _REFUSED.search(str(error)):
        return f"{found[1]:.200} is not allowed"
    if found := _REASON.search(str(error)):
        return _TERMINAL_CODES.sub("", found[1])[:200]
    said = _first_line(error)
    return "it may be a plain pickle" if said.startswith("Weights only load failed") else said


def _no_such_file(path: Path) -> str:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".pth", ".pt", ".bin", _SAFE))
        there = f"name one of {', '.join(inside[:_SHOWN])} in it" if inside else "it has no checkpoint in it"
        return f"{path} is a folder, no weights file: {there}. Check MODEL.WEIGHTS"
    if not path.parent.is_dir():
        return f"no weights file {path}: the folder {path.parent} does not exist. Check MODEL.WEIGHTS"
    files = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".pth", ".pt", ".bin", _SAFE))
    near = near_matches(path.name, files) or files[:_SHOWN]
    there = f"the folder has {', '.join(near)}" if near else "the folder has no checkpoint"
    return f"no weights file {path}: {there}. Check MODEL.WEIGHTS, or run the training that writes it"
