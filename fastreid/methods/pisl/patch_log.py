"""Records the patches of a few images through the epochs, which the report page draws."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastreid.utils import comm
from fastreid.utils.files import atomic_write

FILE = "patches.json"
_IMAGES = 8


class PatchLog:
    """Patches of some training images at each labelling, written to `patches.json` of the output folder.

    The file has `images`, the paths, and `epochs`, a list of {"epoch": number, "theta": [n, P, 2, 3]}.

    Args:
        folder: the output folder; "" writes nothing.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._images: list[int] = []
        self._epochs: list[dict[str, Any]] = []
        self.paths: Sequence[str] = ()

    def add(self, epoch: int, indices: Tensor, theta: Tensor) -> None:
        """Record the patches of an epoch.

        Args:
            epoch: counted from 0.
            indices: positions [M] of images in the training set.
            theta: [M, P, 2, 3]; without patches nothing is recorded.
        """
        if not theta.shape[1]:
            return
        if not self._images:
            spread = torch.linspace(0, len(indices) - 1, min(_IMAGES, len(indices))).long()
            self._images = indices[spread].tolist()
        row_of = {index: row for row, index in enumerate(indices.tolist())}
        rows = [row_of[index] for index in self._images if index in row_of]
        if len(rows) == len(self._images):
            self._epochs.append({"epoch": epoch, "theta": theta[rows].tolist()})
        self._write()

    def _write(self) -> None:
        if not self._folder or not self.paths or not comm.is_main_process():
            return
        content = {"images": [self.paths[index] for index in self._images], "epochs": self._epochs}
        with atomic_write(Path(self._folder) / FILE, "w") as file:
            json.dump(content, file)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for checkpoints."""
        return {"images": self._images, "epochs": self._epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._images, self._epochs = list(state["images"]), list(state["epochs"])
