#!/usr/bin/env python
"""Times decoding and augmentation of images on one core: this library against others, with the same pixels.

    python benchmarks/image_loading.py [--images 256] [--rounds 30]

JPEGs of people's sizes are written to a temporary folder. Every way reads the files, decodes, resizes to 256 x 128 by a
bicubic filter, pads, crops, mirrors and erases at random, and gives batches of 64 images as float32 in 0..255. The ways
take turns; the best batch of each counts, in CPU time, as other programs may run. Before, our images are compared
bit by bit with those of Pillow and torchvision from the same random numbers.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fastreid.config import get_cfg
from fastreid.data.dataset import TrainingDataset, collate, seed_generators
from fastreid.data.images import decode_plain_jpeg, read_bytes, read_image, read_pixels, simplejpeg_is_as_pillow
from fastreid.data.samplers.draws import Draw
from fastreid.data.transforms import build_transforms
from fastreid.data.transforms.resize import compiled_resize, resize
from fastreid.structures import PersonImage
from fastreid.utils.errors import reported_as

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import InterpolationMode, v2

BATCH, SIZE, SEED = 64, (256, 128), 1
# Name -> lowest and highest height; images are half as wide. Those of Market-1501 are 128 x 64.
SIZES = {"128 x 64": (128, 129), "190 x 95 on average": (120, 261)}


def write_images(folder: Path, count: int, heights: tuple[int, int]) -> list[Path]:
    """Random images: smooth colours with camera noise, at quality 90."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        height = int(random.integers(*heights))
        size = (height // 2, height)
        coarse = Image.fromarray(random.integers(0, 256, (height // 16 + 1, height // 32 + 1, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=float)
        noisy = np.clip(smooth + random.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:04d}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


def steps(cfg) -> list[v2.Transform]:
    """The training transforms of fast-reid up to a picture or uint8 tensor, by torchvision."""
    return [
        v2.Resize(SIZE, interpolation=InterpolationMode.BICUBIC),
        v2.Pad(cfg.INPUT.PADDING.SIZE),
        v2.RandomCrop(SIZE),
        v2.RandomHorizontalFlip(cfg.INPUT.FLIP.PROB),
    ]


class Ways:
    """The timed implementations; each method has the paths of a batch as its argument.

    Args:
        paths: all images.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        cfg = get_cfg()
        for name in ("PADDING", "FLIP", "REA"):
            cfg.INPUT[name].ENABLED = True
        value, erased = list(cfg.INPUT.REA.VALUE), {"scale": (0.02, 0.4), "ratio": (0.3, 3.33)}
        last = [v2.ToDtype(torch.float32, scale=False), v2.RandomErasing(cfg.INPUT.REA.PROB, value=value, **erased)]
        self.on_pictures = v2.Compose([*steps(cfg), v2.PILToTensor(), *last])
        self.on_tensors = v2.Compose([*steps(cfg), *last])
        self.ours_alone = build_transforms(cfg)
        images = [PersonImage(str(path), 0, 0) for path in paths]
        views, labels = {"images": self.ours_alone}, [0] * len(images)
        self.dataset = TrainingDataset(images, views, labels, seed=SEED, batch_size=BATCH)
        self.number_of = {path: number for number, path in enumerate(paths)}

    def pillow(self, paths: Sequence[Path]) -> Tensor:
        """Pillow and torchvision, as in other libraries."""
        return torch.stack([self.on_pictures(Image.open(path).convert("RGB")) for path in paths])

    def torchvision(self, paths: Sequence[Path]) -> Tensor:
        """The decoder of torchvision, and v2 transforms on tensors; pixels differ."""
        decoded = (decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB) for path in paths)
        return torch.stack([self.on_tensors(image) for image in decoded])

    def ours(self, paths: Sequence[Path]) -> Tensor:
        """The work of a data worker and the loader."""
        return self.bytes_alone(paths).to_float(self.ours_alone.erase_value)

    def bytes_alone(self, paths: Sequence[Path]) -> Tensor:
        """The work of a data worker, up to the bytes that it sends."""
        draws = [Draw(self.number_of[path], self.number_of[path]) for path in paths]
        return collate(self.dataset.__getitems__(draws))["images"]

    def decode_and_resize(self, paths: Sequence[Path]) -> list[np.ndarray]:
        """Decode and resize as in the library."""
        return [resize(read_pixels(str(path)), SIZE) for path in paths]

    def decode(self, paths: Sequence[Path]) -> list[np.ndarray]:
        """Decode as in the library."""
        return [decode_plain_jpeg(read_bytes(str(path))) for path in paths]

    def pillow_decodes(self, paths: Sequence[Path]) -> list[Image.Image]:
        """Decode with Pillow."""
        return [Image.open(path).convert("RGB") for path in paths]

    def num_different(self, paths: Sequence[Path]) -> int:
        """Number of images that differ from those of Pillow and torchvision with the same random numbers."""
        different = 0
        for first in range(0, len(paths), BATCH):
            for path, image in zip(paths[first:], self.ours(paths[first : first + BATCH]), strict=False):
                seed_generators(SEED, self.number_of[path])
                different += not torch.equal(self.on_pictures(read_image(str(path))), image)
        return different


def best_rates(jobs: dict[str, Callable], paths: Sequence[Path], rounds: int) -> dict[str, float]:
    """Images per second of CPU time in the best batch of the best round; implementations alternate."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for first in range(0, len(paths), BATCH):
            batch = paths[first : first + BATCH]
            for name, job in jobs.items():
                start = time.process_time()
                job(batch)
                best[name] = min(best[name], (time.process_time() - start) / len(batch))
    return {name: 1 / seconds for name, seconds in best.items()}


def measure(name: str, heights: tuple[int, int], count: int, rounds: int) -> list[list[str]]:
    """Table rows of one size of images."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), count, heights)
        ways = Ways(paths)
        different = ways.num_different(paths)
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
        print(f"{name}: {kilobytes:.1f} kB, {different} of {len(paths)} images differ from Pillow + torchvision")
        rates = best_rates(
            {
                "Pillow + torchvision": ways.pillow,
                "torchvision.io + v2": ways.torchvision,
                "ours": ways.ours,
                "ours, a worker's part": ways.bytes_alone,
                "ours, decoding and resizing": ways.decode_and_resize,
                "ours, decoding alone": ways.decode,
                "Pillow, decoding alone": ways.pillow_decodes,
            },
            paths,
            rounds,
        )
    base = rates["Pillow + torchvision"]
    return [[name, way, f"{rate:,.0f}", f"{rate / base:.2f}"] for way, rate in rates.items()]


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4 * BATCH)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"compiled resize: {compiled_resize() is not None}, simplejpeg: {simplejpeg_is_as_pillow()}")
    gc.freeze()  # as in data workers
    rows = [row for name, heights in SIZES.items() for row in measure(name, heights, args.images, args.rounds)]
    gc.unfreeze()
    print(tabulate(rows, ["JPEGs", "way", "images/s/core", "ratio"], disable_numparse=True))


if __name__ == "__main__":
    with reported_as("image_loading"):
        main()
