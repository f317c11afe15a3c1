"""A toy stage: people are colours, and features are the mean colours of the quarters of an image."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastreid.data.images import read_pixels
from fastreid.generation.filters import FilterStage, RealImages, Rounds
from fastreid.generation.filters.base import PictureFilter, Verdict
from fastreid.generation.filters.near_copy import NearCopyFilter
from fastreid.generation.filters.pixels import sharpness
from fastreid.generation.filters.reid import ReidFilter
from fastreid.generation.filters.reid_scores import kept_count, ranks
from fastreid.generation.journal import Journal
from fastreid.structures import PersonImage

ROUNDS = Rounds(min_keep=3, per_round=6, most=2)


def toy_image(gid, name):
    """A noisy image of the colour of a person, the same for the same name."""
    seed = int.from_bytes(hashlib.sha256(f"{gid} {name}".encode()).digest()[:4], "big")
    rng = np.random.default_rng(seed)
    colour = np.random.default_rng([5, gid]).integers(40, 216, (2, 2, 3)).repeat(16, 0).repeat(8, 1)
    return np.clip(colour + rng.normal(0, 12, colour.shape) + rng.normal(0, 6, 3), 0, 255).astype(np.uint8)


def save(path, pixels):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def real_images(folder, people, count=6):
    found = []
    for gid in people:
        for number in range(count):
            path = folder / f"real/{gid}_{number}.png"
            save(path, toy_image(gid, f"real {number}"))
            found.append(PersonImage(str(path), gid, 0))
    return found


def picture_row(gid, number, file, source="A"):
    """The row of a written picture."""
    facts = {"person": str(gid), "prompt": "a photo of a person", "caption": "", "swapped": ""}
    return {"gid": gid, "number": number, "file": file, "source": source, **facts}


def write_pictures(folder, people, numbers, source_of=lambda gid: "A", shows=lambda gid, number: gid):
    """Write pictures and their rows as the stage `generate` does."""
    rows = []
    for gid in people:
        for number in numbers:
            file = f"{gid:05d}/{number:04d}.png"
            save(folder / "pictures" / file, toy_image(shows(gid, number), f"written {gid} {number}"))
            rows.append(picture_row(gid, number, file, source_of(gid)))
    with Journal(folder / "pictures").writer() as writer:
        writer.add(*rows)


def embed(paths, source):
    pictures = np.stack([read_pixels(path) for path in paths]).astype(np.float64)
    quarters = pictures.reshape(len(paths), 2, 16, 2, 8, 3).mean(axis=(2, 4)).reshape(len(paths), -1)
    return torch.from_numpy(quarters - 128)


def stage(folder, images, filters=None, **options):
    filters = filters or {"reid": ReidFilter(), "near_copy": NearCopyFilter(max_correlation=0.999)}
    sources = {"A": RealImages(images)}
    return FilterStage(**{"output_dir": folder, "filters": filters, "sources": sources, "embed": embed, **options})


def rows_of(folder):
    return Journal(folder / "filter").rows()


class SharperHalf(PictureFilter):
    """Keeps the sharper half of a person's pictures: what it keeps depends on how many there are."""

    @classmethod
    def from_config(cls, keys):
        return cls()

    def settings(self):
        return {}

    def judge(self, person, kept, thresholds):
        rank = ranks(torch.tensor(sharpness(person.pixels)), torch.tensor(person.numbers))
        least = kept_count(0.5, len(rank))
        return [Verdict("sharper_half" if place > least else "") for place in rank.tolist()]
