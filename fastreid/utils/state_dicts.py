"""Finding the state dict in a file of any program, and removing prefixes that wrappers added to its names."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]

# Names under which programs save the state dict; the first one with tensors is used. In self-supervised training
# (DINO, iBOT, PersonViT) the teacher is the published model.
PLACES = (
    "model", "state_dict", "model_state_dict", "model_state", "teacher", "student", "net", "network",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "params_ema", "params", "weights",
    "target_encoder", "encoder", "backbone", "module",
)  # fmt: skip
# Parts of names that wrappers add at any position: torch.compile, FSDP, activation checkpointing.
_INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_DEPTH = 4
_MANY = 16
_SHOWN = 10
_FREE_BYTES = 2**20
_MAX_SHARING = 4


class WeightsError(UserError, RuntimeError):
    """A checkpoint that is missing, unreadable, or does not fit the model."""


def state_dict_in(content: Any, path: str | os.PathLike[str]) -> State:
    """Return the state dict in the content of a file, without "module." in its names.

    NumPy arrays become tensors. Values that are neither (an epoch, None) are skipped.

    Args:
        content: a state dict, or a dict that has one under a name of `PLACES`.
        path: the file, for messages.

    Raises:
        WeightsError: there is none, and the message says what is there; or two names are the same without what wrappers
            added.
    """
    found = _find(content, _DEPTH)
    if found is None:
        raise WeightsError(
            f"{path} holds no state dict: expected names with tensors, or a dict with them under "
            f"{', '.join(map(repr, PLACES[:8]))} or the like; it holds {_described(content)}"
        )
    place, named = found
    if place and place not in ("model", "state_dict"):
        logger.info("%s: weights are taken from %r", path, place)
    state = {str(name): _tensor(value) for name, value in named.items() if _is_weight(value)}
    if others := [str(name) for name in named if str(name) not in state]:
        logger.debug("%s: no tensors, and left out: %s", path, ", ".join(others[:_SHOWN]))
    names = {name: _without_insertions(name).removeprefix("module.") for name in state}
    if repeated := [name for name, count in Counter(names.values()).items() if count > 1]:
        pair = [name for name, short in names.items() if short == repeated[0]]
        raise WeightsError(
            f"{path} has {' and '.join(pair)}, which are both {repeated[0]} without the parts that wrappers add: "
            "remove one of them"
        )
    return {names[name]: value for name, value in state.items()}


def _without_insertions(name: str) -> str:
    for inserted in _INSERTED:
        name = name.replace(inserted, "")
    return name


def _is_weight(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value)


def _find(content: Any, depth: int) -> tuple[str, Mapping[str, Any]] | None:
    """Return (place, dict with tensors); the place is "" for the content itself."""
    if not isinstance(content, Mapping) or not depth:
        return None
    parts = {name: part for name, part in content.items() if isinstance(name, str) and isinstance(part, Mapping)}
    for place in PLACES:
        if (inner := _find(parts.get(place), depth - 1)) is not None:
            return ".".join(filter(None, (place, inner[0]))), inner[1]
    if any(isinstance(name, str) and _is_weight(value) for name, value in content.items()):
        return "", content
    states = [name for name, part in parts.items() if _is_state(part)]
    return (states[0], parts[states[0]]) if len(states) == 1 else None


def _is_state(part: Mapping[Any, Any]) -> bool:
    weights = sum(isinstance(name, str) and _is_weight(value) for name, value in part.items())
    return 2 * weights > len(part)


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "an empty dict"
    words = [f"{name} ({_kind(value)})" for name, value in list(content.items())[:_SHOWN]]
    more = f" and {len(content) - _SHOWN} more" if len(content) > _SHOWN else ""
    return f"a dict with {', '.join(words)}{more}"


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"dict of {', '.join(map(str, list(value)[:3]))}{', …' if len(value) > 3 else ''}" if value else "dict"
    return type(value).__name__


def without_wrapper(state: State, score: Callable[[State], float]) -> tuple[str, State]:
    """Drop the prefix that a wrapper added to the names, if they fit a model better without it.

    Args:
        state: names with tensors.
        score: how well a state fits; larger is better.

    Returns:
        The prefix, "" if none is dropped, and the state without it; names without the prefix are unchanged.
    """
    best, found = score(state), ("", state)
    for prefix in _prefixes(state):
        stripped = {name.removeprefix(prefix): value for name, value in state.items()}
        if (value := score(stripped)) > best:
            best, found = value, (prefix, stripped)
    return found


def _prefixes(names: Collection[str]) -> list[str]:
    """Return beginnings of names up to a dot, the most frequent first; if equally frequent, the shorter first."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")[:-1]
        counts.update(".".join(parts[: depth + 1]) + "." for depth in range(min(len(parts), _DEPTH)))
    return sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix)))[:_MANY]


def check_sizes(content: Any, path: str | os.PathLike[str]) -> None:
    """Check that tensors do not claim far more values than are stored, as a small file could then fill the memory.

    Weights that several names share, and views of one buffer, are accepted.

    Args:
        content: content of a file.
        path: the file, for messages.

    Raises:
        WeightsError: there are such tensors; the message names the largest.
    """
    stored: dict[int, int] = {}
    claimed: dict[str, int] = {}
    for name, tensor in _tensors(content, ""):
        if tensor.device.type == "meta":
            raise WeightsError(f"{name} in {path} has a shape and no values (a meta tensor): save the model itself")
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            stored[storage._cdata] = storage.nbytes()
            claimed[name] = tensor.numel() * tensor.element_size()
    if sum(claimed.values()) > _MAX_SHARING * sum(stored.values()) + _FREE_BYTES:
        name = max(claimed, key=claimed.__getitem__)
        raise WeightsError(
            f"the tensors in {path} claim {sum(claimed.values()):,} bytes, and {sum(stored.values()):,} are stored "
            f"({name} alone claims {claimed[name]:,}): the file is damaged, or made to fill memory and disk"
        )


def _tensors(content: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors with their names; containers may be nested deeply, and may contain themselves."""
    waiting, seen = [(name, content)], set()
    while waiting:
        name, content = waiting.pop()
        if isinstance(content, torch.Tensor):
            yield name or "the tensor", content
        elif isinstance(content, Mapping | list | tuple) and id(content) not in seen:
            seen.add(id(content))
            items = content.items() if isinstance(content, Mapping) else enumerate(content)
            waiting += [(f"{name}.{key}" if name else str(key), value) for key, value in items]
