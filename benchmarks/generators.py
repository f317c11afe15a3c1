#!/usr/bin/env python
"""Times the generators of stage 2: denoiser x steps x precision, all views of an image, without guidance.

    python benchmarks/generators.py [--assets pretrained/random-sd15] [--batch 16] [--rounds 5]

The sizes are those of ViT-B/16: vectors of 768 numbers and 12 tokens. The first row, the UNet of the assets in 5 steps
with guidance in fp32, is the published setting and the baseline of the ratios. Each round measures every row in turn.
Weights, conditions and noise are random. benchmarks/rendered.py has the mAP of the same generators.
"""

import argparse
import contextlib
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from fastreid.methods.sd_reid.view_refined_decoder import ViewEmbedding, ViewRefinedDecoder
from fastreid.modeling.diffusion import (
    Denoiser,
    LatentShape,
    MLPDenoiser,
    Sampler,
    Schedule,
    TransformerDenoiser,
    UNetDenoiser,
    VectorDenoiser,
)
from fastreid.modeling.diffusion.guidance import NullCondition, get_guidance
from fastreid.structures import Condition

import torch
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

DIM, TOKENS, VIEWS = 768, 12, 2


@dataclass
class Row:
    """One generator with its sampler.

    Args:
        name: name of the denoiser.
        denoiser: the denoiser.
        steps: reverse steps.
        guidance: name of the guidance.
        dtype: "fp32" or "bf16".
        solver: name of the solver.
    """

    name: str
    denoiser: Denoiser
    steps: int
    guidance: str = "full"
    dtype: str = "fp32"
    solver: str = "dpm++"

    def prepare(self, batch: int, device: torch.device) -> None:
        """Make random inputs for a batch of images."""
        rows = batch * VIEWS
        latent = self.denoiser.latent_of(DIM)
        if isinstance(self.denoiser, VectorDenoiser):
            decoder: torch.nn.Module = ViewEmbedding(DIM, self.denoiser.control_dim)
        else:
            assert isinstance(self.denoiser, UNetDenoiser) and isinstance(latent, LatentShape)
            decoder = ViewRefinedDecoder(latent, self.denoiser.control_channels)
        tokens = torch.randn(rows, TOKENS, DIM, device=device)
        self.condition = Condition(tokens, decoder.to(device)(torch.randn(rows, DIM, device=device)))
        self.null = NullCondition(torch.zeros_like(tokens))
        schedule = Schedule.from_pretrained("", solver=self.solver, num_timesteps=1000)
        self.sampler = Sampler(schedule, self.steps, get_guidance(self.guidance))
        self.noise = torch.randn(self.sampler.noise_steps, rows, *latent.shape, device=device)

    def seconds(self) -> float:
        """Wall time of sampling all views of the batch."""
        device = self.noise.device
        half = torch.autocast(device.type, torch.bfloat16) if self.dtype == "bf16" else contextlib.nullcontext()
        start = time.perf_counter()
        with torch.inference_mode(), half:
            self.sampler.sample(self.denoiser, self.condition, self.null, self.noise)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    def macs_per_image(self) -> float:
        """Multiply-accumulate operations for all views of an image."""
        one = self.condition.rows(0, 1)
        # With gradients, because the fused kernels of inference are not counted.
        with FlopCounterMode(display=False) as counter:
            self.denoiser(self.noise[0, :1], torch.tensor(1, device=self.noise.device), one)
        return counter.get_total_flops() / 2 * VIEWS * self.steps * (1 + (self.guidance != "full"))


def make_rows(assets: Path, device: torch.device) -> list[Row]:
    """The rows; those of the UNet only if the assets are there."""
    sizes = {"dim": DIM, "num_tokens": TOKENS, "num_views": VIEWS, "dropout": 0.0}
    denoisers: dict[str, Denoiser] = {
        "mlp 512 x 1": MLPDenoiser(**sizes, width=512, depth=1),
        "mlp 1024 x 3": MLPDenoiser(**sizes, width=1024, depth=3),
        "transformer x 6": TransformerDenoiser(**sizes, depth=6, num_heads=12),
    }
    rows = []
    if assets.is_dir():
        unet = UNetDenoiser.from_pretrained(str(assets / "unet")).to(device).eval()
        rows = [
            Row("unet", unet, 5, "uc_full", solver="ddpm"),
            Row("unet", unet, 1),
            Row("unet", unet, 1, dtype="bf16"),
        ]
    for name, denoiser in denoisers.items():
        denoiser.to(device).eval()
        rows += [Row(name, denoiser, steps, dtype=dtype) for steps in (1, 5) for dtype in ("fp32", "bf16")]
    return rows


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, default=Path("pretrained/random-sd15"), metavar="DIR")
    parser.add_argument("--batch", type=int, default=16, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds in turn")
    if not args.assets.is_dir():
        print(f"no UNet: {args.assets} is missing (tools/make_assets.py --size sd15 makes random weights)")
    rows = make_rows(args.assets, device)
    for row in rows:
        row.prepare(args.batch, device)
        row.seconds()  # warm-up
    times = [[row.seconds() for row in rows] for _ in range(args.rounds)]
    table = []
    for number, row in enumerate(rows):
        per_image = statistics.median(one[number] for one in times) / args.batch
        ratio = statistics.median(one[0] / one[number] for one in times)
        numbers = [f"{row.macs_per_image() / 1e6:,.0f}", f"{1e3 * per_image:.2f}", f"{ratio:,.1f}x"]
        table.append([row.name, row.steps, row.guidance, row.dtype, *numbers])
    print(tabulate(table, ["denoiser", "steps", "guidance", "dtype", "MMAC/image", "ms/image", "baseline/row"]))


if __name__ == "__main__":
    main()
