"""Folders of Stable Diffusion in the format of diffusers: finding their parts and reading their JSON files."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

from fastreid.utils.errors import UserError
from fastreid.utils.file_kind import what_it_is
from fastreid.utils.text import TextError, read_text

logger = logging.getLogger(__name__)

PIPELINE = "model_index.json"
_MISSING = {
    "unet": "no UNet in",
    "vae": "no autoencoder in",
    "scheduler": "no scheduler_config.json in",
    "tokenizer": "no tokenizer in",
    "text_encoder": "no text encoder in",
}


class AssetError(UserError, FileNotFoundError):
    """A folder of the Stable Diffusion assets that is missing, damaged, or does not fit."""


def shown(folder: str, key: str) -> str:
    """Return a folder for a message, with the config key that names it.

    Args:
        folder: the folder.
        key: full name of the key; "" if no key names the folder.
    """
    return f"{folder!r} ({key})" if key else repr(folder)


def asset_folder(folder: str, part: str, config: str, *, key: str = "", advice: str = "") -> Path:
    """Return the folder of one part of Stable Diffusion; in a whole pipeline, the subfolder of this part.

    Args:
        folder: the folder of the part or of the pipeline.
        part: "unet", "vae", "scheduler", "tokenizer" or "text_encoder".
        config: the JSON file that the part must have.
        key: config key that names the folder, for error messages.
        advice: what to do if the part is missing, for error messages.

    Raises:
        AssetError: there is no such part in the folder.
    """
    path = Path(folder).expanduser()
    if path.is_file():
        raise AssetError(
            f"{shown(folder, key)} is a file: name a Diffusers folder with {config} and weights (`python "
            "tools/convert_checkpoint.py --stable-diffusion FILE FOLDER` makes one)"
        )
    if (path / config).is_file() and not (path / PIPELINE).is_file():
        return path
    if (path / part / config).is_file():
        _log_pipeline(str(path))
        return path / part
    there = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else []
    what = f"it has {', '.join(there)}" if there else "it is empty" if path.is_dir() else "there is no such folder"
    raise AssetError(f"{_MISSING[part]} {shown(folder, key)}: expected {config}; {what}{advice}")


@cache
def _log_pipeline(folder: str) -> None:
    """Log once for all parts of a folder."""
    logger.info("%s is a whole pipeline: the folders of its parts are used", folder)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of the assets.

    Args:
        path: the file.

    Raises:
        AssetError: the file is damaged or holds something else; the message says where.
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
