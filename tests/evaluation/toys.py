"""A toy model, loader and protocols that several evaluation tests share."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.structures import PersonImage

CFG = get_cfg()
CFG.MODEL.DEVICE = "cpu"


class CountingModel(nn.Module):
    """Descriptor = a fixed random row per person plus noise of the image; records its images."""

    def __init__(self, noise=0.8):
        super().__init__()
        self.noise = noise
        self.register_buffer("people", torch.randn(100, 8, generator=seeded(1)))
        self.norm = nn.BatchNorm1d(8)
        self.frozen = nn.Dropout().eval()
        self.seen = []

    def forward(self, batch):
        assert not self.training and not torch.is_grad_enabled()
        self.seen += batch["img_paths"]
        noise = [torch.randn(8, generator=seeded(hash_of(Path(p).name))) for p in batch["img_paths"]]
        return self.people[batch["targets"]] + self.noise * torch.stack(noise)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def hash_of(path):
    return sum(ord(letter) * 31**place for place, letter in enumerate(path)) % 2**31


def build_loader(_cfg, images):
    """Return batches of three, in order."""
    starts = range(0, len(images), 3)
    return [as_batch(images[start : start + 3]) for start in starts]


def as_batch(images):
    return {
        "targets": torch.tensor([image.person for image in images]),
        "camids": torch.tensor([image.camera for image in images]),
        "viewids": torch.tensor([image.view for image in images]),
        "img_paths": [image.path for image in images],
    }


def two_protocols(names=("TOY", "TOY_AG"), folder=""):
    """Return two protocols of 6 people x 4 cameras, with the first camera's images as queries.

    The second protocol is over the same files, its cameras numbered as views.
    """
    images = [
        PersonImage(f"{folder}{person}_{camera}.jpg", person, camera, int(camera > 1))
        for person in range(6)
        for camera in range(4)
    ]
    by_view = [PersonImage(i.path, i.person, i.view, i.view) for i in images]
    is_query = [image.camera == 0 for image in images]
    return [
        SimpleNamespace(
            name=name,
            query=[image for image, is_q in zip(rows, is_query, strict=True) if is_q],
            gallery=[image for image, is_q in zip(rows, is_query, strict=True) if not is_q],
        )
        for name, rows in zip(names, (images, by_view), strict=True)
    ]
