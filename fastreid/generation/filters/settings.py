"""The settings with which a filter stage was begun: its filters, re-ID models and thresholds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastreid.generation.filters.base import PictureFilter
from fastreid.generation.rows import JournalError
from fastreid.utils.files import atomic_write
from fastreid.utils.lock import path_lock
from fastreid.utils.text import TextError, read_json

Thresholds = dict[str, dict[str, dict[str, float]]]
"""Source -> filter -> name -> value."""


_KINDS = {"filters": list, "models": dict, "thresholds": dict}


class StageSettings:
    """A file with what decisions depend on, so that all runs and shards of a stage decide alike.

    Args:
        path: the file; it is made when thresholds are added first, or at the end of the stage.
        filters: name -> filter, in their order.
        models: name of a data set -> what its re-ID model is.
    """

    def __init__(self, path: Path, filters: Mapping[str, PictureFilter], models: Mapping[str, str]) -> None:
        self._path = path
        # As JSON reads them: tuples are lists.
        self._filters = json.loads(json.dumps([[name, judge.settings()] for name, judge in filters.items()]))
        self._models = dict(models)

    def check(self) -> None:
        """Check that the stage was begun with these filters and models, or has not begun.

        Raises:
            JournalError: it was begun with others, or the file is damaged.
        """
        stored = self._read()
        remedy = "delete the folder to filter again"
        if stored["filters"] != self._filters:
            raise JournalError(
                f"{self._path.parent} was begun with other filters: {json.dumps(stored['filters'])}, now "
                f"{json.dumps(self._filters)}. Set the former ones, or {remedy}"
            )
        for name in sorted(stored["models"].keys() & self._models.keys()):
            if stored["models"][name] != self._models[name]:
                raise JournalError(
                    f"{self._path.parent} was begun with another re-ID model of {name}: {stored['models'][name]}, now "
                    f"{self._models[name]}. Set the former one, or {remedy}"
                )

    def thresholds(self) -> Thresholds:
        """Return the thresholds of the sources that were filtered so far.

        Raises:
            JournalError: the file is damaged.
        """
        return self._read()["thresholds"]

    def add(self, source: str, thresholds: dict[str, dict[str, float]]) -> None:
        """Store the thresholds of a source.

        Args:
            source: name of the data set.
            thresholds: filter -> name -> value.

        Raises:
            JournalError: as `check`, as another shard may have begun the stage meanwhile.
            DiskError: the disk is full.
        """
        self._update({source: thresholds})

    def store(self) -> None:
        """Write the file if there is none, as filters without thresholds do not add any.

        Raises:
            JournalError: as `check`.
            DiskError: the disk is full.
        """
        if not self._path.exists():
            self._update({})

    def _update(self, thresholds: Thresholds) -> None:
        with path_lock(self._path, wait=True):
            self.check()
            stored = self._read()
            content = {
                "filters": self._filters,
                "models": {**stored["models"], **self._models},
                "thresholds": {**stored["thresholds"], **thresholds},
            }
            with atomic_write(self._path) as file:
                json.dump(content, file, indent=2, sort_keys=True)

    def _read(self) -> dict[str, Any]:
        if not self._path.exists():
            return {"filters": self._filters, "models": {}, "thresholds": {}}
        try:
            content = read_json(self._path)
            if all(isinstance(content[name], kind) for name, kind in _KINDS.items()):
                return content
        except (TextError, KeyError, TypeError):
            pass
        raise JournalError(f"{self._path} is damaged: restore it, or delete {self._path.parent} to filter again")
