"""Reading a model of diffusers from a folder; weights that do not fill it are an error."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastreid.modeling.diffusion.assets import AssetError, asset_folder, read_json, shown
from fastreid.utils.errors import first_line_of
from fastreid.utils.file_kind import what_it_is
from fastreid.utils.optional import shield_diffusers

logger = logging.getLogger(__name__)

_STEM = "diffusion_pytorch_model"
_ENDS = (".safetensors", ".bin", ".json")
_SHOWN = 4


def load_model(
    kind: Any, folder: str, part: str, what: str, check: Callable[[dict[str, Any], str], None], *, key: str = ""
) -> Any:
    """Return a model of diffusers, in float32. Its files may be safetensors or .bin, in shards, of any variant.

    Args:
        kind: the class of diffusers.
        folder: folder of the model, or of a whole pipeline.
        part: its subfolder in a pipeline.
        what: what the model is, for messages.
        check: (content of config.json, where it is) -> raises an AssetError for one that does not fit.
        key: config key that names the folder, for messages.

    Raises:
        AssetError: no such folder, damaged files, or weights that do not fill the model.
    """
    advice = ". `python tools/make_assets.py` writes random ones"
    path = asset_folder(folder, part, "config.json", key=key, advice=advice)
    named = shown(folder, key)
    check(read_json(path / "config.json"), f"config.json in {named}")
    variant, is_safe = _find_weights(path, named, what)
    shield_diffusers()
    try:
        model, info = kind.from_pretrained(
            path, variant=variant, use_safetensors=is_safe, torch_dtype=torch.float32, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # diffusers and safetensors may raise any error for damaged files
        raise AssetError(f"cannot read the {what} in {named}: {first_line_of(error)[:400]}") from error
    _check_filled(model, info, named, what)
    return model


def _find_weights(path: Path, named: str, what: str) -> tuple[str | None, bool]:
    """Return the variant of the weights (None: the usual name) and whether they are safetensors."""
    files = sorted(file.name for file in path.iterdir() if file.name.startswith(_STEM) and file.name.endswith(_ENDS))
    for name in files:
        if not name.endswith(".json") and (kind := what_it_is(path / name)):
            raise AssetError(f"cannot read the {what} in {named}: {name}: {kind}")
    found = {_variant_in(name): False for name in files}
    found |= {_variant_in(name): True for name in files if ".safetensors" in name}
    if "" in found:
        return None, found[""]
    variants = sorted(found)
    if len(variants) == 1:
        logger.info("the %s in %s is its variant %s, read as float32", what, named, variants[0])
        return variants[0], found[variants[0]]
    there = ", ".join(sorted(file.name for file in path.iterdir())[:8])
    if variants:
        raise AssetError(
            f"the {what} in {named} is there in several variants, {', '.join(variants)}: rename one to "
            f"{_STEM}.safetensors"
        )
    raise AssetError(
        f"no weights of the {what} in {named}: expected {_STEM}.safetensors (or .bin, in shards, or a variant "
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


def _check_filled(model: nn.Module, info: dict[str, Any], named: str, what: str) -> None:
    lacking = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    if not lacking and not info["unexpected_keys"]:
        return
    own = {name: math.prod(value.shape) for name, value in model.state_dict().items()}
    share = 1 - sum(own.get(name, 0) for name in lacking) / sum(own.values())
    raise AssetError(
        f"the weights in {named} are not those of its config.json: they fill {share:.1%} of the {what}; "
        f"missing or of another shape: {_some(lacking)}; left over: {_some(sorted(info['unexpected_keys']))}"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
