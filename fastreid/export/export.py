"""Exports a trained model to one file, which is written only if it computes the same as the model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fastreid.config import CfgNode, image_size
from fastreid.export.agreement import BATCH_SIZES, Agreement, sample_images
from fastreid.export.descriptor_module import (
    IMAGES,
    DescriptorModule,
    Inputs,
    inputs_of,
    normalization_of,
    without_normalization,
)
from fastreid.export.formats import FORMATS, ModelExportError, Run
from fastreid.export.generation import fixed_generation
from fastreid.export.metadata import metadata_of
from fastreid.export.options import ExportOptions
from fastreid.export.tracing import trace
from fastreid.modeling.trained import config_text
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_write

_TRACED = BATCH_SIZES.index(2)  # sizes 0 and 1 would be constants in the graph


def export_model(model: nn.Module, cfg: CfgNode, path: str | Path, options: ExportOptions) -> Agreement:
    """Write a model to a file that takes batches of any size, and return how far the file is from the model.

    The content of the file is run with batches of several sizes before it is written.

    Args:
        model: a model in eval mode, on the CPU.
        cfg: its config.
        path: the file; an earlier one is replaced.
        options: format and contents of the file.

    Raises:
        ArgumentError: the name of the file has the suffix of another format.
        ConfigError: features are generated from noise that cannot be part of a graph, or for a view without a centre.
        ModelExportError: missing packages, a model that cannot be traced with a batch of any size, or a graph that
            computes something else. An earlier file is then unchanged.
    """
    options.check_name(path)
    FORMATS[options.format].require_packages()
    with torch.no_grad(), fixed_generation(model):
        content, agreement = _content(model, cfg, options)
    if not agreement.is_within(options.tolerance):
        raise ModelExportError(
            f"the exported graph does not compute what the model does, so {path} is not written: {agreement}. The "
            f"tolerance is {options.tolerance:g}"
        )
    with atomic_write(path, "wb") as file:
        file.write(content)
    return agreement


def _content(model: nn.Module, cfg: CfgNode, options: ExportOptions) -> tuple[bytes, Agreement]:
    """The content of a file, and how far it is from the model."""
    module = DescriptorModule(model, averages_mirrored=cfg.TEST.FLIP.ENABLED, has_unit_length=options.has_unit_length)
    batches = _batches(model.eval(), cfg)
    expected = [module.eval()(**batch) for batch in batches]
    if not all(features.ndim == 2 and features.isfinite().all() for features in expected):
        raise ModelExportError("the features of the model are not finite rows: did its training diverge?")
    given = batches if options.normalizes else [_normalized(batch, model, cfg) for batch in batches]
    with nullcontext() if options.normalizes else without_normalization(model):
        program = _traced(module, given[_TRACED], cfg)
    metadata = metadata_of(model, cfg, options, given[_TRACED], expected[0].shape[1])
    chosen = FORMATS[options.format]
    try:
        content = chosen.encode(program, list(given[0]), metadata, config_text(cfg))
        run = chosen.load(content)
    except UserError:
        raise
    except Exception as error:  # of the packages, as for operations that a format does not have
        raise ModelExportError(f"the graph cannot be written as {chosen.suffix}: {_first_line(error)}") from error
    return content, Agreement.of([_features(run, batch) for batch in given], expected)


def _batches(model: nn.Module, cfg: CfgNode) -> list[Inputs]:
    """Batches of all sizes that are compared, with the inputs that the model reads; images are uint8."""
    size = image_size(cfg, is_train=False)
    images = [sample_images(count, size, seed=count) for count in BATCH_SIZES]
    try:
        names = inputs_of(model, images[_TRACED])
    except KeyError as error:
        raise ModelExportError(
            f"{cfg.MODEL.META_ARCHITECTURE} reads {error.args[0]!r} of a batch in evaluation, which cannot be an input "
            "of an exported file"
        ) from error
    return [{name: part if name == IMAGES else torch.arange(len(part)) % 2 for name in names} for part in images]


def _normalized(batch: Inputs, model: nn.Module, cfg: CfgNode) -> Inputs:
    """The batch with images as the metadata says that they must be prepared."""
    found = normalization_of(model)
    if found is None:
        raise ModelExportError(
            f"{cfg.MODEL.META_ARCHITECTURE} does not normalize pixels by one pixel_mean and pixel_std, which metadata "
            "could name: choose --preprocess graph"
        )
    mean, deviation = (torch.tensor(values).view(1, -1, 1, 1) for values in found)
    return {**batch, IMAGES: (batch[IMAGES] - mean) / deviation}


def _traced(module: nn.Module, example: Inputs, cfg: CfgNode) -> ExportedProgram:
    try:
        return trace(module, example)
    except Exception as error:  # torch.export has no common class of errors
        raise ModelExportError(
            f"torch.export cannot trace {cfg.MODEL.META_ARCHITECTURE} with a batch of any size: {_first_line(error)}. "
            "In code of yours, take sizes of a batch as tensor.shape[0] (len(tensor) is a constant in a graph), and do "
            "not branch on values of tensors"
        ) from error


def _features(run: Run, batch: Inputs) -> Tensor:
    try:
        return run(batch)
    except Exception as error:  # the packages have no common class of errors
        raise ModelExportError(
            f"the exported graph fails with a batch of {len(batch[IMAGES])}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].strip():.300}"
