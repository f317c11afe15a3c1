"""What a run trains on, as fingerprints in its checkpoints: a run that is resumed must train on the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from fastreid.config import CfgNode
from fastreid.structures import PersonImage
from fastreid.utils.manifest import names_of
from fastreid.utils.weights import own_state_dict

Identity = dict[str, Any]

_BLOCK = 4096
_READERS = 8


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
        cfg: the config as it is used; where the run writes is not a part of it.
        images, labels: in the order of the dataset, with the class of each; None if they are not known.
        model: its weights that come from elsewhere at each start (not from checkpoints) are part of it, and so is
            what its ``training_facts()``, if it has that method, returns.
        optimizer: its class is part of it.
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


def data_fingerprint(images: Sequence[PersonImage], labels: Sequence[int]) -> dict[str, Any]:
    """Counts, and checksums of names, their order, people, cameras, views and content of images.

    Names count from the folder that all images are in. Of a file's content, its size and three blocks of 4 KiB are
    read: most images of people are smaller than that.
    """
    names = names_of(images)
    with ThreadPoolExecutor(_READERS) as pool:
        content = list(pool.map(_probe, (image.path for image in images), chunksize=64))
    return {
        "images": len(images),
        "classes": len(set(labels)),
        "names": _digest(sorted(names)),
        "order": _digest(names),
        "people": _digest(sorted(f"{name}\t{label}" for name, label in zip(names, labels, strict=True))),
        "cameras": _digest(sorted(f"{name}\t{image.camera}" for name, image in zip(names, images, strict=True))),
        "views": _digest(sorted(f"{name}\t{int(image.view)}" for name, image in zip(names, images, strict=True))),
        "content": _digest(sorted(f"{name}\t{probe}" for name, probe in zip(names, content, strict=True))),
    }


def model_identity(model: nn.Module) -> Identity:
    """What a model trains with beside config, data and checkpoint; ask before it is sharded."""
    return {"frozen": frozen_fingerprint(model), "facts": _plain(getattr(model, "training_facts", dict)())}


def frozen_fingerprint(model: nn.Module) -> str | None:
    """Checksum of the weights that the model leaves out of checkpoints: some values of each; None if there are none."""
    kept, lines = own_state_dict(model).keys(), []
    for name, tensor in model.state_dict().items():
        if name not in kept:
            values = tensor.detach().reshape(-1)
            some = torch.cat([values[:32], values[len(values) // 2 :][:32], values[-32:]]).double().tolist()
            lines.append(f"{name}\t{list(tensor.shape)}\t{some}")
    return _digest(lines) if lines else None


def _probe(path: str) -> str:
    """Checksum of a file's size and of its first, middle and last blocks; of one that cannot be read, a mark."""
    checksum = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            checksum.update(f"{size}\n".encode())
            if size <= 3 * _BLOCK:
                checksum.update(file.read())
            else:
                for start in (0, size // 2, size - _BLOCK):
                    file.seek(start)
                    checksum.update(file.read(_BLOCK))
    except OSError:
        return "unreadable"
    return checksum.hexdigest()


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"SOLVER.BASE_LR": 0.1, …}, in plain types."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": _plain(value)}
    return flat


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
