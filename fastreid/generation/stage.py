"""The folder of a stage: its settings, which later starts must share, and its manifest."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastreid.config import ConfigError
from fastreid.generation.journal import Journal
from fastreid.generation.rows import KEY, Columns
from fastreid.utils.files import atomic_write
from fastreid.utils.lock import path_lock
from fastreid.utils.text import read_text

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

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Store the settings that decide the results, or compare them with those of an earlier start.

        Args:
            settings: names with plain values.

        Raises:
            ConfigError: an earlier start had other settings, and has written something; the message lists them. Or the
                folder has files that no earlier start has written.
        """
        path = self.folder / SETTINGS
        given = json.loads(json.dumps(dict(settings)))
        with path_lock(path, wait=True):
            if path.is_file():
                before = _read(path)
                if before == given:
                    return
                if self.journal.rows() and (changes := _changes(before, given)):
                    raise ConfigError(
                        f"{self.folder} was written with other settings: {'; '.join(changes)}. Nothing was changed: "
                        "set them back, name another OUTPUT_DIR, or delete the folder"
                    )
            elif foreign := sorted(entry.name for entry in self.folder.iterdir() if not _is_passing(entry)):
                raise ConfigError(
                    f"{self.folder} has files that this stage did not write ({', '.join(foreign[:3])}, …): name "
                    "another folder, or move them away"
                )
            with atomic_write(path) as file:
                json.dump(given, file, indent=1)

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


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}): delete the folder {path.parent} to run the stage again"
        ) from None
    return content if isinstance(content, dict) else {}


def _changes(before: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The differences; settings that only one version of the library knows are none."""
    return [
        f"{name} was {before[name]!r:.80}, not {given[name]!r:.80}"
        for name in sorted(before.keys() & given.keys())
        if before[name] != given[name]
    ]
