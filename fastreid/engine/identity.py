"""Identity of a run: fingerprints of its data, config and frozen weights, which must be equal when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fastreid.config import CfgNode
from fastreid.engine.fingerprints import data_fingerprint
from fastreid.modeling import interface_of
from fastreid.structures import PersonImage
from fastreid.utils.manifest import digest
from fastreid.utils.weights import own_state_dict

Identity = dict[str, Any]


def training_identity(
    cfg: CfgNode,
    images: Sequence[PersonImage] | None,
    labels: Sequence[int] | None,
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Identity:
    """Fingerprints of what a run trains on, in plain types.

    Args:
        cfg: the config as it is used; OUTPUT_DIR is not a part of the identity.
        images: the training images in the order of the data set; None if they are not known.
        labels: the class of each image; None if they are not known.
        model: its weights that come from elsewhere at each start (not from checkpoints) are part of the identity, and
            so are its ``training_facts()``.
        optimizer: its class is part of the identity.
    """
    identity: Identity = {
        "config": {key: value for key, value in flatten(cfg).items() if key != "OUTPUT_DIR"},
        "data": None if images is None or labels is None else data_fingerprint(images, labels),
        "history": [],
    }
    if model is not None:
        identity |= model_identity(model)
    if optimizer is not None:
        identity["optimizer"] = type(optimizer).__name__
    return identity


def model_identity(model: nn.Module) -> Identity:
    """What a model trains with besides config, data and checkpoint. Call it before the model is sharded."""
    return {"frozen": frozen_fingerprint(model), "facts": _plain(interface_of(model).training_facts())}


def frozen_fingerprint(model: nn.Module) -> str | None:
    """Checksum of some values of each weight that the model leaves out of checkpoints; None if there are none."""
    kept, lines = own_state_dict(model).keys(), []
    for name, tensor in model.state_dict().items():
        if name not in kept:
            values = tensor.detach().reshape(-1)
            some = torch.cat([values[:32], values[len(values) // 2 :][:32], values[-32:]]).double().tolist()
            lines.append(f"{name}\t{list(tensor.shape)}\t{some}")
    return digest(lines) if lines else None


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"SOLVER.BASE_LR": 0.1, …}, in plain types."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": _plain(value)}
    return flat


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
