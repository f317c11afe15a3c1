#!/usr/bin/env python
"""Times the sampling of SD-ReID: all views and guidance branches in one UNet call per step, against separate calls.

    python benchmarks/sampling.py [--assets pretrained/random-tiny …] [--batch 16] [--rounds 5] [--dtype bf16]

Per assets folder it prints, of both ways in turn (batched, loop, batched, loop …), the median time per image and the
achieved GMAC/s, and the median of the rounds' ratios. Everything random: weights, conditions, noise.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from fastreid.methods.sd_reid.view_refined_decoder import ViewRefinedDecoder
from fastreid.modeling.diffusion import LatentShape, Sampler, Schedule, UNetDenoiser
from fastreid.modeling.diffusion.guidance import NullCondition, get_guidance
from fastreid.structures import Condition

import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

NUM_VIEWS, NUM_STEPS, GUIDANCE_SCALE = 2, 5, 2.0
# Tokens of the two sizes: the identity conditions of their ViTs, and the view.
NUM_TOKENS = {768: 12, 192: 6}


class Work:
    """Random inputs of a batch of images for one assets folder."""

    def __init__(self, assets: Path, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.denoiser = UNetDenoiser.from_pretrained(str(assets / "unet")).to(device).eval()
        dim = self.denoiser.context_dim
        self.latent = LatentShape.of(dim)
        self.schedule = _schedule(assets)
        self.sampler = Sampler(self.schedule, num_steps=NUM_STEPS, guidance=get_guidance("uc_full"))
        decoder = ViewRefinedDecoder(self.latent, self.denoiser.control_channels).to(device)
        rows, self.batch = batch * NUM_VIEWS, batch
        tokens = torch.randn(rows, NUM_TOKENS.get(dim, 12), dim, device=device)
        self.condition = Condition(tokens, decoder(torch.randn(rows, dim, device=device)))
        self.null = torch.randn_like(tokens)
        self.noise = torch.randn(self.sampler.noise_steps, rows, *self.latent.shape, device=device)

    def batched(self) -> Tensor:
        """Sample as in the library."""
        null = NullCondition(self.null, drops_down=False, drops_up=False)
        return self.sampler.sample(self.denoiser, self.condition, null, self.noise)

    def loop(self) -> Tensor:
        """Sample each view and each guidance branch in a call of its own (the same images per call)."""
        views = [slice(view, None, NUM_VIEWS) for view in range(NUM_VIEWS)]
        samples = torch.empty_like(self.noise[0])
        for view in views:
            samples[view] = self._one_view(view)
        return samples

    def _one_view(self, view: slice) -> Tensor:
        control = self.condition.control.map(lambda m: m[view], lambda m: m[view])
        full, weak = Condition(self.condition.tokens[view], control), Condition(self.null[view], control)
        reverse = self.schedule.reverse(NUM_STEPS, self.noise.device)
        noise = self.noise[:, view]
        sample = noise[0] * reverse.start_scale
        for index, timestep in enumerate(reverse.timesteps):
            scaled = reverse.scale(sample, timestep)
            unguided = self.denoiser(scaled, timestep, weak).float()
            guided = unguided + GUIDANCE_SCALE * (self.denoiser(scaled, timestep, full).float() - unguided)
            sample = reverse.step(guided, timestep, sample, noise[index + 1])
        return sample

    def macs_per_pass(self) -> float:
        """Multiply-accumulate operations of a UNet pass on one sample."""
        with FlopCounterMode(display=False) as counter:
            self.denoiser(self.noise[0, :1], torch.tensor(1, device=self.noise.device), self.condition.rows(0, 1))
        return counter.get_total_flops() / 2

    def macs_per_image(self) -> float:
        """Multiply-accumulate operations for all views of an image."""
        return self.macs_per_pass() * NUM_VIEWS * 2 * NUM_STEPS


def _schedule(assets: Path) -> Schedule:
    return Schedule.from_pretrained(str(assets / "scheduler"), solver="ddpm", num_timesteps=1000, cubic=True)


def seconds(function: Callable[[], Tensor], device: torch.device) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(assets: Path, batch: int, rounds: int, dtype: str, device: torch.device) -> list[list[str]]:
    """Table rows of one assets folder."""
    half = torch.autocast(device.type, torch.bfloat16) if dtype == "bf16" else contextlib.nullcontext()
    with torch.inference_mode(), half:
        work = Work(assets, batch, device)
        difference = (work.batched() - work.loop()).norm() / work.loop().norm()  # also the warm-up
        times = [(seconds(work.batched, device), seconds(work.loop, device)) for _ in range(rounds)]
        gmac, per_pass = work.macs_per_image() / 1e9, work.macs_per_pass() / 1e9
    ratio = statistics.median(loop / batched for batched, loop in times)
    rows = []
    for name, column in (("batched", 0), ("loop", 1)):
        per_image = statistics.median(pair[column] for pair in times) / batch
        speedup = f"{ratio:.2f}x" if name == "batched" else ""
        rows.append([str(assets), dtype, batch, name, f"{1e3 * per_image:.1f}", f"{gmac / per_image:.0f}", speedup])
    rows[0] += [f"{per_pass:.2f}", f"{difference:.0e}"]
    return rows


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", nargs="+", type=Path, default=[Path("pretrained/random-tiny")], metavar="DIR")
    parser.add_argument("--batch", type=int, default=16, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds in turn")
    rows = [row for a in args.assets for row in measure(a, args.batch, args.rounds, args.dtype, device)]
    headers = ["assets", "dtype", "images", "sampling", "ms/image", "GMAC/s", "loop/batched", "GMAC/pass", "difference"]
    print(tabulate(rows, headers))


if __name__ == "__main__":
    main()
