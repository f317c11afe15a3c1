#!/usr/bin/env python
"""Times training steps of DCAC against the plain way to compute them, and against the model without diffusion.

    python benchmarks/dcac.py [--assets pretrained/random-sd15] [--batch 8] [--rounds 5] [--device cpu] [--block 20]

The plain way computes the full cross-attention, encodes the images in each step, and stores frozen weights in float32.
The library's way computes attention to one token in closed form, reads stored latents, and stores frozen weights in the
format of autocast. Both run under the same autocast, on the same batch, from the same weights and random numbers. Each
round takes a step of the model without diffusion, a plain step and a step of the library, in turn; ratios are medians
over rounds. With --block each takes that many steps between two synchronisations of a GPU; its memory is the peak
beside the weights of all three. The losses of the first steps are compared. Sizes are those of the recipes (ViT-B/16 at
256x128, latents of 128x128 images); weights and images are random. tools/make_assets.py --size sd15 writes the assets.
"""

import argparse
import logging
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from fastreid.modeling.amp import amp_dtype, autocast_for, store_frozen_assets
from fastreid.solver import build_optimizer
from fastreid.utils.errors import reported_as

import torch
from tabulate import tabulate

from figures import add_device, describe, figure, memory_of, seconds_of

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = 751  # of Market-1501
BASELINE, PLAIN, OURS = "without diffusion", "plain", "library"
CHANGES: dict[str, list[Any]] = {
    BASELINE: ["MODEL.LOSSES.DIFF.SCALE", 0.0],
    PLAIN: ["DCAC.SD.SINGLE_TOKEN", False, "SOLVER.AMP.FROZEN", False],
    OURS: [],
}


class StoredMoments:
    """Moments of the latents of one batch, in place of the cache of a training."""

    def __init__(self, moments: torch.Tensor) -> None:
        self._moments = moments

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the moments of images [B]."""
        return self._moments[indices]


class Way:
    """One way to compute a training step.

    Args:
        name: key of `CHANGES`.
        cfg: the config without its changes.
        batch: the batch of all steps.
    """

    def __init__(self, name: str, cfg: CfgNode, batch: dict[str, Any]) -> None:
        self.cfg = cfg.clone()
        self.cfg.merge_from_list(CHANGES[name])
        self.device = torch.device(cfg.MODEL.DEVICE)
        torch.manual_seed(0)
        self.model = build_model(self.cfg, num_classes=PEOPLE).train()
        if self.model.memory is not None:
            torch.manual_seed(1)
            prototypes = torch.nn.functional.normalize(torch.randn(self.model.memory.class_prototypes.shape))
            self.model.memory.class_prototypes.copy_(prototypes)
        store_frozen_assets(self.cfg, self.model, self.device)
        self.optimizer, self.batch = build_optimizer(self.cfg, self.model), batch
        if name == OURS:
            with torch.no_grad(), autocast_for(self.cfg, self.device):
                self.model.feedback.cache = StoredMoments(self.model.feedback.moments(batch).float().cpu())

    def step(self) -> dict[str, torch.Tensor]:
        """Take a training step and return its losses."""
        with autocast_for(self.cfg, self.device):
            losses = self.model(self.batch)
        sum(losses.values()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: loss.detach() for name, loss in losses.items()}

    def first_step(self) -> tuple[float, float]:
        """Take a step with numbers that are the same for all ways; return the diffusion loss and the GiB of a GPU."""
        torch.manual_seed(2)
        losses, memory = memory_of(self.step, self.device)
        return float(losses.get("loss_diffusion", 0)), memory

    def seconds(self, block: int) -> float:
        """Return the seconds of a step, in a block of some."""
        torch.manual_seed(2)
        return seconds_of(self.step, self.device, block)


def make_batch(size: int, device: str) -> dict[str, Any]:
    """Return random images of people in groups of four."""
    generator = torch.Generator().manual_seed(0)
    return {
        "images": (torch.rand(size, 3, 256, 128, generator=generator) * 255).to(device),
        "diffusion_images": (torch.rand(size, 3, 128, 128, generator=generator) * 255).to(device),
        "targets": torch.arange(size) // 4,
        "indices": torch.arange(size),
    }


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", default=str(ROOT / "pretrained/random-sd15"), help="folder of Stable Diffusion")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=int, default=1, help="steps between two synchronisations of a GPU")
    add_device(parser, default="cpu")
    args = parser.parse_args()
    logging.getLogger("fastreid").setLevel(logging.ERROR)
    if not Path(args.assets).is_dir():
        command = ["tools/make_assets.py", "--size", "sd15", "--output", args.assets]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    cfg = get_cfg()
    cfg.merge_from_file(ROOT / "configs/DCAC/market1501.yml")
    cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", False, "DCAC.SD.WEIGHTS", args.assets])
    cfg.merge_from_list(["MODEL.DEVICE", str(args.device)])
    batch = make_batch(args.batch, str(args.device))
    ways = {name: Way(name, cfg, batch) for name in CHANGES}
    first = {name: way.first_step() for name, way in ways.items()}  # a warm-up, from equal weights
    rounds = [{name: way.seconds(args.block) for name, way in ways.items()} for _ in range(args.rounds)]
    medians = {name: statistics.median(times[name] for times in rounds) for name in ways}
    ratios = {name: statistics.median(times[name] / times[OURS] for times in rounds) for name in ways}
    print(
        f"batch {args.batch} on {describe(args.device)}, autocast {amp_dtype(cfg, args.device)}, {args.rounds} rounds"
    )
    rows = [
        [name, f"{medians[name]:.3f}", f"{ratios[name]:.2f}x", f"{first[name][0]:.4f}", f"{first[name][1]:.2f}"]
        for name in ways
    ]
    print(tabulate(rows, ["step", "s", "time, library = 1", "diffusion loss", "GiB"], disable_numparse=True))
    figure("DCAC: plain step / library", ratios[PLAIN])
    figure("DCAC: step of the library", 1e3 * medians[OURS], " ms")


if __name__ == "__main__":
    with reported_as("dcac"):
        main()
