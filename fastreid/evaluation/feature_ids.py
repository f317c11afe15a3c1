"""The ids of descriptors from a CSV file, as they are written in it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from fastreid.retrieval.descriptors import FeatureError
from fastreid.utils.text import read_text

_SPACE = " \t"
_COLUMNS = ("pid", "camid", "viewid")


def read_ids(table: Path) -> dict[str, np.ndarray]:
    """Columns pid and camid, and viewid if there is one, as text [N], by the names pids, camids and viewids.

    Spaces around a value are not part of it; other columns are not read.

    Raises:
        FeatureError: no such file, no such columns, a row with more or fewer values than the header.
        TextError: it is not in UTF-8.
    """
    if not table.is_file():
        raise FeatureError(f"there is no {table} with the ids, columns pid and camid")
    try:
        reader = csv.reader(io.StringIO(read_text(table), newline=""), skipinitialspace=True, strict=True)
        rows = [(reader.line_num, [value.strip(_SPACE) for value in row]) for row in reader if row]
    except csv.Error as error:
        raise FeatureError(f"{table} is no CSV file: {error}") from error
    header = [name.lower() for name in rows[0][1]] if rows else []
    columns = [name for name in _COLUMNS if name in header]
    if not {"pid", "camid"} <= set(columns) or any(header.count(name) > 1 for name in columns):
        raise FeatureError(f"{table} has columns {header}, expected pid and camid once each, separated by commas")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise FeatureError(f"{table}, line {line}: {len(row)} values, where the header has {len(header)} columns")
    values = {name: [row[header.index(name)] for _, row in rows[1:]] for name in columns}
    return {f"{name}s": np.array(column, dtype=str) for name, column in values.items()}
