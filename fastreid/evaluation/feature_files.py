"""Descriptors that any program wrote, with the ids that scoring needs: npz, npy beside a csv, or safetensors."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from fastreid.utils.errors import UserError

NAMES = ("features", "pids", "camids")


class FeatureFileError(UserError, ValueError):
    """A file of descriptors that is missing, unreadable, or lacks what scoring needs."""


@dataclass(frozen=True)
class Features:
    """Descriptors [N, D] as they were stored (`rows` of an .npy file stay on disk), and ids [N]."""

    rows: np.ndarray | Tensor
    pids: np.ndarray
    camids: np.ndarray
    viewids: np.ndarray | None = None


def read_features(path: str | Path) -> Features:
    """Read arrays `features` [N, D], `pids` [N] and `camids` [N], and `viewids` [N] if there are any.

    From an .npz or .safetensors file with these names; or from an .npy file of the features alone, with the ids in a
    .csv file of the same name that has columns `pid` and `camid` (and `viewid`), one row per feature.

    Raises:
        FeatureFileError: saying what is missing or wrong.
    """
    path = Path(path)
    if path.suffix not in _READERS:
        raise FeatureFileError(f"{path}: features are read from {', '.join(_READERS)} files")
    if not path.is_file():
        raise FeatureFileError(f"no file {path}")
    try:
        arrays = _READERS[path.suffix](path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FeatureFileError(f"cannot read {path}: {error}") from error
    if missing := [name for name in NAMES if name not in arrays]:
        raise FeatureFileError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}, expected {', '.join(NAMES)}"
        )
    rows, pids, camids = (arrays[name] for name in NAMES)
    if rows.ndim != 2 or pids.shape != (len(rows),) or camids.shape != (len(rows),):
        raise FeatureFileError(
            f"{path}: features are {list(rows.shape)}, pids {list(pids.shape)}, camids {list(camids.shape)}; expected "
            "[N, D], [N] and [N]"
        )
    viewids = arrays.get("viewids")
    if viewids is not None and viewids.shape != (len(rows),):
        raise FeatureFileError(f"{path}: viewids are {list(viewids.shape)}, expected [{len(rows)}]")
    for name, ids in (("pids", pids), ("camids", camids), ("viewids", viewids)):
        if ids is not None and ids.dtype.kind not in "iu":
            raise FeatureFileError(f"{path}: {name} must be whole numbers, they are {ids.dtype}")
    return Features(rows, pids, camids, viewids)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    table = path.with_suffix(".csv")
    with open(table, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        if not {"pid", "camid"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{table} has columns {reader.fieldnames}, expected pid and camid")
        columns = [column for column in ("pid", "camid", "viewid") if column in reader.fieldnames]
        ids = [[int(row[column]) for column in columns] for row in reader]
    of_column = np.array(ids, dtype=np.int64).reshape(-1, len(columns)).T
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    return {"features": rows} | {f"{column}s": values for column, values in zip(columns, of_column, strict=True)}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(error) from error
    # NumPy has no bfloat16: such descriptors stay a tensor.
    return {name: tensor if tensor.dtype == torch.bfloat16 else tensor.numpy() for name, tensor in tensors.items()}


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".safetensors": _read_safetensors}
