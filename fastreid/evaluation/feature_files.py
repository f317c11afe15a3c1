"""Reads descriptors and ids that another program wrote: npz, safetensors, or npy with a csv of the ids."""

from __future__ import annotations

import csv
import io
import logging
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fastreid.retrieval.descriptors import FeatureError, rows_on_cpu
from fastreid.structures.names import differing_in_spelling, is_canonical, number_names
from fastreid.utils.errors import sentence_of
from fastreid.utils.file_kind import what_it_is
from fastreid.utils.text import read_text

logger = logging.getLogger(__name__)

NAMES = ("features", "pids", "camids")
_JUNK = "-1"
_ONLY_JUNK, _VIEWS = "below 0 there is only -1, for junk", "views are whole numbers, 0 or more"
_SHOWN = 5
_WANTED = "a file that numpy.savez, numpy.save or safetensors wrote"
_COLUMNS = ("pid", "camid", "viewid")
_SPACE = " \t"
_DECIMAL = re.compile(r"[+-]?[0-9]+\.0*")


class FeatureFileError(FeatureError):
    """A file of descriptors that is missing or unreadable, or lacks arrays that scoring needs."""


@dataclass(frozen=True)
class Features:
    """Descriptors and ids of N images, as they were stored.

    Attributes:
        rows: [N, D]; those of an .npy file stay on disk.
        pids: person ids [N].
        camids: camera ids [N].
        viewids: view ids [N], if the file has them.
        camera_names: {id: name} of cameras that have names.
    """

    rows: np.ndarray | Tensor
    pids: np.ndarray
    camids: np.ndarray
    viewids: np.ndarray | None = None
    camera_names: Mapping[int, str] = field(default_factory=dict)


def read_features(path: str | Path) -> Features:
    """Read the arrays `features` [N, D], `pids` [N] and `camids` [N], and `viewids` [N] if the file has them.

    They are read from an .npz or .safetensors file with these names; or from an .npy file of the features only, with
    the ids in a .csv file of the same name that has columns `pid` and `camid` (and `viewid`), one row per feature.

    Raises:
        FeatureFileError: an array is missing or wrong; or people or cameras have names (see `read_feature_pair`).
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
    """Read the files of both sides as `read_features` does; people and cameras may have names.

    Names are compared as text. If all values of both files are whole numbers, they are the ids; if only some are, a
    warning lists the others. Person -1 is junk.

    Raises:
        FeatureFileError: an array is missing or wrong.
    """
    paths = query, gallery
    first, second = _numbered([_read(Path(path).expanduser()) for path in paths], paths)
    return first, second


def _is_number(name: str) -> bool:
    return is_canonical(name) or name == _JUNK


def _read(path: Path) -> Features:
    """Return the descriptors as they are stored; ids are whole numbers or names."""
    if path.suffix not in _READERS:
        raise FeatureFileError(f"{path}: features are read from {', '.join(_READERS)} files")
    if not path.is_file():
        raise FeatureFileError(f"no file {path}")
    try:
        arrays = _READERS[path.suffix](path)
        rows = rows_on_cpu(arrays["features"]) if "features" in arrays else None
    except FeatureFileError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds of errors
        raise FeatureFileError(f"cannot read {path}: {_reason(path, error)}") from error
    if missing := [name for name in NAMES if name not in arrays]:
        raise FeatureFileError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}, expected {', '.join(NAMES)}"
        )
    assert rows is not None  # it is not missing
    _check_shapes(path, rows, arrays)
    views = _ids(path, "viewids", arrays["viewids"]) if "viewids" in arrays else None
    return Features(rows, _ids(path, "pids", arrays["pids"]), _ids(path, "camids", arrays["camids"]), views)


def _reason(path: Path, error: Exception) -> str:
    """Return why a file could not be read; NumPy's own message advises to load unknown files as a pickle."""
    if sentence := sentence_of(error):
        return sentence
    if isinstance(error, MemoryError) or getattr(error, "errno", None):
        return str(error) or type(error).__name__
    found = what_it_is(path, _WANTED)
    if found and f"({path.suffix})" not in found:
        return found
    if isinstance(error, zipfile.BadZipFile | zlib.error | EOFError):
        return f"it is damaged, or was cut off ({error}): copy or download it again"
    if re.search("pickle|Python objects|magic string", str(error)):
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
    """Return ids as whole numbers; those of people and cameras may be names."""
    if isinstance(ids, Tensor):  # a type that NumPy lacks
        raise FeatureFileError(f"{path}: {name} must be whole numbers or names, they are {ids.dtype}")
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
    """Raise a `FeatureFileError` for negative ids, which would be scored as a person or a view."""
    rules: dict[str, tuple[int | None, str]] = {"pids": (-1, _ONLY_JUNK), "viewids": (0, _VIEWS)}
    least, rule = rules.get(name, (None, ""))
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
    """Replace names by ids, with one numbering for all sides; `paths` are their files."""
    for name, junk in (("pids", _JUNK), ("camids", None)):
        columns = [getattr(side, name) for side in sides]
        if any(ids.dtype.kind == "U" for ids in columns):
            _warn_of_odd(name, columns, paths)
            known = {str(value) for ids in columns for value in ids.tolist()}
            if similar := differing_in_spelling(known, "people" if name == "pids" else "cameras"):
                logger.warning("%s: %s", " and ".join(map(str, paths)), similar)
            table = number_names(known, junk)
            columns = [_looked_up(ids.tolist(), table) for ids in columns]
            sides = [replace(side, **{name: ids}) for side, ids in zip(sides, columns, strict=True)]
            if name == "camids":
                names = {number: camera for camera, number in table.items() if str(number) != camera}
                sides = [replace(side, camera_names=names) for side in sides]
    return sides


def _warn_of_odd(name: str, columns: Sequence[np.ndarray], paths: Sequence[str | Path]) -> None:
    """Log values, such as `1_0` or `nan`, because of which numbers are read as names."""
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


def _read_npz(path: Path) -> dict[str, Any]:
    with open(path, "rb") as stream:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise FeatureFileError(f"{path} is one array without a name; call the file .npy, with the ids in a .csv")
        wanted = [name for name in (*NAMES, "viewids") if name in file.files]
        arrays = {name: _of_archive(path, name, file) for name in wanted}
        # If an array is missing, the others are named in the error but not read: they may hold anything.
        return arrays if len(arrays) >= len(NAMES) else dict.fromkeys(file.files) | arrays


def _of_archive(path: Path, name: str, file: Mapping[str, np.ndarray]) -> np.ndarray:
    try:
        array = file[name]
    except MemoryError as error:
        raise FeatureFileError(
            f"{path}: {name} does not fit in memory ({error or 'no size is known'}): save descriptors as .npy, which "
            "stay on disk, or write the file again if it is not so large"
        ) from error
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


def _read_npy(path: Path) -> dict[str, Any]:
    if zipfile.is_zipfile(path):
        raise FeatureFileError(f"{path} is an archive of NumPy arrays; call the file {path.with_suffix('.npz').name}")
    rows = np.lib.format.open_memmap(path, mode="r")  # unlike np.load, it closes a file that it refuses
    return {"features": rows, **read_ids(path.with_suffix(".csv"))}


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: _array(tensor) for name, tensor in load_file(path).items()}


def _array(tensor: Tensor) -> np.ndarray | Tensor:
    try:
        return tensor.numpy()
    except TypeError:  # a type that NumPy lacks: bfloat16 descriptors are used as a tensor, others are refused later
        return tensor


def read_ids(table: Path) -> dict[str, np.ndarray]:
    """Read the columns pid and camid, and viewid if there is one, as text [N]; their names here end with "s".

    Spaces around a value are removed; other columns are ignored.

    Raises:
        FeatureFileError: the file or a column is missing, or a row has more or fewer values than the header.
        TextError: the file is not in UTF-8.
    """
    if not table.is_file():
        raise FeatureFileError(f"there is no {table} with the ids, columns pid and camid")
    try:
        reader = csv.reader(io.StringIO(read_text(table), newline=""), skipinitialspace=True, strict=True)
        rows = [(reader.line_num, [value.strip(_SPACE) for value in row]) for row in reader if row]
    except csv.Error as error:
        raise FeatureFileError(f"{table} is no CSV file: {error}") from error
    header = [name.lower() for name in rows[0][1]] if rows else []
    columns = [name for name in _COLUMNS if name in header]
    if not {"pid", "camid"} <= set(columns) or any(header.count(name) > 1 for name in columns):
        raise FeatureFileError(f"{table} has columns {header}, expected pid and camid once each, separated by commas")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise FeatureFileError(
                f"{table}, line {line}: {len(row)} values, where the header has {len(header)} columns"
            )
        if any("\0" in value for value in row):  # NumPy's text would lose it at the end of a name
            raise FeatureFileError(f"{table}, line {line}: it has a byte of value 0")
    values = {name: [row[header.index(name)] for _, row in rows[1:]] for name in columns}
    return {f"{name}s": np.array(column, dtype=str) for name, column in values.items()}


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".safetensors": _read_safetensors}
