"""What an exported file says about itself: how images must be prepared, and what the file was made of."""

from __future__ import annotations

from typing import Any

from torch import nn

import fastreid
from fastreid.config import CfgNode, image_size
from fastreid.export.descriptor_module import Inputs, normalization_of
from fastreid.export.formats import FEATURES
from fastreid.export.generation import generation_facts
from fastreid.export.options import ExportOptions
from fastreid.export.tracing import BATCH


def metadata_of(
    model: nn.Module, cfg: CfgNode, options: ExportOptions, example: Inputs, feature_dim: int
) -> dict[str, Any]:
    """Return the metadata of a file, as plain types.

    Args:
        model: the model.
        cfg: its config.
        options: how it is exported.
        example: inputs of the file.
        feature_dim: D.
    """
    height, width = image_size(cfg, is_train=False)
    mean, deviation = normalization_of(model) or (None, None)
    resized_to, interpolation = list(cfg.INPUT.SIZE_TEST), cfg.INPUT.INTERPOLATION_TEST
    return {
        "library": f"fastreid {fastreid.__version__}",
        "method": cfg.MODEL.META_ARCHITECTURE,
        "inputs": {
            name: {"type": str(value.dtype).removeprefix("torch."), "shape": [BATCH, *value.shape[1:]]}
            for name, value in example.items()
        },
        "preprocessing": {
            "colours": "RGB",
            "resize": {"size": resized_to, "interpolation": interpolation, "as": "Pillow"},
            "centre_crop": [height, width] if cfg.INPUT.CROP.ENABLED else None,
            "range": [0, 255],
            "pixel_mean": mean,
            "pixel_std": deviation,
            "normalization": "in the graph" if options.normalizes else "before the graph",
        },
        "features": {
            "name": FEATURES,
            "length": feature_dim,
            "unit_length": options.has_unit_length,
            "mean_with_mirror_image": bool(cfg.TEST.FLIP.ENABLED),
        },
        **generation_facts(model, cfg),
    }
