"""Checks of the kinds of tensors in files of weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastreid.utils.checkpoint_file import WeightsError

logger = logging.getLogger(__name__)

_SHOWN = 5


def check_kinds(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Check that no tensor is sparse or complex; copying it would fail, or lose a part of it.

    Args:
        state: tensors by name.
        path: the file, for the message.

    Raises:
        WeightsError: a tensor is sparse or complex.
    """
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_complex():
            kind = "complex" if tensor.is_complex() else "sparse"
            raise WeightsError(f"{name} in {path} is a {kind} tensor; weights are dense and real")


def check_whole_numbers(model: nn.Module, fitting: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Check that the file has no integers for floating-point parameters, as quantised weights have.

    Args:
        model: the model.
        fitting: tensors of the file by the names of the model.
        path: the file, for the message.

    Raises:
        WeightsError: there are such parameters; the message names them.
    """
    wrong = [
        f"{name} ({fitting[name].dtype})"
        for name, own in model.named_parameters(remove_duplicate=False)
        if name in fitting and own.is_floating_point() and not fitting[name].is_floating_point()
    ]
    if wrong:
        raise WeightsError(
            f"{path} has whole numbers for {len(wrong)} floating-point parameters, the first are {_first(wrong)}: "
            "were they quantised? Save the weights as floating-point numbers"
        )


def warn_of_nonfinite(model: nn.Module, fitting: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Log which tensors of the file have NaN or infinite values; buffers that have them in the model too are ignored.

    Args:
        model: the model.
        fitting: tensors of the file by the names of the model.
        path: the file, for the message.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    own = model.state_dict()
    wrong = [
        name
        for name, tensor in fitting.items()
        if not _is_finite(tensor, own[name].dtype) and (name in parameters or _is_finite(own[name], own[name].dtype))
    ]
    if wrong:
        logger.warning(
            "%s has weights that are NaN or infinite, in %d of %d tensors (%s): the training that wrote it diverged, "
            "or the file is damaged; take an earlier checkpoint",
            path, len(wrong), len(fitting), _first(wrong),
        )  # fmt: skip


def _is_finite(tensor: Tensor, kind: torch.dtype) -> bool:
    """Whether all values are finite after conversion to the type of the model."""
    if not tensor.is_floating_point() or not kind.is_floating_point or tensor.is_meta:
        return True
    tensor = tensor.to(kind)
    return bool((tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all())


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
