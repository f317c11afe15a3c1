#!/usr/bin/env python
"""Exports a trained model to a file of ONNX or torch.export that takes batches of any size.

export.py CHECKPOINT --format onnx [--output FILE] [--preprocess metadata] [--no-normalize] KEY VALUE …

The file is written only if it computes the same features as the model.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from fastreid.config import CfgNode, ConfigError, user_path
from fastreid.export import FORMATS, ExportOptions, export_model
from fastreid.modeling.trained import load_trained, trained_config
from fastreid.utils.errors import reported_as
from fastreid.utils.files import check_output
from fastreid.utils.lock import path_lock
from fastreid.utils.user_code import import_file

from torch import nn

# Keys that decide what a trained model computes, and no shape of its weights.
_KEYS = ("TEST.SDMODEL.", "TEST.FLIP.ENABLED", "TEST.NECK_FEAT", "MODEL.SDMODEL.SCHEDULER_CONFIG.")
_ASSETS = "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=user_path, metavar="CHECKPOINT", help="as model_final.pth in the OUTPUT_DIR of a run")
    add("--format", required=True, metavar="FORMAT", help=f"one of {', '.join(FORMATS)}")
    add("--output", type=user_path, metavar="FILE", help="default: as CHECKPOINT, with the suffix of the format")
    add(
        "--preprocess",
        default="graph",
        metavar="WHERE",
        help="graph: the file takes uint8 RGB images; metadata: it takes normalized ones (default: %(default)s)",
    )
    add(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give features unit length (default: yes)",
    )
    add(
        "--tolerance",
        type=float,
        default=ExportOptions.tolerance,
        metavar="SHARE",
        help="greatest difference from the model, as a share of its greatest number (default: %(default)s)",
    )
    add("--import", dest="imports", action="append", default=[], metavar="FILE", help="as of train_net.py")
    add("options", nargs="*", metavar="KEY VALUE", help="config keys: TEST.SDMODEL.NUM_INFERENCE_STEPS 5")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    with reported_as("export"):
        _export(_parser().parse_intermixed_args(argv))


def _export(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = ExportOptions(args.format, args.preprocess, args.normalize, args.tolerance)
    chosen = FORMATS[options.format]
    output = args.output or args.checkpoint.with_suffix(chosen.suffix)
    options.check_name(output)
    check_output(output, [args.checkpoint])
    chosen.require_packages()
    for file in args.imports:
        import_file(file)
    model, cfg = _load(args.checkpoint, args.options)
    with path_lock(output):
        agreement = export_model(model, cfg, output, options)
    print(f"{agreement}\n{output}: {output.stat().st_size / 2**20:,.1f} MiB")


def _load(checkpoint: Path, options: Sequence[str]) -> tuple[nn.Module, CfgNode]:
    """Return the model of a checkpoint and its config, with some keys changed."""
    for key in options[::2]:
        if not (key.startswith(_KEYS) or key == _ASSETS) or key == "TEST.SDMODEL.MICRO_BATCH":
            raise ConfigError(f"{key} has no effect on an exported file: only {', '.join((*_KEYS, _ASSETS))} have")
    cfg = trained_config(checkpoint).clone()
    cfg.defrost()
    cfg.merge_from_list(list(options))  # before the model is built: its assets may be in another folder now
    cfg.freeze()
    return load_trained(checkpoint, config=cfg)


if __name__ == "__main__":
    main()
