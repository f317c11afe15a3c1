#!/usr/bin/env python
"""Times the generators of stage 2: denoiser x steps x precision, all views of an image, without guidance.

    python benchmarks/generators.py [--size vit_b16|quickstart] [--assets pretrained/random-sd15] [--batch 16]
        [--rounds 5] [--results logs/rendered] [--device cuda]

The sizes are those of ViT-B/16 (vectors of 768 numbers, 12 tokens) or of the quickstart (192 and 6). The first row is
the baseline of the ratios; with assets of that size it is the UNet in 5 steps, at true size with guidance, as
published. Each round measures every row in turn. Weights, conditions and noise are random. The mAP of the quickstart's
rows is that of A↔G which benchmarks/rendered.py has measured in RESULTS, the mean over its seeds; "" is not measured.
"""

import argparse
import contextlib
import json
import statistics
from dataclasses import dataclass, replace
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
from fastreid.utils.errors import reported_as
from rendered import folder_of

import torch
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from figures import add_device, describe, seconds_of

VIEWS = 2


@dataclass(frozen=True)
class Size:
    """Sizes of a backbone and its generators.

    Args:
        dim: numbers of a vector.
        tokens: tokens of a condition.
        heads: attention heads of the transformer.
        assets: folder of the UNet.
        guidance: guidance of the UNet in 5 steps.
        mlps: (width, depth) of MLPs.
        depth: blocks of the transformer.
    """

    dim: int
    tokens: int
    heads: int
    assets: str
    guidance: str
    mlps: tuple[tuple[int, int], ...]
    depth: int


SIZES = {
    "vit_b16": Size(768, 12, 12, "pretrained/random-sd15", "uc_full", ((512, 1), (1024, 3)), 6),
    "quickstart": Size(192, 6, 3, "pretrained/random-tiny", "full", ((512, 1),), 2),
}
# (denoiser, steps, draws) of the quickstart -> row of benchmarks/rendered.py.
MEASURED = {
    ("unet", 5, 1): "UNet",
    ("mlp 512 x 1", 1, 1): "the same, 1 step from zeros",
    ("mlp 512 x 1", 2, 1): "the same, 2 steps",
    ("mlp 512 x 1", 5, 1): "MLP, diffusion of 5 steps",
    ("mlp 512 x 1", 5, 8): "the same, 8 draws",
    ("mlp 512 x 1", 20, 1): "the same, 20 steps",
    ("transformer x 2", 1, 1): "transformer, one step",
}


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
        draws: samples for each view.
    """

    name: str
    denoiser: Denoiser
    steps: int
    guidance: str = "full"
    dtype: str = "fp32"
    solver: str = "dpm++"
    draws: int = 1

    def prepare(self, size: Size, batch: int, device: torch.device) -> None:
        """Make random inputs for a batch of images."""
        rows = batch * VIEWS * self.draws
        latent = self.denoiser.latent_of(size.dim)
        if isinstance(self.denoiser, VectorDenoiser):
            decoder: torch.nn.Module = ViewEmbedding(size.dim, self.denoiser.control_dim)
        else:
            assert isinstance(self.denoiser, UNetDenoiser) and isinstance(latent, LatentShape)
            decoder = ViewRefinedDecoder(latent, self.denoiser.control_channels)
        tokens = torch.randn(rows, size.tokens, size.dim, device=device)
        self.condition = Condition(tokens, decoder.to(device)(torch.randn(rows, size.dim, device=device)))
        self.null = NullCondition(torch.zeros_like(tokens))
        schedule = Schedule.from_pretrained("", solver=self.solver, num_timesteps=1000)
        self.sampler = Sampler(schedule, self.steps, get_guidance(self.guidance))
        self.noise = torch.randn(self.sampler.noise_steps, rows, *latent.shape, device=device)

    def seconds(self) -> float:
        """Wall time of sampling all views of the batch."""
        device = self.noise.device
        half = torch.autocast(device.type, torch.bfloat16) if self.dtype == "bf16" else contextlib.nullcontext()
        with torch.inference_mode(), half:
            return seconds_of(lambda: self.sampler.sample(self.denoiser, self.condition, self.null, self.noise), device)

    def macs_per_image(self) -> float:
        """Multiply-accumulate operations for all views of an image."""
        one = self.condition.rows(0, 1)
        # With gradients, because the fused kernels of inference are not counted.
        with FlopCounterMode(display=False) as counter:
            self.denoiser(self.noise[0, :1], torch.tensor(1, device=self.noise.device), one)
        return counter.get_total_flops() / 2 * VIEWS * self.draws * self.steps * (1 + (self.guidance != "full"))


def make_rows(name: str, size: Size, assets: Path, device: torch.device) -> list[Row]:
    """The rows; those of the UNet only if the assets are there."""
    sizes = {"dim": size.dim, "num_views": VIEWS, "dropout": 0.0, "num_tokens": size.tokens}
    mlps = [(f"mlp {w} x {d}", MLPDenoiser(**sizes, width=w, depth=d)) for w, d in size.mlps]
    transformer = TransformerDenoiser(**sizes, depth=size.depth, num_heads=size.heads)
    rows = []
    if assets.is_dir():
        unet = UNetDenoiser.from_pretrained(str(assets / "unet"))
        rows = [Row("unet", unet, 5, size.guidance, solver="ddpm"), Row("unet", unet, 1)]
    if name == "quickstart":
        ways = [(1, 1), (2, 1), (5, 1), (5, 8), (20, 1)]
        rows += [Row(*mlps[0], steps, draws=draws) for steps, draws in ways]
        rows.append(Row(f"transformer x {size.depth}", transformer, 1))
    else:
        rows += [replace(row, dtype="bf16") for row in rows[1:]]
        for each in (*mlps, (f"transformer x {size.depth}", transformer)):
            rows += [Row(*each, steps, dtype=dtype) for steps in (1, 5) for dtype in ("fp32", "bf16")]
    for row in rows:
        row.denoiser.to(device).eval()
    return rows


def measured(row: Row, results: Path) -> str:
    """The mAP of A↔G that benchmarks/rendered.py has measured for a row of the quickstart; "" if it has not."""
    name = MEASURED.get((row.name, row.steps, row.draws))
    files = sorted(results.glob(f"seed*/{folder_of(name)}/results.json")) if name else []
    found = [json.loads(file.read_text(encoding="utf-8"))["CARGO_AG"]["mAP"] for file in files]
    return f"{statistics.mean(found):.1f} ({len(found)} seeds)" if found else ""


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="vit_b16")
    parser.add_argument("--assets", type=Path, metavar="DIR", help="of tools/make_assets.py; default: of the size")
    parser.add_argument("--batch", type=int, default=16, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path("logs/rendered"), help="output of rendered.py")
    add_device(parser)
    args = parser.parse_args()
    torch.manual_seed(0)
    size = SIZES[args.size]
    assets = args.assets or Path(size.assets)
    device = args.device
    print(f"{describe(device)}, {args.rounds} rounds in turn")
    if not assets.is_dir():
        print(f"no UNet: {assets} is missing (tools/make_assets.py makes random weights)")
    rows = make_rows(args.size, size, assets, device)
    for row in rows:
        row.prepare(size, args.batch, device)
        row.seconds()  # warm-up
    times = [[row.seconds() for row in rows] for _ in range(args.rounds)]
    table = []
    for number, row in enumerate(rows):
        per_image = statistics.median(one[number] for one in times) / args.batch
        ratio = statistics.median(one[0] / one[number] for one in times)
        numbers = [f"{row.macs_per_image() / 1e6:,.1f}", f"{1e3 * per_image:.2f}", f"{ratio:,.1f}x"]
        accuracy = [measured(row, args.results)] if args.size == "quickstart" else []
        table.append([row.name, row.steps, row.draws, row.guidance, row.dtype, *numbers, *accuracy])
    headers = ["denoiser", "steps", "draws", "guidance", "dtype", "MMAC/image", "ms/image", "baseline/row"]
    print(tabulate(table, [*headers, "mAP, A↔G"][: len(table[0])], disable_numparse=True))


if __name__ == "__main__":
    with reported_as("generators"):
        main()
