"""Published ImageNet weights that are on this machine: MODEL.BACKBONE.PRETRAIN_PATH auto."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from fastreid.config import CfgNode, with_values

logger = logging.getLogger(__name__)

AUTO = "auto"
# (builder, DEPTH) -> names of timm and torchvision, at the start of file names and of repositories of timm.
_NAMES = {
    **{("build_resnet_backbone", f"{n}x"): (f"resnet{n}",) for n in (18, 34, 50, 101, 152)},
    ("build_vit_backbone", "tiny"): ("vit_tiny_patch16_224", "deit_tiny_patch16_224"),
    ("build_vit_backbone", "small"): ("vit_small_patch16_224", "deit_small_patch16_224"),
    ("build_vit_backbone", "base"): ("jx_vit_base_p16_224", "vit_base_patch16_224", "deit_base_patch16_224"),
}
# Names of timm -> names that packages have for the same network.
_OF_PACKAGES = {"tf_efficientnet_lite0": "efficientnet-lite0", "tf_efficientnet_lite2": "efficientnet-lite2"}
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


def with_local_weights(cfg: CfgNode) -> CfgNode:
    """Return a config in which PRETRAIN_PATH auto is replaced by the file that was found, and log it.

    If no file is found, MODEL.BACKBONE.PRETRAIN of the returned config is False, and a warning has the places that were
    searched. Other configs are returned as they are.

    Args:
        cfg: the config.
    """
    keys = cfg.MODEL.BACKBONE
    if not keys.PRETRAIN or keys.PRETRAIN_PATH != AUTO:
        return cfg
    names = _names_of(keys)
    file = find_weights(names)
    if file is not None:
        logger.info("ImageNet weights found: %s", file)
        return with_values(cfg, {"MODEL.BACKBONE.PRETRAIN_PATH": str(file)})
    said = f"a file {' or '.join(f'{name}*.pth' for name in names)}" if names else f"weights of {keys.NAME}"
    logger.warning(
        "no ImageNet weights are on this machine, so the backbone starts from random ones and figures will be much "
        "lower: %s was looked for in %s and in installed packages. Put the published file into %s, or name it with "
        "MODEL.BACKBONE.PRETRAIN_PATH", said, ", ".join(map(str, _folders())), _folders()[0],
    )  # fmt: skip
    return with_values(cfg, {"MODEL.BACKBONE.PRETRAIN": False, "MODEL.BACKBONE.PRETRAIN_PATH": ""})


def _names_of(keys: CfgNode) -> tuple[str, ...]:
    """The names of the published weights of a backbone; none if they are not known."""
    if keys.NAME == "build_timm_backbone":
        name = keys.TIMM_NAME.partition(".")[0]
        return (name, _OF_PACKAGES[name]) if name in _OF_PACKAGES else (name,)
    if keys.WITH_IBN or keys.WITH_SE:  # other networks, with other files
        return ()
    return _NAMES.get((keys.NAME, keys.DEPTH), ())


def find_weights(names: tuple[str, ...]) -> Path | None:
    """Return the first file of weights with one of the names, or None.

    The folder pretrained of the working directory is searched first, then the caches of torch.hub and the Hugging Face
    hub, and then the files of installed packages. Nothing is downloaded.

    Args:
        names: beginnings of file names, and of repositories of timm.
    """
    for name in names:
        # Not resnet18_ibn_a, which is another network.
        wanted = re.compile(rf"{re.escape(name)}(?:[-.][^/]*)?")
        for path in _candidates(name):
            if path.suffix in _SUFFIXES and (_is_of_hub(path) or wanted.fullmatch(path.stem)) and path.is_file():
                return path
    return None


def _candidates(name: str) -> Iterator[Path]:
    own, torch_hub, hub = _folders()
    for folder in (own, torch_hub):
        yield from sorted(folder.glob(f"{name}*"))
    yield from sorted(hub.glob(f"models--timm--{name}.*/snapshots/*/model.safetensors"))
    for package in metadata.distributions():
        for file in package.files or ():
            if file.name.startswith(name):
                yield Path(str(file.locate()))


def _is_of_hub(path: Path) -> bool:
    return path.name == "model.safetensors"


def _folders() -> tuple[Path, Path, Path]:
    """The folder of the working directory, and the caches of torch.hub and of the Hugging Face hub."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    return Path("pretrained").absolute(), Path(torch.hub.get_dir()) / "checkpoints", Path(hub).expanduser()
