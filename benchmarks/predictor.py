#!/usr/bin/env python
"""Times the features of the people in a frame: `fastreid.Predictor` against `DefaultPredictor.describe`.

    python benchmarks/predictor.py [--config-file FILE] [--boxes 20] [--rounds 10]

A model with random weights is written as a checkpoint. Predictor gets a frame of 1920 x 1080 pixels and boxes, and
describe files of the same people, which are there or are written as PNG first. describe starts worker processes for
more than one batch, so it is timed with one batch and with two. The ways take turns; the best round of each counts, as
other programs may run. Before, their features are compared.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fastreid import Predictor
from fastreid.config import get_cfg, with_values
from fastreid.engine import DefaultPredictor
from fastreid.modeling import build_model
from fastreid.modeling.model import evaluation_config_of
from fastreid.modeling.trained import config_text
from fastreid.utils.checkpoint import CONFIG_TEXT
from fastreid.utils.errors import reported_as

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor

WIDTH, HEIGHT = 1920, 1080


def write_checkpoint(config: str, path: Path) -> None:
    """Write a checkpoint with the random weights of a config."""
    cfg = get_cfg()
    cfg.merge_from_file(config)
    cfg = with_values(evaluation_config_of(cfg), {"MODEL.DEVICE": "cpu", "MODEL.HEADS.NUM_CLASSES": 1})
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict(), CONFIG_TEXT: config_text(cfg)}, path)


def make_frame(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a frame of smooth colours with noise, uint8 [H, W, 3], and boxes of people [N, 4]."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (HEIGHT // 40, WIDTH // 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=float)
    frame = np.clip(smooth + random.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
    heights = random.uniform(120, 400, count)
    x1, y1 = random.uniform(0, WIDTH - 200, count), random.uniform(0, HEIGHT - heights)
    return frame, np.stack([x1, y1, x1 + heights * 0.4, y1 + heights], axis=1).round()


def write_crops(frame: np.ndarray, boxes: np.ndarray, folder: Path) -> list[Path]:
    """Write the crops of a frame, and return the paths of the files."""
    paths = [folder / f"{row}.png" for row in range(len(boxes))]
    for path, (x1, y1, x2, y2) in zip(paths, boxes.astype(int), strict=True):
        Image.fromarray(frame[y1:y2, x1:x2]).save(path)
    return paths


def main() -> None:
    """Parse the command line, time all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="configs/quickstart/stage1.yml", help="model of the features")
    parser.add_argument("--boxes", type=int, default=20, help="people in the frame")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    frame, boxes = make_frame(args.boxes)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_checkpoint(args.config_file, folder / "model_final.pth")
        mine = Predictor(folder / "model_final.pth", device="cpu")
        one, two = (
            DefaultPredictor(with_values(mine.cfg, {"TEST.IMS_PER_BATCH": -(-args.boxes // batches)}))
            for batches in (1, 2)
        )
        paths = write_crops(frame, boxes, folder)
        ways: dict[str, Callable[[], Tensor]] = {
            "Predictor.embed(frame, boxes)": lambda: mine.embed(frame, boxes, normalize=False),
            "DefaultPredictor.describe(files), one batch": lambda: one.describe(paths),
            "two batches, read by two processes": lambda: two.describe(paths),
            "one batch, and the files are written first": lambda: one.describe(write_crops(frame, boxes, folder)),
        }
        expected = next(iter(ways.values()))()
        for way in ways.values():
            torch.testing.assert_close(way(), expected)
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(args.rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                best[name] = min(best[name], time.perf_counter() - start)
    first = next(iter(best.values()))
    rows = [[name, f"{seconds:.4f} s", f"{seconds / first:.2f}"] for name, seconds in best.items()]
    print(tabulate(rows, [f"{args.boxes} people in a frame", "time", "/ Predictor"]))


if __name__ == "__main__":
    with reported_as("predictor"):
        main()
