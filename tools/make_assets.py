#!/usr/bin/env python
"""Writes Stable Diffusion assets with random weights.

    make_assets.py --size tiny|small|sd15 [--text] [--output DIR]

The folders have the layout of Diffusers (`unet/ vae/ scheduler/`), like the published weights. `tiny` is for the
quickstart and the tests; `small` can be trained to draw rendered people (tools/train_small_diffusion.py); `sd15` has
the exact shape of Stable Diffusion 1.5 and also writes a ViT-B/16 with the names of
jx_vit_base_p16_224-80ecf9dd.pth (`vit_base_p16_224.pth`). `--text` adds a tokenizer with the words of
configs/grammars/*.yml and a text encoder, so that StableDiffusionPipeline of diffusers loads the folder.
Random weights are for tests, timing and training only.
"""

import argparse
import json
import os
import zlib
from pathlib import Path
from typing import Any

# Nothing is downloaded, and nothing may wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fastreid.config import user_path
from fastreid.generation.text_assets import CLIP_VOCABULARY, MAX_TOKENS, SD1_TEXT, words_of, write_text_parts
from fastreid.modeling.diffusion.single_file import SD1_UNET, SD1_VAE
from fastreid.utils.errors import UserError, reported_as
from fastreid.utils.folders import atomic_folder
from fastreid.utils.lock import path_lock
from fastreid.utils.optional import shield_diffusers
from fastreid.utils.seal import save_sealed
from fastreid.utils.text import read_text

import timm
import torch
import yaml

shield_diffusers()
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel  # noqa: E402

_MANIFEST = "assets.json"
_SEEDS = range(-(2**63), 2**64)  # of torch
# 192-d tokens and 4x8x6 latents, for the six-block ViT of configs/quickstart.
TINY_UNET = {
    "sample_size": (8, 6),
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 192,
    "attention_head_dim": 8,
}
TINY_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "latent_channels": 4,
    "sample_size": 16,
}
# Pictures of 64x32, latents of 16x8.
SMALL_UNET = {
    **TINY_UNET,
    "sample_size": (16, 8),
    "block_out_channels": (48, 96, 96),
    "norm_num_groups": 16,
    "cross_attention_dim": 96,
    "attention_head_dim": 4,
}
SMALL_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 48),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "latent_channels": 4,
    "sample_size": 64,
}
SD15_UNET = dict(SD1_UNET)

_UNETS = {"tiny": TINY_UNET, "small": SMALL_UNET, "sd15": SD15_UNET}
_VAES = {"tiny": TINY_VAE, "small": SMALL_VAE, "sd15": SD1_VAE}
# The velocity, as Stable Diffusion 2.1 predicts it, is learnt in fewer steps than the noise.
_PREDICTIONS = {"tiny": "epsilon", "small": "v_prediction", "sd15": "epsilon"}
_SMALL_TEXT = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": MAX_TOKENS}
_TEXTS = {
    "tiny": {"hidden_size": 192, "intermediate_size": 384, "projection_dim": 192, **_SMALL_TEXT},
    "small": {"hidden_size": 96, "intermediate_size": 192, "projection_dim": 96, **_SMALL_TEXT},
    "sd15": SD1_TEXT,
}
_GRAMMARS = ("photographs.yml", "rendered.yml")


def _words() -> list[str]:
    """The words of the grammars, sorted."""
    folder = Path(__file__).resolve().parents[1] / "configs/grammars"
    contents = [yaml.safe_load(read_text(folder / name)) for name in _GRAMMARS]
    return sorted(set().union(*map(words_of, contents)))


def _request(size: str, seed: int, text: bool = False) -> dict[str, object]:
    """The arguments that decide the assets, in the types of JSON."""
    request: dict[str, object] = {"size": size, "seed": seed, "unet": _UNETS[size]}
    if _PREDICTIONS[size] != "epsilon":
        request["predicts"] = _PREDICTIONS[size]
    if text:
        request |= {"text": _TEXTS[size], "words": zlib.crc32(" ".join(_words()).encode())}
    return json.loads(json.dumps(request))


def _scheduler(prediction_type: str) -> Any:
    """A scheduler with the betas of Stable Diffusion 1.5, without clipping, as features are not pixels."""
    return PNDMScheduler(
        prediction_type=prediction_type,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )


def make_assets(size: str, output: Path, seed: int = 0, text: bool = False) -> None:
    """Write the assets of `size` to `output`, which then holds `unet/`, `vae/` and `scheduler/`.

    They are written to another folder that is renamed at the end, so that an interruption leaves nothing incomplete.

    Args:
        size: "tiny", "small" or "sd15".
        output: the folder.
        seed: seed of the weights.
        text: add a tokenizer and a text encoder.

    Raises:
        DiskError: the disk is full or broken.
    """
    torch.manual_seed(seed)
    with atomic_folder(output) as draft:
        _write_assets(size, draft, seed, text)


def _write_assets(size: str, draft: Path, seed: int, text: bool) -> None:
    unet: Any = UNet2DConditionModel(**_UNETS[size])
    unet.save_pretrained(draft / "unet")
    vae: Any = AutoencoderKL(**_VAES[size])
    vae.save_pretrained(draft / "vae")
    _scheduler(_PREDICTIONS[size]).save_pretrained(draft / "scheduler")
    if size == "sd15":
        vit = timm.create_model("vit_base_patch16_224", pretrained=False)
        save_sealed(vit.state_dict(), draft / "vit_base_p16_224.pth")
    if text:
        write_text_parts(_words(), draft, _TEXTS[size], CLIP_VOCABULARY if size == "sd15" else 0)
    (draft / _MANIFEST).write_text(json.dumps(_request(size, seed, text)), encoding="utf-8")


def _noted(manifest: Path) -> object:
    """The arguments by which the assets of a folder were made; None if they cannot be read."""
    try:
        return json.loads(read_text(manifest))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def main() -> None:
    """Parse the command line and write the assets unless they exist."""
    parser = argparse.ArgumentParser(description="Write Stable Diffusion assets with random weights.")
    parser.add_argument("--size", choices=tuple(_UNETS), default="tiny")
    parser.add_argument("--text", action="store_true", help="with a tokenizer and a text encoder")
    parser.add_argument("--output", type=user_path, metavar="DIR", help="default: pretrained/random-SIZE[-text]")
    parser.add_argument("--seed", type=int, default=0)
    with reported_as("make_assets"):
        args = parser.parse_args()
        output = args.output or Path("pretrained") / f"random-{args.size}{'-text' if args.text else ''}"
        with path_lock(output, wait=True):  # another process may be writing the same
            make_if_absent(args.size, output, args.seed, args.text)


def make_if_absent(size: str, output: Path, seed: int, text: bool = False) -> None:
    """Make the assets unless `output` already has them.

    Args:
        size: "tiny", "small" or "sd15".
        output: the folder.
        seed: seed of the weights.
        text: add a tokenizer and a text encoder.

    Raises:
        UserError: the folder holds something else, or the seed is out of range.
    """
    if seed not in _SEEDS:
        raise UserError(f"--seed is a whole number from -2^63 to 2^64 - 1, got {seed}")
    if output.exists():
        if _noted(output / _MANIFEST) != _request(size, seed, text):
            raise UserError(
                f"{output} holds something else than size {size} with seed {seed}{' and text' if text else ''}, as "
                "this version makes them; delete it or give another --output"
            )
        print(f"{output} exists, nothing to do (delete it to make it again)")
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    make_assets(size, output, seed, text)
    print(f"wrote random weights of size {size} to {output}")


if __name__ == "__main__":
    main()
