#!/usr/bin/env python
"""Trains a small Stable Diffusion to draw rendered people from their captions.

    tools/render_benchmark.py --root datasets/drawing --captions datasets/drawing/captions.jsonl …
    tools/make_assets.py --size small --text
    tools/train_small_diffusion.py --captions datasets/drawing/captions.jsonl

It stands for the published weights of Stable Diffusion where nothing can be downloaded. The folder that it writes is
read by `StableDiffusionPipeline.from_pretrained`. `summary.json` says what was learnt, and `sheet.jpg` shows pictures
for captions that were not trained on, each below the rendered picture.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fastreid.utils.threads import bound_spin

bound_spin()
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fastreid.config import user_path  # noqa: E402
from fastreid.generation.captioned import CaptionedPictures, load_pictures  # noqa: E402
from fastreid.generation.colour_check import ColourCheck  # noqa: E402
from fastreid.generation.small_diffusion import (  # noqa: E402
    TrainingPlan,
    draw,
    load_pipeline,
    train_autoencoder,
    train_denoiser,
    train_text_encoder,
)
from fastreid.methods.diffusion_reid.captions import read_captions  # noqa: E402
from fastreid.rendering.people import CLOTHES  # noqa: E402
from fastreid.utils.errors import UserError, reported_as  # noqa: E402
from fastreid.utils.files import save_picture  # noqa: E402
from fastreid.utils.folders import atomic_folder  # noqa: E402
from fastreid.utils.lock import path_lock  # noqa: E402
from fastreid.utils.manifest import digest, sha256_of  # noqa: E402
from fastreid.utils.text import read_text  # noqa: E402

SUMMARY = "summary.json"
_PREFIX = "a photo of a person"
_HELD_OUT, _MOST_HELD_OUT = 0.05, 64
_ON_SHEET = 16


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--captions", type=user_path, required=True, metavar="FILE", help="JSON lines of images and captions")
    add("--assets", type=user_path, default="pretrained/random-small-text", metavar="DIR", help="the initial weights")
    add("--output", type=user_path, default="pretrained/small-diffusion", metavar="DIR", help="default: %(default)s")
    for field in fields(TrainingPlan):
        option = f"--{field.name.replace('_', '-')}"
        add(option, type=type(field.default), default=field.default, help=_HELP[field.name] + "; default: %(default)s")
    return parser


_HELP = {
    "steps": "steps of the UNet",
    "vae_steps": "steps of the autoencoder",
    "text_steps": "steps of the text encoder",
    "batch": "pictures of a step of the UNet",
    "vae_batch": "pictures of a step of the autoencoder",
    "text_batch": "captions of a step of the text encoder",
    "rate": "largest learning rate of the UNet",
    "vae_rate": "largest learning rate of the autoencoder",
    "text_rate": "largest learning rate of the text encoder",
    "seed": "decides batches and noise",
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = vars(_parser().parse_args(argv))
    places = [args.pop(name) for name in ("captions", "assets", "output")]
    with reported_as("train_small_diffusion"):
        captions, assets, output = map(Path, places)
        with path_lock(output, wait=True):  # another process may be training the same
            _train_if_absent(captions, assets, output, TrainingPlan(**args))


def _train_if_absent(captions: Path, assets: Path, output: Path, plan: TrainingPlan) -> None:
    contents = {"captions": sha256_of(captions), "assets": digest(str(sha256_of(file)) for file in _files(assets))}
    names = {"captions": str(captions), "assets": str(assets)}
    request = json.loads(json.dumps({**names, **asdict(plan), "checksums": contents}))
    if output.exists():
        if _noted(output / SUMMARY).get("request") != request:
            raise UserError(
                f"{output} holds something else than these arguments and files give; delete it or change --output"
            )
        print(f"{output} exists, nothing to do (delete it to train it again)")
        return
    with atomic_folder(output) as draft:
        summary = _train(captions, assets, draft, plan)
        (draft / SUMMARY).write_text(json.dumps({"request": request, **summary}, indent=1), encoding="utf-8")
    print(_sentence(output, summary))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _noted(file: Path) -> dict[str, Any]:
    """The content of a summary; nothing if it cannot be read."""
    try:
        return json.loads(read_text(file))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def _train(captions: Path, assets: Path, draft: Path, plan: TrainingPlan) -> dict[str, Any]:
    start = time.perf_counter()
    pipeline = load_pipeline(assets)
    height, width = _picture_size(pipeline)
    known, held_out = _split(load_pictures(read_captions(captions), height, width))
    vae_losses = train_autoencoder(pipeline.vae, known.pictures, plan)
    text_losses = train_text_encoder(pipeline, known, plan, _PREFIX)
    losses = train_denoiser(pipeline, known, plan, _PREFIX)
    trained = time.perf_counter()
    pipeline.save_pretrained(draft)
    drawn = draw(pipeline, [f"{_PREFIX}, {caption}" for caption in held_out.captions], seed=plan.seed)
    save_picture(_sheet(held_out.pictures, drawn), draft / "sheet.jpg", quality=92)
    check = ColourCheck(known, tuple(CLOTHES))
    return {
        "pictures": len(known.captions),
        "size": [height, width],
        "vae_loss": _last(vae_losses),
        "text_loss": _last(text_losses),
        "loss": _last(losses),
        "colours_right": dict(check.share_right(CaptionedPictures(drawn, held_out.captions))),
        "colours_right_when_rendered": dict(check.share_right(held_out)),
        "seconds": {"training": trained - start, "drawing": time.perf_counter() - trained},
    }


def _picture_size(pipeline: Any) -> tuple[int, int]:
    size, factor = pipeline.unet.config.sample_size, pipeline.vae_scale_factor
    height, width = (size, size) if isinstance(size, int) else size
    return height * factor, width * factor


def _split(data: CaptionedPictures) -> tuple[CaptionedPictures, CaptionedPictures]:
    """All pictures but the last twentieth, or the last 64 if it has more, and those, which show other people."""
    known = len(data.captions) - min(_MOST_HELD_OUT, max(1, round(_HELD_OUT * len(data.captions))))
    if known < 1:
        raise UserError("one picture is too few to train on")
    parts = (slice(None, known), slice(known, None))
    first, second = (CaptionedPictures(data.pictures[part], data.captions[part]) for part in parts)
    return first, second


def _last(losses: list[float]) -> float | None:
    """The mean loss of the last tenth of the steps."""
    tail = losses[-max(1, len(losses) // 10) :]
    return round(sum(tail) / len(tail), 5) if tail else None


def _sheet(rendered: Any, drawn: Any) -> Any:
    """Rendered pictures, and below each the drawn one of the same caption; three times as large."""
    import torch
    from PIL import Image

    step = max(1, len(drawn) // (3 * _ON_SHEET))
    pairs = torch.stack([rendered, drawn], dim=1)[::step]  # [N, 2, 3, H, W]
    columns = min(_ON_SHEET, len(pairs))
    pairs = pairs[: len(pairs) // columns * columns]
    rows = pairs.unflatten(0, (-1, columns)).permute(0, 2, 4, 1, 5, 3)  # [rows, 2, H, columns, W, 3]
    height, width = rows.shape[0] * 2 * rows.shape[2], columns * rows.shape[4]
    picture = Image.fromarray(rows.reshape(height, width, 3).numpy())
    return picture.resize((3 * width, 3 * height), Image.Resampling.NEAREST)


def _sentence(output: Path, summary: dict[str, Any]) -> str:
    shares, best = summary["colours_right"], summary["colours_right_when_rendered"]
    parts = "; ".join(f"{part} {shares[part]:.0%} (of rendered pictures {best[part]:.0%})" for part in shares)
    return (
        f"wrote {output}, trained on {summary['pictures']} pictures in {summary['seconds']['training']:.0f} s. "
        f"Pictures of new captions whose colours are right: {parts}. See {output / 'sheet.jpg'}"
    )


if __name__ == "__main__":
    main()
