"""Converting a Stable Diffusion of one file, in the form of CompVis, to folders of diffusers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor

from fastreid.modeling.diffusion.assets import AssetError
from fastreid.utils.errors import first_line_of
from fastreid.utils.optional import shield_diffusers

# Beginnings of the names in such a file.
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
# Sizes of Stable Diffusion 1.
SD1_UNET: Mapping[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD1_VAE: Mapping[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
SD1_SCHEDULER: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def convert_single_file(
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    unet: Mapping[str, Any] = SD1_UNET,
    vae: Mapping[str, Any] = SD1_VAE,
) -> None:
    """Write the folders `unet/`, `vae/` and `scheduler/` of a Stable Diffusion 1 of one file.

    Text encoder and averaged weights (EMA) of the file are left out.

    Args:
        state: names with tensors, as in `v1-5-pruned.ckpt`.
        folder: the folder to write to.
        unet: content of the UNet's config.json.
        vae: content of the autoencoder's config.json.

    Raises:
        AssetError: parts are missing, or their tensors do not fit.
    """
    shield_diffusers()
    for name, kind, config, prefix in (
        ("unet", diffusers.UNet2DConditionModel, unet, _UNET),
        ("vae", diffusers.AutoencoderKL, vae, _VAE),
    ):
        part = {key: value.float() for key, value in state.items() if key.startswith(prefix)}
        if not part:
            raise AssetError(f"no names begin with {prefix!r}: this is no Stable Diffusion 1 in the form of CompVis")
        _converted(kind, part, config, name).save_pretrained(folder / name)
    scheduler: Any = diffusers.DDIMScheduler
    scheduler(**SD1_SCHEDULER).save_pretrained(folder / "scheduler")


def _converted(kind: Any, state: dict[str, Tensor], config: Mapping[str, Any], name: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(
            json.dumps({"_class_name": kind.__name__, **config}), encoding="utf-8"
        )
        try:
            return kind.from_single_file(state, config=folder, local_files_only=True)
        except Exception as error:  # diffusers may raise any error for other names and shapes
            raise AssetError(
                f"the {name} in the file does not fit Stable Diffusion 1: {first_line_of(error)[:300]}"
            ) from error
