"""The interface of models to trainer, checkpoints and evaluation; builds the model of `MODEL.META_ARCHITECTURE`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import nn

from fastreid.config import CfgNode, resolve_device, with_values
from fastreid.structures import PersonImage
from fastreid.utils.checkpointed import CheckpointedModule, PlainModule
from fastreid.utils.compiling import compile_module
from fastreid.utils.registry import Registry

if TYPE_CHECKING:
    from fastreid.modeling.epoch_task import EpochTask

META_ARCH_REGISTRY = Registry("meta-architecture")
"""Name -> class (cfg) of a model: `model(batch)` gives a dict of losses in training, descriptors [B, D] otherwise."""

RANKING, ATTRIBUTES = "ranking", "attributes"
"""Kinds of evaluation."""

Transform = Callable[..., Any]
"""A picture as it is read -> its pixels, as the transforms of `fastreid.data` return them."""


@dataclass(frozen=True)
class RatePart:
    """Modules whose learning rate is multiplied by the value of a config key.

    Args:
        factor: full name of the key, as "SOLVER.HEADS_LR_FACTOR".
        modules: their parameters, those of their submodules included, train at this factor.
    """

    factor: str
    modules: tuple[nn.Module, ...]


@runtime_checkable
class Layered(Protocol):
    """A module that knows the depth of its parameters, for SOLVER.LAYER_DECAY."""

    @property
    def num_layers(self) -> int:
        """Depth of the last block or stage."""

    def layer_of(self, name: str) -> int:
        """Return the depth of the parameter `name`: 0 for the stem, `num_layers` for the last block or stage."""


class ReidModel(CheckpointedModule):
    """Base class of models: the members that trainer, checkpoints and evaluation use, each with a default.

    `forward(batch)` returns a dict of losses in training and descriptors [B, D] otherwise. `batch` is a
    `fastreid.structures.Batch`. What a checkpoint holds and must fill is declared in `CheckpointedModule`.

    A module that does not derive from this class works as well: `interface_of` gives it the defaults.

    Attributes:
        needs_labels: whether training needs to know the person of each image. A model that does not need it labels the
            images itself, in an epoch task. It can also train on images without persons, whose labels are -1 until
            the first `EpochPlan`; MODEL.HEADS.NUM_CLASSES is not filled in.
        evaluation: what the outputs in eval mode are, and so how they are evaluated: `RANKING`, descriptors that rank a
            gallery; or `ATTRIBUTES`, probabilities [B, A] of the attributes of people.
    """

    needs_labels: bool = True
    evaluation: str = RANKING

    @classmethod
    def image_transforms(cls, cfg: CfgNode, *, is_train: bool) -> Mapping[str, Transform]:
        """Return further named views of each image, beside "images". Default: none.

        Args:
            cfg: the config of the run.
            is_train: whether they are for training batches.

        Returns:
            The key in the batch -> a transform that makes this view of an image.
        """
        return {}

    @classmethod
    def evaluation_config(cls, cfg: CfgNode) -> CfgNode:
        """Return the config of a model that is only evaluated. Default: no change.

        A model whose training needs parts that evaluation does not use builds itself without them.

        Args:
            cfg: the config.

        Returns:
            The same config, or a frozen copy with other values.
        """
        return cfg

    def check_data(self, images: Sequence[PersonImage]) -> None:
        """Check that the model can train on these images. Default: any.

        Args:
            images: all training images.

        Raises:
            ConfigError: it cannot; the message says which key to change.
        """

    def check_weights(self) -> None:
        """Check the model after weights were loaded to start a training from. Default: nothing to check.

        Raises:
            ConfigError: the weights lack what the training needs.
        """

    def training_facts(self) -> dict[str, Any]:
        """Return what the training depends on besides config, data and weights. Default: nothing.

        A run is resumed only if the facts are the same. Keys are shown to the user; values are plain types.
        """
        return {}

    def rate_parts(self) -> Sequence[RatePart]:
        """Return the parts that train at a rate of their own. Default: parts called `heads`, as in fast-reid."""
        return [RatePart("SOLVER.HEADS_LR_FACTOR", modules_called("heads", self))]

    def frozen_in(self, epoch: int) -> Sequence[str]:
        """Return the parts, by dotted paths, that do not train in an epoch, which counts from 0. Default: none."""
        return ()

    def compile_parts(self, batch_size: int) -> None:
        """Compile what takes most of the time, for MODEL.COMPILE. Default: parts called `backbone`.

        Args:
            batch_size: images of a full batch of evaluation.
        """
        for part in modules_called("backbone", self):
            compile_module(part)

    def epoch_tasks(self) -> Sequence[EpochTask]:
        """Return work to be done before epochs over the training images. Default: none."""
        return ()


def modules_called(name: str, model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the submodules of a model whose own name, the last part of their path, is `name`."""
    return tuple(module for path, module in model.named_modules() if path.rpartition(".")[2] == name)


class PlainModel(PlainModule, ReidModel):
    """Provides the defaults of `ReidModel` for a module that does not derive from it."""

    def rate_parts(self) -> Sequence[RatePart]:
        """Return the parts of the wrapped module that are called `heads`."""
        return [RatePart("SOLVER.HEADS_LR_FACTOR", modules_called("heads", self._wrapped[0]))]

    def compile_parts(self, batch_size: int) -> None:
        """Compile the parts of the wrapped module that are called `backbone`."""
        for part in modules_called("backbone", self._wrapped[0]):
            compile_module(part)


def interface_of(model: nn.Module) -> ReidModel:
    """Return the model itself if it is a `ReidModel`, otherwise an adapter with the defaults.

    The adapter is for these members only; train and evaluate with the model itself.

    Args:
        model: the bare model, not its distributed wrapper.
    """
    return model if isinstance(model, ReidModel) else PlainModel(model)


def _register_models() -> None:
    """Import the models of the library, which registers them; not at the top, as they import this module."""
    importlib.import_module("fastreid.methods.models")


def _model_class(cfg: CfgNode) -> type[ReidModel] | None:
    """The model class of a config; None if MODEL.META_ARCHITECTURE is not a `ReidModel`."""
    _register_models()
    name = cfg.MODEL.META_ARCHITECTURE
    make = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    return make if isinstance(make, type) and issubclass(make, ReidModel) else None


def evaluation_config_of(cfg: CfgNode) -> CfgNode:
    """Return the config with which a model is built if it is only evaluated, by a checkpoint that fills its backbone.

    Args:
        cfg: the config.
    """
    cfg = with_values(cfg, {"MODEL.BACKBONE.PRETRAIN": False})
    model = _model_class(cfg)
    return cfg if model is None else model.evaluation_config(cfg)


def image_transforms_of(cfg: CfgNode, *, is_train: bool) -> Mapping[str, Transform]:
    """Return the `image_transforms` of the model class of a config, before the model is built.

    Args:
        cfg: the config.
        is_train: whether they are for training batches.

    Returns:
        The key in the batch -> a transform; {} if MODEL.META_ARCHITECTURE is not a `ReidModel`.
    """
    model = _model_class(cfg)
    return {} if model is None else model.image_transforms(cfg, is_train=is_train)


def needs_labels_of(cfg: CfgNode) -> bool:
    """Return the `needs_labels` of the model class of a config, before the model is built.

    Args:
        cfg: the config.

    Returns:
        Whether training needs the person of each image; True if MODEL.META_ARCHITECTURE is not a `ReidModel`.
    """
    model = _model_class(cfg)
    return model is None or model.needs_labels


def evaluation_of(cfg: CfgNode) -> str:
    """Return the `evaluation` of the model class of a config.

    Args:
        cfg: the config.

    Returns:
        `RANKING` or `ATTRIBUTES`; the first if MODEL.META_ARCHITECTURE is not a `ReidModel`.
    """
    model = _model_class(cfg)
    return RANKING if model is None else model.evaluation


def build_model(cfg: CfgNode, num_classes: int | None = None) -> nn.Module:
    """Return the model of a config, on `MODEL.DEVICE`.

    Args:
        cfg: the config.
        num_classes: training identities, instead of `MODEL.HEADS.NUM_CLASSES`.

    Raises:
        RegistryError: no model has the name in `MODEL.META_ARCHITECTURE`.
    """
    _register_models()
    if num_classes is not None:
        cfg = with_values(cfg, {"MODEL.HEADS.NUM_CLASSES": num_classes})
    make = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE, key="MODEL.META_ARCHITECTURE")
    model = make(cfg)
    model = model.to(resolve_device(cfg.MODEL.DEVICE))
    # A convolution whose weights are laid out in this way returns maps that are, too.
    return model.to(memory_format=torch.channels_last) if cfg.MODEL.CHANNELS_LAST else model
