"""CommDataset: images from a list of tuples, with fast-reid's interface."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastreid.data.images import read_image
from fastreid.structures import PersonImage

Items = Sequence[PersonImage | tuple[Any, ...]]
"""(path, person, camera, …) of each image; `PersonImage` has the same entries."""


class CommDataset(Dataset[dict[str, Any]]):
    """Images of a list, read and transformed when they are asked for.

    An item is {"images", "targets", "camids", "img_paths"}. Without a transform, "images" is uint8 [3, H, W].

    Args:
        img_items: the images.
        transform: a Pillow image in RGB -> a tensor [3, H, W] in 0..255, which the model normalizes.
        relabel: replace people and cameras by numbers from 0, in sorted order.

    Attributes:
        img_items: the images.
        pid_dict: {person: number}, if they are relabelled.
        cam_dict: {camera: number}, if they are relabelled.
    """

    def __init__(self, img_items: Items, transform: Callable[[Any], Any] | None = None, relabel: bool = True) -> None:
        self.img_items, self.transform, self.relabel = img_items, transform, relabel
        self.pids, self.cams = ({item[column] for item in img_items} for column in (1, 2))
        self.pid_dict, self.cam_dict = numbers_of(self.pids), numbers_of(self.cams)

    def __len__(self) -> int:
        return len(self.img_items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: Any = self.img_items[index]
        path, person, camera = item[0], item[1], item[2]
        picture = read_image(path)
        return {
            "images": as_tensor(picture) if self.transform is None else self.transform(picture),
            "targets": self.pid_dict[person] if self.relabel else person,
            "camids": self.cam_dict[camera] if self.relabel else camera,
            "img_paths": path,
        }

    @property
    def num_classes(self) -> int:
        """Number of people."""
        return len(self.pids)

    @property
    def num_cameras(self) -> int:
        """Number of cameras."""
        return len(self.cams)


def as_tensor(picture: Any) -> Tensor:
    """Return a Pillow image in RGB as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy())


def numbers_of(ids: Iterable[Hashable]) -> dict[Hashable, int]:
    """Return {id: number from 0} of different ids, in sorted order; numbers and names may be mixed."""
    return {who: at for at, who in enumerate(sorted(set(ids), key=lambda who: (isinstance(who, str), who)))}
