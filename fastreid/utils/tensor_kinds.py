"""Kinds of tensors that no weights are."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from fastreid.utils.checkpoint_file import WeightsError


def check_kinds(state: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """Raises: WeightsError naming a tensor that is sparse or complex; copying it would fail, or lose a part of it."""
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_complex():
            kind = "complex" if tensor.is_complex() else "sparse"
            raise WeightsError(f"{name} in {path} is a {kind} tensor; weights are dense and real")
