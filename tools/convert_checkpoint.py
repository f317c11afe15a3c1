#!/usr/bin/env python
"""Converts a checkpoint to one of tensors only or of its backbone, or a Stable Diffusion to folders of diffusers.

    convert_checkpoint.py --trust OLD.pth NEW.pth
    convert_checkpoint.py --backbone logs/pretraining/model_final.pth pretrained/backbone.pth
    convert_checkpoint.py --stable-diffusion v1-5-pruned.ckpt pretrained/stable-diffusion-v1-5

Reading a checkpoint with Python objects may run any code that its author put into it, which --trust allows. Files of
Stable Diffusion 1 need no trust.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastreid.config import user_path
from fastreid.modeling.backbones.pretrained import backbone_of
from fastreid.modeling.diffusion.single_file import convert_single_file
from fastreid.utils.checkpoint import CONFIG_TEXT
from fastreid.utils.checkpoint_file import WeightsError, read_checkpoint, state_dict_in
from fastreid.utils.errors import UserError, reported_as
from fastreid.utils.files import check_output
from fastreid.utils.folders import atomic_folder, put_back
from fastreid.utils.lock import path_lock
from fastreid.utils.seal import save_sealed
from fastreid.utils.state_dicts import check_sizes

import torch

PARTS = ("unet", "vae", "scheduler")
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trust", action="store_true", help="run the code in the file, if there is any")
    parser.add_argument(
        "--stable-diffusion", action="store_true", help="OLD is a Stable Diffusion 1 of one file, NEW is a folder"
    )
    parser.add_argument(
        "--backbone", action="store_true", help="write the backbone alone, for MODEL.BACKBONE.PRETRAIN_PATH"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace NEW if it exists")
    parser.add_argument("old", type=user_path, metavar="OLD", help="the file to read; it is not changed")
    parser.add_argument(
        "new", type=user_path, metavar="NEW", help="the file to write: tensors, and the config of a run"
    )
    return parser


def convert(old: Path, *, trust: bool) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the state dict in a file, and the text of the config of its model, {} if it has none.

    Args:
        old: the file.
        trust: whether to run code in the file.

    Raises:
        WeightsError: there is no such file, it has no state dict, or it has objects and is not trusted.
    """
    if not trust:
        content = read_checkpoint(old)
        return state_dict_in(content, old), _config_in(content)
    if not old.is_file():
        raise WeightsError(f"no file {old}")
    try:
        content = _unpickled(old)
    except Exception as error:  # unpickling may raise any error
        raise WeightsError(f"cannot read {old}: {type(error).__name__}: {error}") from error
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    elif isinstance(content, Mapping) and isinstance(content.get("model"), torch.nn.Module):
        content = content["model"].state_dict()
    check_sizes(content, old)
    return state_dict_in(content, old), _config_in(content)


def _unpickled(path: Path) -> Any:
    """Return the content of a file of torch, or of a plain pickle, as Detectron and others write them."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except RuntimeError as error:
        if "magic number" not in str(error):
            raise
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")  # of Python 2


def _config_in(content: Any) -> dict[str, str]:
    text = content.get(CONFIG_TEXT) if isinstance(content, Mapping) else None
    return {CONFIG_TEXT: text} if isinstance(text, str) else {}


def write_folders(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the folders of a Stable Diffusion; `folder` is complete or unchanged.

    If the process is killed between two renames, the next call puts the earlier folder back before it writes.

    Args:
        state: names with tensors.
        folder: the folder to write or replace.

    Raises:
        UserError: `folder` holds something else than such folders.
    """
    with path_lock(folder):
        put_back(folder)
        _refuse_others(folder)
        with atomic_folder(folder) as draft:
            convert_single_file(state, draft)
    print(f"{folder}: {', '.join(PARTS)}")


def _refuse_others(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder")
    others = sorted({path.name for path in folder.iterdir()} - set(PARTS)) if folder.exists() else []
    if others:
        raise UserError(
            f"{folder} also holds {', '.join(others[:4])}, which would be lost: name a folder that has only "
            f"{', '.join(PARTS)}, or a new one"
        )


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    with reported_as("convert_checkpoint"):
        args = _parser().parse_args(argv)
        if args.backbone and args.stable_diffusion:
            raise UserError("--backbone and --stable-diffusion exclude each other")
        if args.new.exists() and not args.overwrite:
            raise UserError(f"{args.new} exists; name another file, or add --overwrite")
        check_output(args.new, [args.old])
        if not args.stable_diffusion and args.new.suffix not in SUFFIXES:
            raise UserError(
                f"{args.new} would be a file of torch: name it {args.new.with_suffix('.pth')}, or end it in one of "
                f"{' '.join(SUFFIXES[1:])}"
            )
        state, config = convert(args.old, trust=args.trust)
        if args.stable_diffusion:
            write_folders(state, args.new)
            return
        left_out = ""
        if args.backbone:
            state, others = backbone_of(state, args.old)
            config = {}  # it is that of a whole model
            parts = sorted({name.partition(".")[0] for name in others})
            left_out = f", {sum(map(torch.numel, state.values())):,} values; left out: {', '.join(parts) or 'nothing'}"
        args.new.parent.mkdir(parents=True, exist_ok=True)
        copies = {name: tensor.detach().clone() for name, tensor in state.items()}
        with path_lock(args.new):
            save_sealed({"model": copies, **config}, args.new, advice="Free some space and run the command again")
        print(f"{args.new}: {len(state)} tensors{left_out}")


if __name__ == "__main__":
    main()
