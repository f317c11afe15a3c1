#!/usr/bin/env python
"""Times the sampling of SD-ReID: all views and guidance branches in one UNet call per step, against plain loops.

    python benchmarks/sampling.py [--assets pretrained/random-tiny …] [--batch 16] [--rounds 5] [--dtype bf16]
        [--device cuda] [--compile]

The ways take turns, with the same weights, conditions and noise, all random:

    library     all views and both guidance branches in one call; bf16 weights in linear and convolutional layers
    compiled    the same, with MODEL.COMPILE (--compile)
    diffusers   one view in a call, with both branches, and diffusers' scheduler on the device, as its pipelines do
    release     one view and one branch in a call, in float32, as the release of SD-ReID does

The first three compute in --dtype. Per way the table has the median time per image, the rate, the median of the rounds'
ratios, the peak of the memory beside the weights on a GPU, and the difference from the release.
"""

import argparse
import contextlib
import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastreid.methods.sd_reid.view_refined_decoder import ViewRefinedDecoder
from fastreid.modeling.amp import cpu_has_bf16
from fastreid.modeling.diffusion import LatentShape, Sampler, Schedule, UNetDenoiser
from fastreid.modeling.diffusion.guidance import NullCondition, get_guidance
from fastreid.structures import Condition
from fastreid.utils.errors import reported_as

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from figures import add_device, describe, figure, memory_of, product_rate, seconds_of

NUM_VIEWS, NUM_STEPS, GUIDANCE_SCALE = 2, 5, 2.0
# Tokens of the two sizes: the identity conditions of their ViTs, and the view.
NUM_TOKENS = {768: 12, 192: 6}
LIBRARY, COMPILED, DIFFUSERS, RELEASE = "library", "compiled", "diffusers", "release"
HEADERS = ["assets", "way", "dtype", "images", "ms/image", "GMAC/s", "it / library", "GiB", "difference"]


class Work:
    """Random inputs of a batch of images for one assets folder.

    Args:
        assets: folder of a UNet and a scheduler.
        batch: images.
        device: where it runs.
        dtype: "fp32" or "bf16".
    """

    def __init__(self, assets: Path, batch: int, device: torch.device, dtype: str) -> None:
        torch.manual_seed(0)
        self.batch, self.is_half, self.device = batch, dtype == "bf16", device
        self.full = UNetDenoiser.from_pretrained(str(assets / "unet")).to(device).eval()
        self.denoiser = _in_bf16(self.full) if self.is_half else self.full
        dim = self.full.context_dim
        latent = LatentShape.of(dim)
        self.schedule = Schedule.from_pretrained(
            str(assets / "scheduler"), solver="ddpm", num_timesteps=1000, cubic=True
        )
        self.sampler = Sampler(self.schedule, num_steps=NUM_STEPS, guidance=get_guidance("uc_full"))
        decoder = ViewRefinedDecoder(latent, self.full.control_channels).to(device)
        rows = batch * NUM_VIEWS
        self.compiled_sampler = self.sampler.with_compiled(rows)
        tokens = torch.randn(rows, NUM_TOKENS.get(dim, 12), dim, device=device)
        self.condition = Condition(tokens, decoder(torch.randn(rows, dim, device=device)))
        self.null = Condition(torch.randn_like(tokens), self.condition.control)
        self.noise = torch.randn(self.sampler.noise_steps, rows, *latent.shape, device=device)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of the library's ways."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.is_half else contextlib.nullcontext()

    def library(self) -> Tensor:
        """Sample as in the library."""
        return self._sampled(self.sampler)

    def compiled(self) -> Tensor:
        """Sample as in the library with MODEL.COMPILE."""
        return self._sampled(self.compiled_sampler)

    def _sampled(self, sampler: Sampler) -> Tensor:
        null = NullCondition(self.null.tokens, drops_down=False, drops_up=False)
        with self.autocast():
            return sampler.sample(self.denoiser, self.condition, null, self.noise)

    def diffusers(self) -> Tensor:
        """Sample one view after the other, with both branches in a call."""

        def both(scaled: Tensor, time: Tensor, weak: Condition, full: Condition) -> tuple[Tensor, Tensor]:
            joined = self.denoiser(torch.cat([scaled, scaled]), time, Condition.cat([weak, full]))
            unguided, guided = joined.float().chunk(2)
            return unguided, guided

        with self.autocast():
            return self._view_by_view(both)

    def release(self) -> Tensor:
        """Sample one view after the other, and one branch after the other."""
        return self._view_by_view(
            lambda scaled, time, weak, full: (self.full(scaled, time, weak), self.full(scaled, time, full))
        )

    def _view_by_view(self, predict: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        samples = torch.empty_like(self.noise[0])
        for first in range(NUM_VIEWS):
            view = slice(first, None, NUM_VIEWS)
            samples[view] = self._one_view(predict, _rows(self.null, view), _rows(self.condition, view), view)
        return samples

    def _one_view(
        self, predict: Callable[..., tuple[Tensor, Tensor]], weak: Condition, full: Condition, view: slice
    ) -> Tensor:
        solver, noise = self.schedule.make_solver(), self.noise[:, view]
        solver.set_timesteps(NUM_STEPS, device=self.device)
        sample = noise[0] * solver.init_noise_sigma
        for index, time in enumerate(solver.timesteps):
            unguided, guided = predict(solver.scale_model_input(sample, time), time, weak, full)
            guided = unguided + GUIDANCE_SCALE * (guided - unguided)
            sample = solver.step(guided, time, sample, eta=1.0, variance_noise=noise[index + 1]).prev_sample
        return sample

    def macs_per_pass(self) -> float:
        """Multiply-accumulate operations of a UNet pass on one sample."""
        one = self.condition.rows(0, 1)
        # With gradients, because the fused kernels of inference are not counted.
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            self.full(self.noise[0, :1], torch.tensor(1, device=self.device), one)
        return counter.get_total_flops() / 2

    def macs_per_image(self) -> float:
        """Multiply-accumulate operations for all views of an image."""
        return self.macs_per_pass() * NUM_VIEWS * 2 * NUM_STEPS


def _rows(condition: Condition, view: slice) -> Condition:
    assert condition.control is not None
    return Condition(condition.tokens[view], condition.control.map(lambda m: m[view], lambda m: m[view]))


def _in_bf16(denoiser: UNetDenoiser) -> UNetDenoiser:
    """Return a copy whose frozen weights are stored as SOLVER.AMP.FROZEN and TEST.AMP.ENABLED store them."""
    denoiser = copy.deepcopy(denoiser)
    for module in denoiser.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
    return denoiser


@dataclass
class Timed:
    """Measurements of a way: seconds of each round, GiB beside the weights, relative difference from the release."""

    seconds: list[float]
    memory: float
    difference: float


def timed(work: Work, names: list[str], rounds: int) -> dict[str, Timed]:
    """Return the measurements of ways, which take turns."""
    expected = work.release()
    found = {}
    for name in names:
        sample, memory = memory_of(getattr(work, name), work.device)  # also the warm-up
        found[name] = Timed([], memory, float((sample - expected).norm() / expected.norm()))
    for _ in range(rounds):
        for name, of in found.items():
            of.seconds.append(seconds_of(getattr(work, name), work.device))
    return found


def measure(assets: Path, args: argparse.Namespace) -> list[list[object]]:
    """Return the table rows of one assets folder, and print its figures."""
    names = [LIBRARY, *([COMPILED] if args.compile else []), DIFFUSERS, RELEASE]
    work = Work(assets, args.batch, args.device, args.dtype)
    macs = work.macs_per_image()
    with torch.inference_mode():
        found = timed(work, names, args.rounds)
    rows: list[list[object]] = []
    for name, of in found.items():
        per_image = statistics.median(of.seconds) / args.batch
        dtype = "fp32" if name == RELEASE else args.dtype
        numbers = [f"{1e3 * per_image:.1f}", f"{macs / per_image / 1e9:.0f}", f"{ratio(of, found[LIBRARY]):.2f}"]
        rows.append([assets, name, dtype, args.batch, *numbers, f"{of.memory:.2f}", f"{of.difference:.0e}"])
    print_figures(f"sampling, {assets.name}, {args.dtype}", found, args, macs)
    return rows


def ratio(one: Timed, other: Timed) -> float:
    """Return the median of the rounds' ratios of two ways."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def print_figures(title: str, found: dict[str, Timed], args: argparse.Namespace, macs: float) -> None:
    """Print the figures of benchmarks/gpu.sh."""
    # A CPU that emulates bf16 takes minutes for the products.
    rate = product_rate(args.device) if args.device.type == "cuda" or cpu_has_bf16() else None
    for name in (LIBRARY, COMPILED):
        if name in found:
            seconds = statistics.median(found[name].seconds)
            figure(f"{title}: release / {name}, an image", ratio(found[RELEASE], found[name]), goal="8 or more")
            figure(f"{title}: diffusers / {name}, an image", ratio(found[DIFFUSERS], found[name]))
            if rate:
                share = 100 * macs * args.batch / seconds / rate
                figure(f"{title}: {name}, share of the bf16 rate of products", share, " %", goal="50 % or more")
            figure(f"{title}: {name}, an image", 1e3 * seconds / args.batch, " ms")


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", nargs="+", type=Path, default=[Path("pretrained/random-tiny")], metavar="DIR")
    parser.add_argument("--batch", type=int, default=16, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="also with compiled calls, which takes minutes")
    add_device(parser)
    args = parser.parse_args()
    print(f"{describe(args.device)}, {args.rounds} rounds in turn")
    rows = [row for assets in args.assets for row in measure(assets, args)]
    print(tabulate(rows, HEADERS, disable_numparse=True))


if __name__ == "__main__":
    with reported_as("sampling"):
        main()
