"""Names of the weights of CLIP's image encoder: OpenAI, open_clip and Hugging Face, to those of timm."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from fastreid.modeling.backbones.vit import fit_positions

# (OpenAI and open_clip, timm), each of a part of a name.
_OPENAI = (
    ("transformer.resblocks.", "blocks."),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1.", "patch_embed.proj."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    ("ln_1.", "norm1."),
    ("ln_2.", "norm2."),
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj.", "attn.proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)
# (Hugging Face, timm); "pre_layrnorm" is how that library writes it.
_HUGGING_FACE = (
    ("encoder.layers.", "blocks."),
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("embeddings.patch_embedding.", "patch_embed.proj."),
    ("pre_layrnorm.", "norm_pre."),
    ("post_layernorm.", "norm."),
    ("layer_norm1.", "norm1."),
    ("layer_norm2.", "norm2."),
    ("self_attn.out_proj.", "attn.proj."),
    ("self_attn.", "attn."),
)
_QKV = re.compile(r"(.*attn\.)q_proj\.(weight|bias)")


def fit_clip_names(vit: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt the state of a published CLIP model: keep the image encoder, resize its position table bilinearly.

    Args:
        vit: the VisionTransformer of timm that it is for; its `head` is the projection.
        state: with the names of OpenAI's `ViT-B-16.pt` or open_clip (`visual.*`), of Hugging Face (`vision_model.*`
            and `visual_projection.weight`), or of timm.
    """
    if any(name.endswith("embeddings.class_embedding") for name in state):
        state = _from_hugging_face(state)
    elif any(name.endswith("class_embedding") for name in state):
        state = _from_openai(state)
    else:  # of timm, in open_clip below `visual.trunk.`
        state = {name.replace("visual.head.proj.", "head."): tensor for name, tensor in state.items()}
        state = {name.removeprefix("visual.trunk.").removeprefix("vit."): tensor for name, tensor in state.items()}
        state.pop("head.bias", None)  # timm adds one of zeros
    if not vit.num_classes:
        state.pop("head.weight", None)
    return fit_positions(vit, state)


def _from_openai(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if any(name.startswith("visual.") for name in state):
        state = {name.removeprefix("visual."): state[name] for name in state if name.startswith("visual.")}
    found = {_renamed(name, _OPENAI): tensor for name, tensor in state.items()}
    if "proj" in found:
        found["head.weight"] = found.pop("proj").T.contiguous()  # images [B, 768] are multiplied from the left
    return _shaped(found)


def _from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {
        _renamed(name.removeprefix("vision_model."), _HUGGING_FACE): tensor
        for name, tensor in state.items()
        if not name.startswith("text_") and not name.endswith("position_ids") and name != "logit_scale"
    }
    if "visual_projection.weight" in found:
        found["head.weight"] = found.pop("visual_projection.weight")
    for match in filter(None, map(_QKV.fullmatch, list(found))):
        start, end = match.groups()
        names = [f"{start}{part}_proj.{end}" for part in "qkv"]
        if len({found[name].shape if name in found else None for name in names}) == 1:
            found[f"{start}qkv.{end}"] = torch.cat([found.pop(name) for name in names])
    return _shaped(found)


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in pairs:
        name = name.replace(theirs, ours)
    return name


def _shaped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give class token and position table the leading dimensions of timm."""
    shapes = {"cls_token": (1, 1, -1), "pos_embed": (1, *state["pos_embed"].shape) if "pos_embed" in state else ()}
    return {name: tensor.reshape(shapes[name]) if name in shapes else tensor for name, tensor in state.items()}
