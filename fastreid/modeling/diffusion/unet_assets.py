"""Reading a Stable Diffusion UNet from a folder of diffusers; weights that do not fill it are an error."""

from __future__ import annotations

from typing import Any

import diffusers

from fastreid.modeling.diffusion.assets import AssetError
from fastreid.modeling.diffusion.model_files import load_model

_CLASS = "UNet2DConditionModel"
# Keys of the UNet's config that ask for inputs which only other pipelines give, and what these inputs are.
_OTHER_INPUTS = {
    "addition_embed_type": "the sizes and pooled text of SDXL",
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "encoder_hid_dim_type": "embeddings of another encoder",
}


def load_unet(folder: str, *, key: str = "") -> diffusers.UNet2DConditionModel:
    """Return the UNet of a folder, in float32. It may be safetensors or .bin, in one or several files, of any variant.

    Args:
        folder: folder of a UNet, or of a whole pipeline.
        key: config key that names the folder, for error messages.

    Raises:
        AssetError: no such folder, damaged files, another kind of model, or weights that do not fill it.
    """
    return load_model(diffusers.UNet2DConditionModel, folder, "unet", "UNet", check_config, key=key)


def check_config(config: dict[str, Any], where: str) -> None:
    """Check that a config is one of a UNet of Stable Diffusion that needs no inputs besides latents and tokens.

    Args:
        config: content of config.json.
        where: the file, for the error message.

    Raises:
        AssetError: it is not; the message says what it is.
    """
    kind = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if kind != _CLASS:
        raise AssetError(f"{where} is of {kind or 'something that names no class'}: a {_CLASS} is needed")
    for name, what in _OTHER_INPUTS.items():
        if config.get(name) is not None:
            raise AssetError(f"{where} has {name} {config[name]!r}: this UNet asks for {what}; give one without")
    for name in ("cross_attention_dim", "layers_per_block"):
        if name in config and (not isinstance(config[name], int) or isinstance(config[name], bool)):
            raise AssetError(f"{where} has {name} {config[name]!r}: one number for all blocks is needed")
    attending = [block for block in config.get("down_block_types") or [] if "CrossAttn" in str(block)]
    if strange := sorted({str(block) for block in attending} - {"CrossAttnDownBlock2D"}):
        raise AssetError(f"{where} has blocks {', '.join(strange)}: view control needs CrossAttnDownBlock2D")
