"""The Stable Diffusion folders that a config points at: finding them, and reading their JSON."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from fastreid.utils.errors import UserError
from fastreid.utils.file_kind import what_it_is
from fastreid.utils.text import TextError, read_text

logger = logging.getLogger(__name__)

PIPELINE = "model_index.json"
_MISSING = {"unet": "no UNet in", "scheduler": "no scheduler_config.json in"}


class AssetError(UserError, FileNotFoundError):
    """A folder of the Stable Diffusion assets that is missing, damaged, or does not fit."""


def asset_folder(folder: str, part: str, config: str, key: str, advice: str = "") -> Path:
    """The folder of one part of Stable Diffusion; of a whole pipeline, the subfolder of this part.

    Args:
        folder: as the config has it.
        part: "unet" or "scheduler".
        config: the JSON file that it must have.
        key: of the config, for messages.
        advice: what to do if it is not there.

    Raises:
        AssetError: there is no such part in it.
    """
    path = Path(folder).expanduser()
    if path.is_file():
        raise AssetError(
            f"{folder!r} ({key}) is a file: name a Diffusers folder with {config} and weights (diffusers' "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER) makes one)"
        )
    if (path / config).is_file() and not (path / PIPELINE).is_file():
        return path
    if (path / part / config).is_file():
        logger.info("%s is a whole pipeline: its %s is used", folder, part)
        return path / part
    there = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else []
    what = f"it has {', '.join(there)}" if there else "it is empty" if path.is_dir() else "there is no such folder"
    raise AssetError(f"{_MISSING[part]} {folder!r} ({key}): expected {config}; {what}{advice}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of the assets.

    Raises:
        AssetError: it is damaged, or something else; says where.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        kind = what_it_is(path) or ""
        known = kind if "pointer" in kind or "HTML" in kind or "empty" in kind else f"it is damaged ({error})"
        raise AssetError(f"{path} cannot be read: {known}") from error
    except (TextError, OSError, RecursionError) as error:
        raise AssetError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise AssetError(f"{path} holds a {type(content).__name__}; it should hold names with values")
    return content
