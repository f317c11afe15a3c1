"""Checkpoints of the SD-ReID release (a fork of fast-reid): their names -> ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from fastreid.utils.checkpoint_file import WeightsError

logger = logging.getLogger(__name__)

State = dict[str, Tensor]

_HEADS = {"heads": "person.identity_head", "view_heads": "person.view_head"}
# A residual attention block as CLIP spells it -> as torch.nn.TransformerEncoderLayer does.
_BLOCK_PARTS = {
    "attn.in_proj_weight": "self_attn.in_proj_weight",
    "attn.in_proj_bias": "self_attn.in_proj_bias",
    "attn.out_proj.weight": "self_attn.out_proj.weight",
    "attn.out_proj.bias": "self_attn.out_proj.bias",
    "ln_1.weight": "norm1.weight",
    "ln_1.bias": "norm1.bias",
    "ln_2.weight": "norm2.weight",
    "ln_2.bias": "norm2.bias",
    "mlp.c_fc.weight": "linear1.weight",
    "mlp.c_fc.bias": "linear1.bias",
    "mlp.c_proj.weight": "linear2.weight",
    "mlp.c_proj.bias": "linear2.bias",
}
_BLOCK_NAME = re.compile(rf"(?:.*\.)?(?P<block>\d+)\.(?P<part>{'|'.join(map(re.escape, _BLOCK_PARTS))})")


def is_release(state: State) -> bool:
    """Return whether a state has the names of a model of the release; `module.` is already dropped."""
    return any(name.startswith("mm.view_centers.") for name in state)


def from_release(state: State) -> State:
    """Translate the names of a released checkpoint; another state is returned unchanged.

    | released | here |
    |---|---|
    | `backbone.*` | `person.backbone.vit.*`; the vector that other ViTs do not have is the view prompt |
    | `heads.bottleneck.0.*`, `heads.weight` | `person.identity_head.*`; `view_heads.*` likewise |
    | `mm.view_centers.N` | row N of `person.memory.centres` |
    | `unet.model.*` | `denoiser.unet.*`; `inverse_sampling.unet.*` is the same network, and skipped |
    | `condition_learner.*` | blocks and null sequence, by name and shape |
    | its six convolutions | `view_decoder.*`: three for the encoder, three for the decoder |

    Other names stay, so that the load report lists them.

    Args:
        state: names with tensors.

    Raises:
        WeightsError: the state is damaged, or has several vectors that may be the view prompt.
    """
    if not is_release(state):
        return state
    prompt = _view_prompt(state)
    translated: State = {}
    learner: State = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part == "condition_learner":
            learner[rest] = tensor
        elif part in _HEADS:
            translated[f"{_HEADS[part]}.{_head_name(rest)}"] = tensor
        elif part == "backbone":
            translated["person.backbone.view_prompt" if name == prompt else f"person.backbone.vit.{rest}"] = tensor
        elif name.startswith("unet.model."):
            translated[f"denoiser.unet.{name.removeprefix('unet.model.')}"] = tensor
        elif not name.startswith(("mm.view_centers.", "inverse_sampling.unet.")):
            translated[name] = tensor
    translated |= _memory(state)
    translated |= dict(_condition_learner(learner))
    logger.info("checkpoint of the SD-ReID release: %d names translated", len(state))
    return translated


def _head_name(rest: str) -> str:
    rest = re.sub(r"^bottleneck\.\d+\.", "bottleneck.", rest)
    return "classifier.weight" if rest == "weight" else rest


def _view_prompt(state: State) -> str | None:
    """Return the name of the view prompt: the single vector at the top of the names, besides the class token.

    Raises:
        WeightsError: there are several.
    """
    vectors = [
        name
        for name, tensor in state.items()
        if name.startswith("backbone.")
        and name.count(".") == 1
        and name != "backbone.cls_token"
        and tensor.ndim
        and tensor.numel() == tensor.shape[-1]
    ]
    if len(vectors) > 1:
        raise WeightsError(f"which of {', '.join(vectors)} is the view prompt? The release has one such vector")
    return vectors[0] if vectors else None


def _memory(state: State) -> State:
    prefix = "mm.view_centers."
    numbers = sorted(int(name.removeprefix(prefix)) for name in state if name.startswith(prefix))
    rows = [state[f"{prefix}{number}"].flatten() for number in numbers]
    if len(sizes := {len(row) for row in rows}) > 1:
        raise WeightsError(f"{prefix}* have {' and '.join(map(str, sorted(sizes)))} numbers; the file is damaged")
    centres = torch.stack(rows)
    # The release starts centres at zero and does not record which views were seen.
    return {"person.memory.centres": centres, "person.memory.seen": centres.abs().sum(dim=1) > 0}


def _condition_learner(state: State) -> Iterator[tuple[str, Tensor]]:
    convolutions = [name for name, tensor in state.items() if tensor.ndim == 4]
    half = len(convolutions) // 2
    side_of = (
        {name.removesuffix("weight"): (i // half, i % half) for i, name in enumerate(convolutions)} if half else {}
    )
    for name, tensor in state.items():
        owner, _, last = name.rpartition(".")
        block = _BLOCK_NAME.fullmatch(name)
        if f"{owner}." in side_of:
            side, level = side_of[f"{owner}."]
            yield f"view_decoder.{('down', 'up')[side]}.{level}.{last}", tensor
        elif block:
            yield f"condition_learner.blocks.{block['block']}.{_BLOCK_PARTS[block['part']]}", tensor
        elif tensor.ndim in (2, 3) and "." not in name:
            yield "condition_learner.null", tensor.reshape(tensor.shape[-2:])
        else:
            yield f"condition_learner.{name}", tensor
