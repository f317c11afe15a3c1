"""Reading a Stable Diffusion UNet from a folder of diffusers; weights that do not fill it are an error."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from fastreid.modeling.diffusion.assets import AssetError, asset_folder, read_json, shown
from fastreid.utils.file_kind import what_it_is
from fastreid.utils.optional import shield_diffusers

logger = logging.getLogger(__name__)

_CLASS = "UNet2DConditionModel"
_STEM = "diffusion_pytorch_model"
_ENDS = (".safetensors", ".bin", ".json")
# Keys of the UNet's config that ask for inputs which only other pipelines give, and what these inputs are.
_OTHER_INPUTS = {
    "addition_embed_type": "the sizes and pooled text of SDXL",
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "encoder_hid_dim_type": "embeddings of another encoder",
}
_SHOWN = 4


def load_unet(folder: str, *, key: str = "") -> diffusers.UNet2DConditionModel:
    """Return the UNet of a folder, in float32. It may be safetensors or .bin, in one or several files, of any variant.

    Args:
        folder: folder of a UNet, or of a whole pipeline.
        key: config key that names the folder, for error messages.

    Raises:
        AssetError: no such folder, damaged files, another kind of model, or weights that do not fill it.
    """
    advice = ". `python tools/make_assets.py` writes random ones"
    path = asset_folder(folder, "unet", "config.json", key=key, advice=advice)
    named = shown(folder, key)
    check_config(read_json(path / "config.json"), f"config.json in {named}")
    variant, is_safe = _find_weights(path, named)
    shield_diffusers()
    try:
        unet, info = diffusers.UNet2DConditionModel.from_pretrained(
            path, variant=variant, use_safetensors=is_safe, torch_dtype=torch.float32, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # diffusers and safetensors may raise any error for damaged files
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(f"cannot read the UNet in {named}: {first[:400]}") from error
    _check_filled(unet, info, named)
    return unet


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


def _find_weights(path: Path, named: str) -> tuple[str | None, bool]:
    """Return the variant of the weights (None: the usual name) and whether they are safetensors."""
    files = sorted(file.name for file in path.iterdir() if file.name.startswith(_STEM) and file.name.endswith(_ENDS))
    for name in files:
        if not name.endswith(".json") and (kind := what_it_is(path / name)):
            raise AssetError(f"cannot read the UNet in {named}: {name}: {kind}")
    found = {_variant_in(name): False for name in files}
    found |= {_variant_in(name): True for name in files if ".safetensors" in name}
    if "" in found:
        return None, found[""]
    variants = sorted(found)
    if len(variants) == 1:
        logger.info("the UNet in %s is its variant %s, read as float32", named, variants[0])
        return variants[0], found[variants[0]]
    there = ", ".join(sorted(file.name for file in path.iterdir())[:8])
    if variants:
        raise AssetError(
            f"the UNet in {named} is there in several variants, {', '.join(variants)}: rename one to "
            f"{_STEM}.safetensors"
        )
    raise AssetError(
        f"no weights of the UNet in {named}: expected {_STEM}.safetensors (or .bin, in shards, or a variant "
        f"such as {_STEM}.fp16.safetensors); it has {there}"
    )


def _variant_in(name: str) -> str:
    """Return the variant in the name of a file, "fp16" in diffusion_pytorch_model.fp16.safetensors; "" for none."""
    rest = name.removeprefix(_STEM)
    for end in (".safetensors.index.", ".bin.index."):
        if rest.startswith(end):
            return rest.removeprefix(end).removesuffix("json").strip(".")
    middle = rest.removesuffix(".safetensors").removesuffix(".bin").strip(".")
    return "" if middle.startswith("-") else middle.partition("-")[0]


def _check_filled(unet: nn.Module, info: dict[str, Any], named: str) -> None:
    lacking = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    if not lacking and not info["unexpected_keys"]:
        return
    own = {name: math.prod(value.shape) for name, value in unet.state_dict().items()}
    share = 1 - sum(own.get(name, 0) for name in lacking) / sum(own.values())
    raise AssetError(
        f"the weights in {named} are not those of its config.json: they fill {share:.1%} of the UNet; "
        f"missing or of another shape: {_some(lacking)}; left over: {_some(sorted(info['unexpected_keys']))}"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
