"""Models of timm as backbones."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from timm.layers import resize_rel_pos_bias_table
from timm.models import Eva, SwinTransformer, VisionTransformer, group_parameters
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, image_size, require_unread
from fastreid.modeling.backbones.pretrained import READ_BY_ALL, load_pretrained
from fastreid.modeling.backbones.resnet import remove_strides
from fastreid.modeling.backbones.vit import fit_vit_names
from fastreid.utils.errors import sentence_of
from fastreid.utils.suggest import near_matches

logger = logging.getLogger(__name__)


class TimmBackbone(nn.Module):
    """A timm model without its classifier: normalised images [B, 3, H, W] -> maps [B, C, h, w].

    Models of tokens, and models whose pooling cannot be removed, return their pooled vector as [B, C, 1, 1].

    Args:
        name: a name of `timm.create_model`; no weights are downloaded.
        image_size: (H, W), for models with a table of positions.
        last_stages: names of stages whose strides become 1.
    """

    model: Any

    def __init__(self, name: str, image_size: tuple[int, int], last_stages: tuple[str, ...] = ()) -> None:
        super().__init__()
        with _sizes_explained(name, image_size):
            self.model = _unpooled(name, image_size)
        for stage in last_stages:
            remove_strides(self.model.get_submodule(stage))
        # The shape of the output is measured with one image.
        was_training = self.model.training
        with torch.no_grad(), _sizes_explained(name, image_size):
            shape = self.eval()(torch.zeros(1, 3, *image_size)).shape
        self.train(was_training)
        self.feature_dim = shape[1]
        self._layers = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)

    @property
    def num_layers(self) -> int:
        """The greatest `layer_of`."""
        return max(self._layers.values())

    def layer_of(self, name: str) -> int:
        """Return the depth of a parameter by the groups of timm: 0 for the stem."""
        return self._layers[name.removeprefix("model.")]

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps of normalised images."""
        features = self.model(images)
        if features.ndim == 2:
            return features[..., None, None]
        return features.permute(0, 3, 1, 2) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else features


@contextmanager
def _sizes_explained(name: str, image_size: tuple[int, int]) -> Iterator[None]:
    """Raise errors of timm and torch about a size that a model cannot take as a ConfigError."""
    try:
        yield
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        if sentence_of(error):  # out of memory
            raise
        height, width = image_size
        raise ConfigError(
            f"timm's {name} cannot take images of height {height} and width {width} (INPUT.SIZE_TRAIN): "
            f"{' '.join(str(error).split()):.300}"
        ) from error


def _unpooled(name: str, image_size: tuple[int, int]) -> nn.Module:
    """Return a model of timm without classifier, and without pooling if it has maps and pooling can be removed."""
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        options["img_size"] = tuple(image_size)
    state = torch.get_rng_state()
    try:
        model = timm.create_model(name, global_pool="", **options)
        if not hasattr(model, "num_prefix_tokens"):  # models of tokens keep their own pooling
            return model
    except (AssertionError, TypeError):  # its pooling cannot be removed
        pass
    torch.set_rng_state(state)
    return timm.create_model(name, **options)


def build_timm_backbone(cfg: CfgNode) -> TimmBackbone:
    """Return the model `MODEL.BACKBONE.TIMM_NAME` of timm, for images of the size of training.

    Raises:
        ConfigError: no such model, a key of other backbones was changed, or a size that the model cannot take.
        WeightsError: `PRETRAIN_PATH` fills too little of it.
    """
    name = cfg.MODEL.BACKBONE.TIMM_NAME
    if not timm.is_model(name):
        near = near_matches(name, timm.list_models())
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"MODEL.BACKBONE.TIMM_NAME {name!r} is none of timm's {len(timm.list_models())} models{hint}")
    reads = (*READ_BY_ALL, "TIMM_NAME")
    require_unread(cfg, "MODEL.BACKBONE", reads, "build_timm_backbone takes timm's model as it is")
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False) and (
        image_size(cfg, is_train=False) != image_size(cfg)
    ):
        raise ConfigError(
            f"{name}'s table of positions has one size: INPUT.SIZE_TEST {cfg.INPUT.SIZE_TEST} must equal SIZE_TRAIN "
            f"{cfg.INPUT.SIZE_TRAIN}"
        )
    return with_weights(TimmBackbone(name, image_size(cfg)), cfg)


def with_weights(backbone: TimmBackbone, cfg: CfgNode) -> TimmBackbone:
    """Load the file of MODEL.BACKBONE.PRETRAIN_PATH into a model, if PRETRAIN is True, and return the model.

    Raises:
        WeightsError: the file fills too little of it.
    """
    keys = cfg.MODEL.BACKBONE
    if keys.PRETRAIN:
        load_pretrained(backbone.model, keys.PRETRAIN_PATH, adapt=_fit_names, min_coverage=keys.PRETRAIN_MIN_COVERAGE)
    return backbone


def _fit_names(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop `backbone.` and `model.`; resize the table of positions of a ViT, and those of a Swin Transformer.

    A file with other names whose tensors are those of the model in the same order gets the names of the model.
    """
    state = {name.removeprefix("backbone.").removeprefix("model."): tensor for name, tensor in state.items()}
    if state.keys().isdisjoint(model.state_dict()):
        state = named_by_order(model, state)
    if isinstance(model, VisionTransformer | Eva):
        return fit_vit_names(model, state)
    return _fit_swin_names(model, state) if isinstance(model, SwinTransformer) else state


def named_by_order(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a state in their order, if all have the shapes and the last names of those of the model.

    Args:
        model: the model.
        state: its tensors under other names; others may follow, such as a classifier.
    """

    def kind(name: str, value: Tensor) -> tuple[str, torch.Size]:
        return name.rpartition(".")[2], value.shape

    own, given = (
        {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
        for tensors in (model.state_dict(), state)
    )
    if [kind(*pair) for pair in own.items()] != [kind(*pair) for pair in list(given.items())[: len(own)]]:
        return state
    logger.info("the file has other names; its tensors are those of the model in the same order")
    counts = {name: torch.tensor(0) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    return counts | dict(zip(own, given.values(), strict=False))


def _fit_swin_names(model: SwinTransformer, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt a state of Microsoft's code or of timm to the windows of a model, which follow from the size of images.

    Tables of square windows are interpolated as timm does it; a table that fits is not changed.
    """
    own = model.state_dict()
    # Microsoft's stages end with the layer with which the next stage of timm's model begins.
    if "layers.0.downsample.reduction.weight" in state:
        state = {re.sub(r"^layers\.(\d+)\.downsample", _next_stage, name): value for name, value in state.items()}
    fitted = {}
    for name, value in state.items():
        if name.endswith(("relative_position_index", "attn_mask")):  # follow from the windows
            continue
        if name.endswith(".relative_position_bias_table") and name in own and _is_square(value):
            shape = tuple(own[name].shape)
            if value.shape != shape and value.shape[1] == shape[1]:
                attention: Any = model.get_submodule(name.rpartition(".")[0])
                value = resize_rel_pos_bias_table(value, attention.window_size, shape)
        fitted[name] = value
    return fitted


def _next_stage(found: re.Match[str]) -> str:
    return f"layers.{int(found[1]) + 1}.downsample"


def _is_square(table: Tensor) -> bool:
    return table.ndim == 2 and math.isqrt(len(table)) ** 2 == len(table)
