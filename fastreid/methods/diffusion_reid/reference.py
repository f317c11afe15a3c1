"""The Attribute Reference Set: pictures that the model wrote before its training, each with its own prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.modeling.diffusion import Autoencoder
from fastreid.modeling.diffusion.text import TextEncoder
from fastreid.utils.devices import to_device
from fastreid.utils.manifest import digest, mark_of
from fastreid.utils.text import read_text

INDEX = "reference.json"
"""The file that lists a finished set: {"pictures": [{"file": PATH, "prompt": TEXT}, …], "settings": {…}}."""
_KEY = "DIFFPERSON.DI"
_BATCH = 16
_AGAIN = "`tools/diffperson.py reference` writes again what is missing or damaged"


@dataclass(frozen=True)
class ReferencePicture:
    """A picture of the set.

    Attributes:
        path: the file.
        prompt: the prompt that it was written with.
    """

    path: Path
    prompt: str


def read_reference(folder: str) -> list[ReferencePicture]:
    """Return the pictures of a finished set.

    Args:
        folder: its folder.

    Raises:
        ConfigError: there is none, or its list is damaged.
    """
    path = Path(folder).expanduser() / INDEX
    if not folder or not path.is_file():
        raise ConfigError(
            f"{_KEY}.ENABLED needs the reference set, but there is no {path}: `tools/diffperson.py reference` writes "
            f"it with the untrained model. {_KEY}.ENABLED False trains without it"
        )
    try:
        rows = json.loads(read_text(path))["pictures"]
        found = [ReferencePicture(path.parent / row["file"], _text(row["prompt"])) for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}): delete the folder and write the reference set again") from None
    if missing := [str(picture.path) for picture in found if not picture.path.is_file()]:
        raise ConfigError(
            f"{len(missing)} of {len(found)} pictures of the reference set are missing: {missing[0]}. {_AGAIN}"
        )
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no prompt")
    return value


class ReferenceSet(nn.Module):
    """The latents and tokens of the reference set, which are computed once, in the first step.

    Args:
        pictures: its pictures.
        size: (height, width) of pictures in training.
        class_prompt: the prompt of all pictures, as in DreamBooth; "" keeps the prompt of each.
    """

    def __init__(self, pictures: list[ReferencePicture], size: tuple[int, int], class_prompt: str = "") -> None:
        super().__init__()
        self.prompts = [class_prompt or picture.prompt for picture in pictures]
        self._paths, self._size = [picture.path for picture in pictures], size
        self._stored: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def mark(self) -> str:
        """Return a checksum of the pictures, wherever they are."""
        return digest(f"{path.name} {mark_of(path)}" for path in self._paths)

    def rows(self, chosen: Tensor, autoencoder: Autoencoder, text: TextEncoder) -> tuple[Tensor, Tensor]:
        """Return moments [B, 2C, h, w] and tokens [B, L, D] of pictures, on the device of the autoencoder.

        Args:
            chosen: numbers of pictures, int64 [B], on the CPU.
            autoencoder: encodes pictures.
            text: encodes prompts.
        """
        device = next(autoencoder.parameters()).device
        if self._stored is None:
            with torch.no_grad():
                self._stored = self._encoded(autoencoder, text, device)
        moments, tokens = self._stored
        return to_device(moments[chosen], device), to_device(tokens[chosen], device)

    def _encoded(self, autoencoder: Autoencoder, text: TextEncoder, device: torch.device) -> tuple[Tensor, Tensor]:
        moments, tokens = [], []
        for start in range(0, len(self), _BATCH):
            pictures = torch.stack([_pixels(path, self._size) for path in self._paths[start : start + _BATCH]])
            moments.append(autoencoder.moments(pictures.to(device) / 127.5 - 1).float().cpu())
            prompts = text.encode(self.prompts[start : start + _BATCH])
            tokens.append(text(prompts.to(device)).float().cpu())
        return torch.cat(moments), torch.cat(tokens)


def _pixels(path: Path, size: tuple[int, int]) -> Tensor:
    """Return a picture as float32 [3, H, W] in 0..255."""
    try:
        with Image.open(path) as picture:
            resized = picture.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the reference picture {path} cannot be read: {error}. {_AGAIN}") from error
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float()
