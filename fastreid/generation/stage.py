"""The folder of a stage: its settings, which later starts must share, and its manifest."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastreid.config import ConfigError
from fastreid.generation.journal import Journal, JournalWriter
from fastreid.generation.rows import KEY, Columns
from fastreid.utils.files import atomic_write
from fastreid.utils.lock import path_lock
from fastreid.utils.text import TextError, read_json

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"


class StageFolder:
    """The folder of a stage.

    Args:
        folder: the folder; it is made if it does not exist.
        columns: the entries that each row of the manifest must have.
    """

    def __init__(self, folder: Path, columns: Columns = KEY) -> None:
        self.folder, self.journal = Path(folder), Journal(folder, columns)
        self._settings: dict[str, Any] = {}

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Store the settings that decide the results, or compare them with those of an earlier start.

        Args:
            settings: names with plain values.

        Raises:
            ConfigError: an earlier start had other settings, and has written something or still runs; the message
                lists them. Or the settings are damaged, or the folder has files that no earlier start has written.
        """
        path = self.folder / SETTINGS
        self._settings = given = json.loads(json.dumps(dict(settings)))
        with path_lock(path, wait=True):
            others = sorted(entry.name for entry in self.folder.iterdir() if not _is_passing(entry))
            if path.is_file():
                before = read_settings(path)
                if before == given:
                    return
                rows, running = self.journal.rows(), self.journal.running()
                if before is None and (running or others != [SETTINGS]):
                    raise _damaged(path)
                if before and (rows or running):
                    self._refuse_others(before, running)
            elif others:
                raise ConfigError(
                    f"{self.folder} has files that this stage did not write ({', '.join(others[:3])}, …): name "
                    "another folder, or move them away"
                )
            with atomic_write(path) as file:
                json.dump(given, file, indent=1)

    @contextlib.contextmanager
    def writer(self, shard: str) -> Iterator[JournalWriter]:
        """Yield a writer to the manifest of a shard, if the settings are still those of `begin`.

        Args:
            shard: the name of the shard.

        Raises:
            ConfigError: another start has begun the stage with other settings since.
            InUseError: another process writes to this file.
            DiskError: the disk is full or broken.
        """
        with self.journal.writer(shard) as writer:
            with path_lock(self.folder / SETTINGS, wait=True):
                if (begun := read_settings(self.folder / SETTINGS)) is None:
                    raise _damaged(self.folder / SETTINGS)
                self._refuse_others(begun, [name for name in self.journal.running() if name != shard])
            yield writer

    def _refuse_others(self, before: Mapping[str, Any], running: Sequence[str]) -> None:
        if found := changes(before, self._settings):
            first = f"stop the shards that run ({', '.join(running)}) and " if running else ""
            raise ConfigError(
                f"{self.folder} was written with other settings: {'; '.join(found)}. Nothing was changed: "
                f"set them back, name another OUTPUT_DIR, or {first}delete the folder"
            )

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file of the folder, completely or not at all, and return its path."""
        path = self.folder / name
        with atomic_write(path) as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.write("\n")
        return path


def _is_passing(entry: Path) -> bool:
    """Whether it is a file that processes leave beside others: a lock, or a file that was not finished."""
    return entry.name.startswith(".") or entry.suffix in (".lock", ".tmp")


def read_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings in a file; None if it is damaged.

    Args:
        path: the file.
    """
    try:
        content = read_json(path)
    except TextError:
        content = None
    return content if isinstance(content, dict) and content else None


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is damaged, so that the settings of the other files in its folder are not known: restore it, or "
        f"delete the folder {path.parent} to run the stage again"
    )


def changes(before: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the differences in words; settings that only one version of the library knows are none.

    Args:
        before: the settings of an earlier start.
        given: those of this start.
    """
    return [
        f"{name} was {before[name]!r:.80}, not {given[name]!r:.80}"
        for name in sorted(before.keys() & given.keys())
        if before[name] != given[name]
    ]
