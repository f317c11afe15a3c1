"""Descriptors that any program wrote, with the ids that scoring needs: npz, npy beside a csv, or safetensors."""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from fastreid.evaluation.feature_ids import read_ids
from fastreid.retrieval.descriptors import FeatureError, rows_on_cpu
from fastreid.utils.errors import sentence_of
from fastreid.utils.file_kind import what_it_is
from fastreid.utils.names import is_canonical, number_names

logger = logging.getLogger(__name__)

NAMES = ("features", "pids", "camids")
_JUNK = "-1"
_ONLY_JUNK, _VIEWS = "below 0 there is only -1, for junk", "views are whole numbers, 0 or more"
_SHOWN = 5
_WANTED = "a file that numpy.savez, numpy.save or safetensors wrote"
_DECIMAL = re.compile(r"[+-]?[0-9]+\.0*")


class FeatureFileError(FeatureError):
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
        FeatureFileError: saying what is missing or wrong; people or cameras have names, which `read_feature_pair`
            reads.
    """
    features = _read(Path(path).expanduser())
    for name in ("pids", "camids"):
        ids = getattr(features, name)
        if ids.dtype.kind == "U" and (names := sorted(name for name in set(ids.tolist()) if not _is_number(name))):
            raise FeatureFileError(
                f"{path}: {name} has names, such as {names[0]!r}: the same name must get the same id in query and "
                "gallery, so read both files together (fastreid.evaluation.feature_files.read_feature_pair)"
            )
    return _numbered([features], [path])[0]


def read_feature_pair(query: str | Path, gallery: str | Path) -> tuple[Features, Features]:
    """Read the files of both sides as `read_features` does; people and cameras may have names in them.

    Names that differ as text are different; if all of both files are whole numbers, they are the ids. A warning names
    values that are none among others that are. Person -1 is junk, as always.

    Raises:
        FeatureFileError: saying what is missing or wrong.
    """
    paths = query, gallery
    first, second = _numbered([_read(Path(path).expanduser()) for path in paths], paths)
    return first, second


def _is_number(name: str) -> bool:
    return is_canonical(name) or name == _JUNK


def _read(path: Path) -> Features:
    """As stored: ids are whole numbers, or names."""
    if path.suffix not in _READERS:
        raise FeatureFileError(f"{path}: features are read from {', '.join(_READERS)} files")
    if not path.is_file():
        raise FeatureFileError(f"no file {path}")
    try:
        arrays = _READERS[path.suffix](path)
        rows = rows_on_cpu(arrays["features"]) if "features" in arrays else None
    except FeatureFileError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise whatever the bytes led them to
        raise FeatureFileError(f"cannot read {path}: {_reason(path, error)}") from error
    if missing := [name for name in NAMES if name not in arrays]:
        raise FeatureFileError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}, expected {', '.join(NAMES)}"
        )
    _check_shapes(path, rows, arrays)
    ids = {name: _ids(path, name, arrays[name]) for name in ("pids", "camids", "viewids") if name in arrays}
    return Features(rows, **ids)


def _reason(path: Path, error: Exception) -> str:
    """Why a file could not be read; NumPy's own message advises to load what it does not know as a pickle."""
    if sentence := sentence_of(error):
        return sentence
    if isinstance(error, MemoryError) or getattr(error, "errno", None):
        return str(error) or type(error).__name__
    found = what_it_is(path, _WANTED)
    if found and f"({path.suffix})" not in found:
        return found
    if isinstance(error, zipfile.BadZipFile | zlib.error | EOFError):
        return f"it is damaged, or was cut off ({error}): copy or download it again"
    if "pickle" in str(error):
        return (
            f"it is no {path.suffix} file: it is damaged, or holds Python objects (a pickle), which are not read, as "
            f"they may run code; give {_WANTED}"
        )
    return str(error) or type(error).__name__


def _check_shapes(path: Path, rows: np.ndarray | Tensor, arrays: Mapping[str, np.ndarray]) -> None:
    shapes = {name: list(arrays[name].shape) for name in ("pids", "camids", "viewids") if name in arrays}
    if rows.ndim != 2 or any(shape != [len(rows)] for shape in shapes.values()):
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise FeatureFileError(
            f"{path}: features are {list(rows.shape)}, {said}; expected [N, D] for features and [N] for ids"
        )
    if not len(rows) or not rows.shape[1]:
        raise FeatureFileError(f"{path} holds no features: they are {list(rows.shape)}")


def _ids(path: Path, name: str, ids: np.ndarray | Tensor) -> np.ndarray:
    """Ids as whole numbers, or, of people and cameras, as names."""
    ids = np.asarray(ids)
    if ids.dtype.kind in "iu":
        if ids.size and int(ids.max()) > np.iinfo(np.int64).max:
            raise FeatureFileError(f"{path}: {name} has {int(ids.max())}; ids are at most {np.iinfo(np.int64).max}")
        _refuse_negative(path, name, ids)
        return ids
    if ids.dtype.kind != "U":
        raise FeatureFileError(f"{path}: {name} must be whole numbers or names, they are {ids.dtype}")
    for row, value in enumerate(ids.tolist()):
        if problem := _problem_with(name, value):
            raise FeatureFileError(f"{path}: row {row} of {name} {problem}")
    return ids.astype(np.int64) if name == "viewids" else ids


def _refuse_negative(path: Path, name: str, ids: np.ndarray) -> None:
    """Raises: FeatureFileError for what a table may not have either, as it would be scored as a person or a view."""
    least, rule = {"pids": (-1, _ONLY_JUNK), "viewids": (0, _VIEWS)}.get(name, (None, ""))
    if least is not None and (wrong := np.flatnonzero(ids < least)).size:
        raise FeatureFileError(f"{path}: row {wrong[0]} of {name} is {ids[wrong[0]]}; {rule}")


def _problem_with(name: str, value: str) -> str | None:
    if not value:
        return "is empty"
    if _DECIMAL.fullmatch(value):
        return f"is {value!r}, a number with a decimal point; write {value.partition('.')[0]} (as pandas does with int)"
    if name == "pids" and re.fullmatch(r"-[0-9]+", value) and value != _JUNK:
        return f"is {value!r}; {_ONLY_JUNK}"
    if name == "viewids" and not is_canonical(value):
        return f"is {value!r}; {_VIEWS}"
    return None


def _numbered(sides: list[Features], paths: Sequence[str | Path]) -> list[Features]:
    """The same with ids for names, from one map for all sides, which `paths` are of."""
    for name, junk in (("pids", _JUNK), ("camids", None)):
        columns = [getattr(side, name) for side in sides]
        if any(ids.dtype.kind == "U" for ids in columns):
            _warn_of_odd(name, columns, paths)
            table = number_names({str(value) for ids in columns for value in ids.tolist()}, junk)
            columns = [_looked_up(ids.tolist(), table) for ids in columns]
            sides = [replace(side, **{name: ids}) for side, ids in zip(sides, columns, strict=True)]
    return sides


def _warn_of_odd(name: str, columns: Sequence[np.ndarray], paths: Sequence[str | Path]) -> None:
    """Tell of values, such as `1_0` or `nan`, because of which numbers are read as names."""
    values = [sorted({str(value) for value in ids.tolist()}) for ids in columns]
    if not any(_is_number(value) and value != _JUNK for of_side in values for value in of_side):
        return
    for path, of_side in zip(paths, values, strict=True):
        if odd := [value for value in of_side if not _is_number(value)]:
            logger.warning(
                "%s: %s are read as names, not numbers, because of %d values that are no whole numbers: %s%s",
                path, name, len(odd), ", ".join(map(ascii, odd[:_SHOWN])), ", …" if len(odd) > _SHOWN else "",
            )  # fmt: skip


def _looked_up(names: Iterable[object], table: Mapping[str, int]) -> np.ndarray:
    return np.array([table[str(name)] for name in names], dtype=np.int64)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as stream:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise FeatureFileError(f"{path} is one array without a name; call the file .npy, with the ids in a .csv")
        wanted = [name for name in (*NAMES, "viewids") if name in file.files]
        arrays = {name: _of_archive(path, name, file) for name in wanted}
        # Others are named, if something is missing, but not read: they may be anything.
        return arrays if len(arrays) >= len(NAMES) else dict.fromkeys(file.files) | arrays


def _of_archive(path: Path, name: str, file: Mapping[str, np.ndarray]) -> np.ndarray:
    try:
        array = file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise FeatureFileError(
            f"{path}: {name} are Python objects, which are not read, as they may run code: save numbers, or text for "
            "names, with a dtype of their own"
        ) from error
    if not isinstance(array, np.ndarray):
        raise FeatureFileError(f"{path}: {name} is no array of NumPy's")
    return array


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(rows, np.lib.npyio.NpzFile):
        rows.close()
        raise FeatureFileError(f"{path} is an archive of NumPy arrays; call the file {path.with_suffix('.npz').name}")
    return {"features": rows, **read_ids(path.with_suffix(".csv"))}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import torch
    from safetensors.torch import load_file

    tensors = load_file(path)
    # NumPy has no bfloat16: such descriptors stay a tensor.
    return {name: tensor if tensor.dtype == torch.bfloat16 else _array(tensor) for name, tensor in tensors.items()}


def _array(tensor: Tensor) -> np.ndarray | Tensor:
    try:
        return tensor.numpy()
    except TypeError:  # of a kind that NumPy lacks: refused, by name, if it is asked for
        return tensor


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".safetensors": _read_safetensors}
