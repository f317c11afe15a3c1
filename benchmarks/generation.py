#!/usr/bin/env python
"""Times how pictures are written, against diffusers' pipeline that is called for one picture after the other.

    python benchmarks/generation.py [--assets pretrained/random-tiny-text] [--pictures 32] [--steps 20] [--rounds 3]

All ways write the same pictures, with the same prompts, noise and steps, in turn; each row has the fastest round. The
pictures of each way are compared with those of the first. Weights may be random.
"""

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastreid.generation.painter import Painter
from fastreid.generation.plans import PicturePlan, seed_of
from fastreid.modeling.diffusion import Autoencoder, Schedule, UNetDenoiser
from fastreid.modeling.diffusion.text import TextEncoder
from fastreid.utils.errors import reported_as

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from figures import add_device, describe, figure, memory_of

HEADERS = ["way", "solver", "steps", "pictures/s", "plain / it", "mean difference (grey levels)", "GiB"]

# Seconds of the fastest round, its pictures, and the GiB that it takes on a GPU beside the models.
Found = tuple[float, list[Image.Image], float]


@dataclass(frozen=True)
class Way:
    """A way to write pictures.

    Attributes:
        name: what it is, for the table.
        batch: pictures that are written together; 0 calls the pipeline for each prompt.
        solver: name of the solver.
        steps: its steps.
        is_mixed: whether it computes in bfloat16.
        is_compiled: whether the UNet is compiled.
    """

    name: str
    batch: int
    solver: str
    steps: int
    is_mixed: bool = False
    is_compiled: bool = False


class Studio:
    """The parts of one folder, and the pictures to write.

    Args:
        assets: folder of a pipeline.
        size: (height, width).
        pictures: number of pictures.
        device: where the parts are.
    """

    def __init__(self, assets: Path, size: tuple[int, int], pictures: int, device: torch.device) -> None:
        self.assets, self.size, self.device = str(assets), size, device
        self.text = TextEncoder.from_pretrained(self.assets).to(device)
        self.vae = Autoencoder.from_pretrained(self.assets).vae.to(device)
        self.unet = UNetDenoiser.from_pretrained(self.assets).unet.to(device).eval()
        colours = ("red", "blue", "white", "black", "green")
        self.plans = [
            PicturePlan(-1, n, f"a photo of a person, a {colours[n % 5]} top, walking", seed_of("benchmark", n), {})
            for n in range(pictures)
        ]

    def job(self, way: Way, guidance: float) -> Callable[[], list[Image.Image]]:
        """Return what writes the pictures in one way, after it has written a batch."""
        unet = torch.compile(self.unet, dynamic=False) if way.is_compiled else self.unet
        schedule = Schedule.from_pretrained(self.assets, solver=way.solver, num_timesteps=1000)
        painter = Painter(
            text=self.text,
            vae=self.vae,
            unet=unet,
            schedule=schedule,
            size=self.size,
            num_steps=way.steps,
            guidance=guidance,
            batch_size=max(1, way.batch),
            autocast=functools.partial(torch.autocast, self.device.type, torch.bfloat16, enabled=way.is_mixed),
        )
        work = functools.partial(self._one_by_one, painter) if not way.batch else functools.partial(_batches, painter)
        work(self.plans[: max(1, way.batch)])  # compilation, and the first use of each kernel
        return functools.partial(work, self.plans)

    def _one_by_one(self, painter: Painter, plans: list[PicturePlan]) -> list[Image.Image]:
        height, width = self.size
        pictures = []
        for plan in plans:
            latents = painter.noise(plan.seed)[None].to(self.device)
            found = painter.pipeline(plan.prompt, latents=latents, height=height, width=width, **painter.options)
            pictures.append(found.images[0])
        return pictures


def _batches(painter: Painter, plans: list[PicturePlan]) -> list[Image.Image]:
    size = painter.batch_size
    return [picture for first in range(0, len(plans), size) for picture in painter.paint(plans[first : first + size])]


def ways(steps: int, batch: int, device: torch.device, *, compiles: bool) -> list[Way]:
    """Return the ways of the table: the plain one first."""
    found = [
        Way("diffusers, one by one", 0, "ddim", steps),
        Way(f"batches of {batch}", batch, "ddim", steps),
        Way(f"batches of {batch}, bfloat16", batch, "ddim", steps, is_mixed=True),
    ]
    if compiles:
        found.append(Way(f"batches of {batch}, bfloat16, compiled", batch, "ddim", steps, True, True))
    return [*found, Way(f"batches of {batch}, bfloat16", batch, "dpm++", max(1, steps * 2 // 5), is_mixed=True)]


def timed(jobs: dict[Way, Callable[[], list[Image.Image]]], rounds: int, device: torch.device) -> dict[Way, Found]:
    """Return what was found of each way."""
    best: dict[Way, Found] = {}
    for _ in range(rounds):
        for way, job in jobs.items():
            start = time.perf_counter()  # pictures are on the CPU: no work is left at the end
            pictures, memory = memory_of(job, device)
            seconds = time.perf_counter() - start
            if way not in best or seconds < best[way][0]:
                best[way] = seconds, pictures, memory
    return best


def rows_of(found: dict[Way, Found]) -> list[list[object]]:
    """Return the rows of the table."""
    plain, expected, _ = next(iter(found.values()))
    rows: list[list[object]] = []
    for way, (seconds, pictures, memory) in found.items():
        differences = [
            np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean()
            for a, b in zip(pictures, expected, strict=True)
        ]
        speed = f"{len(pictures) / seconds:.2f}", f"{plain / seconds:.2f}"
        rows.append([way.name, way.solver, way.steps, *speed, f"{np.mean(differences):.2f}", f"{memory:.2f}"])
    return rows


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=Path("pretrained/random-tiny-text"))
    parser.add_argument("--size", type=int, nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also with a compiled UNet, which takes a minute")
    add_device(parser)
    args = parser.parse_args()
    device = args.device
    studio = Studio(args.assets, tuple(args.size), args.pictures, device)
    chosen = ways(args.steps, args.batch, device, compiles=args.compile)
    found = timed({way: studio.job(way, args.guidance) for way in chosen}, args.rounds, device)
    print(f"{args.pictures} pictures of {args.size[0]}x{args.size[1]}, {describe(device)}")
    print(tabulate(rows_of(found), HEADERS))
    plain, *ours = [seconds for seconds, _, _ in found.values()]
    figure("pictures: diffusers one by one / the fastest batches", plain / min(ours))


if __name__ == "__main__":
    with reported_as("generation"):
        main()
