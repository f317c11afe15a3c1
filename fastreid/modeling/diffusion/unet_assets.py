"""Reading a Stable Diffusion UNet from a Diffusers folder of any make, whole or not at all."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import diffusers
import torch

from fastreid.modeling.diffusion.assets import AssetError, asset_folder, read_json
from fastreid.utils.file_kind import what_it_is
from fastreid.utils.optional import shield_diffusers

logger = logging.getLogger(__name__)

KEY = "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH"
_CLASS = "UNet2DConditionModel"
_STEM = "diffusion_pytorch_model"
_ENDS = (".safetensors", ".bin", ".json")
# Of the UNet's config: inputs that only other pipelines give, and what they are of.
_OTHER_INPUTS = {
    "addition_embed_type": "the sizes and pooled text of SDXL",
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "encoder_hid_dim_type": "embeddings of another encoder",
}
_SHOWN = 4


def load_unet(folder: str) -> diffusers.UNet2DConditionModel:
    """The UNet of a folder, in float32: safetensors or .bin, in one file or several, of any variant (fp16).

    Raises:
        AssetError: no such folder, damaged files, another kind of model, weights that do not fill it.
    """
    advice = ". `python tools/make_assets.py` writes random ones"
    path = asset_folder(folder, "unet", "config.json", KEY, advice)
    check_config(read_json(path / "config.json"), folder)
    variant, is_safe = _find_weights(path, folder)
    shield_diffusers()
    try:
        unet, info = diffusers.UNet2DConditionModel.from_pretrained(
            path, variant=variant, use_safetensors=is_safe, torch_dtype=torch.float32, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # diffusers and safetensors raise whatever they met
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(f"cannot read the UNet in {folder!r} ({KEY}): {first[:400]}") from error
    _check_filled(unet, info, folder)
    return unet


def check_config(config: dict[str, Any], folder: str) -> None:
    """Refuse what is no UNet of Stable Diffusion, or one that asks for inputs that are not here.

    Raises:
        AssetError: says what it is.
    """
    where = f"config.json in {folder!r} ({KEY})"
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


def _find_weights(path: Path, folder: str) -> tuple[str | None, bool]:
    """(None for weights under their usual name, else the one variant there is; whether they are safetensors)."""
    files = sorted(file.name for file in path.iterdir() if file.name.startswith(_STEM) and file.name.endswith(_ENDS))
    for name in files:
        if not name.endswith(".json") and (found := what_it_is(path / name)):
            raise AssetError(f"cannot read the UNet in {folder!r} ({KEY}): {name}: {found}")
    found = {_variant_in(name): False for name in files}
    found |= {_variant_in(name): True for name in files if ".safetensors" in name}
    if "" in found:
        return None, found[""]
    variants = sorted(found)
    if len(variants) == 1:
        logger.info("the UNet in %s is its variant %s, read as float32", folder, variants[0])
        return variants[0], found[variants[0]]
    there = ", ".join(sorted(file.name for file in path.iterdir())[:8])
    if variants:
        raise AssetError(
            f"the UNet in {folder!r} ({KEY}) is there in several variants, {', '.join(variants)}: rename one to "
            f"{_STEM}.safetensors"
        )
    raise AssetError(
        f"no weights of the UNet in {folder!r} ({KEY}): expected {_STEM}.safetensors (or .bin, in shards, or a variant "
        f"such as {_STEM}.fp16.safetensors); it has {there}"
    )


def _variant_in(name: str) -> str:
    """diffusion_pytorch_model.fp16.safetensors, ….safetensors.index.fp16.json, ….fp16-00001-of-00002.… -> fp16."""
    rest = name.removeprefix(_STEM)
    for end in (".safetensors.index.", ".bin.index."):
        if rest.startswith(end):
            return rest.removeprefix(end).removesuffix("json").strip(".")
    middle = rest.removesuffix(".safetensors").removesuffix(".bin").strip(".")
    return "" if middle.startswith("-") else middle.partition("-")[0]


def _check_filled(unet: diffusers.UNet2DConditionModel, info: dict[str, Any], folder: str) -> None:
    lacking = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    if not lacking and not info["unexpected_keys"]:
        return
    own = {name: math.prod(value.shape) for name, value in unet.state_dict().items()}
    share = 1 - sum(own.get(name, 0) for name in lacking) / sum(own.values())
    raise AssetError(
        f"the weights in {folder!r} ({KEY}) are not those of its config.json: they fill {share:.1%} of the UNet; "
        f"missing or of another shape: {_some(lacking)}; left over: {_some(sorted(info['unexpected_keys']))}"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
