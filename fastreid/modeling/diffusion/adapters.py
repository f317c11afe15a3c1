"""Which parameters of a Stable Diffusion UNet train: chosen attentions, LoRA adapters, or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastreid.modeling.diffusion.option_error import OptionError

_ATTENTIONS_PER_BLOCK = 3
ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""Names of the projections of an attention in diffusers."""
_ATTENTIONS = ("attn1", "attn2")
_LETTERS = dict(zip("qkvo", ATTENTION_PROJECTIONS, strict=True))
_FEED_FORWARD = {"ff.in": "ff.net.0.proj", "ff.out": "ff.net.2"}


def train_attentions(
    unet: nn.Module, blocks: Sequence[int], *, self_attention: str = "", cross_attention: str = "kv"
) -> None:
    """Freeze a UNet except projections of chosen attentions in its decoder.

    Args:
        unet: a `diffusers.UNet2DConditionModel`.
        blocks: numbers of attentions in the up blocks, from the middle outwards, three per block; blocks without
            attention count as well.
        self_attention: which projections of the self-attentions train: letters of "qkv".
        cross_attention: which projections of the cross-attentions train.

    Raises:
        OptionError: a number that this UNet does not have, or nothing is left to train.
    """
    unet.requires_grad_(False)
    chosen = [
        projection
        for index in blocks
        for block in _transformer_blocks(unet, index)
        for attention, letters in ((block.attn1, self_attention), (block.attn2, cross_attention))
        for letter, projection in (("q", attention.to_q), ("k", attention.to_k), ("v", attention.to_v))
        if letter in letters
    ]
    if not chosen:
        raise OptionError(
            "the choice leaves nothing to train: blocks is empty, or self_attention and cross_attention are off",
            "blocks",
            "self_attention",
            "cross_attention",
        )
    for projection in chosen:
        projection.requires_grad_(True)


def _transformer_blocks(unet: Any, index: int) -> Sequence[Any]:
    """Return the transformer blocks of the attention with this number."""
    block_index, attention_index = divmod(index, _ATTENTIONS_PER_BLOCK)
    # Blocks without attention do not have the attribute.
    attentions = [list(getattr(block, "attentions", [])) for block in unet.up_blocks]
    legal = [b * _ATTENTIONS_PER_BLOCK + a for b, found in enumerate(attentions) for a in range(len(found))]
    if index not in legal:
        raise OptionError(f"blocks has {index}, but this UNet's up-block attentions are {legal}", "blocks")
    return attentions[block_index][attention_index].transformer_blocks


def lora_layers(sites: Sequence[str]) -> list[str]:
    """Return the names in diffusers of the layers of some sites.

    Args:
        sites: "attn1.…" and "attn2.…" with letters of "qkvo" (self- and cross-attention), "ff.in" and "ff.out".

    Raises:
        OptionError: no sites, or one that there is not.
    """
    layers = dict(_FEED_FORWARD)
    layers |= {f"{block}.{letter}": f"{block}.{name}" for block in _ATTENTIONS for letter, name in _LETTERS.items()}
    found = []
    for site in sites:
        block, _, letters = site.partition(".")
        names = [f"{block}.{letter}" for letter in letters] if block in _ATTENTIONS else [site]
        if not names or not all(name in layers for name in names):
            legal = f"attn1.qkvo, attn2.qkvo (or some of the letters), {', '.join(_FEED_FORWARD)}"
            raise OptionError(f"LoRA targets cannot have {site!r}; legal: {legal}", "LoRA targets")
        found += [layers[name] for name in names]
    if not found:
        raise OptionError("LoRA targets is empty: there is nothing to adapt", "LoRA targets")
    return list(dict.fromkeys(found))


def add_lora(
    unet: nn.Module, rank: int, targets: Sequence[str] = ATTENTION_PROJECTIONS, *, alpha: float | None = None
) -> None:
    """Freeze a UNet and add LoRA adapters, which train and start as zero (Hu et al., "LoRA", ICLR 2022).

    The output of a layer becomes W x + b + (alpha / rank) B A x.

    Args:
        unet: a `diffusers` model with adapter support.
        rank: rank of the adapters.
        targets: ends of the names of the linear layers that get an adapter.
        alpha: alpha; `rank` by default, so that the scale is 1.

    Raises:
        OptionError: peft cannot be imported, or no layer has such a name.
    """
    try:
        from peft import LoraConfig  # takes longer to import than all of this library
    except Exception as error:  # a broken package raises anything
        raise OptionError(
            f"LoRA needs peft, which cannot be imported ({type(error).__name__}: {error}): "
            "pip install --upgrade peft, or take another way to train",
            "LoRA",
        ) from error

    names = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear)]
    if absent := [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]:
        raise OptionError(f"LoRA targets name {', '.join(absent)}, which this UNet does not have", "LoRA targets")
    unet.requires_grad_(False)
    adaptable: Any = unet
    scale: Any = rank if alpha is None else alpha  # peft declares an integer
    adaptable.add_adapter(LoraConfig(r=rank, lora_alpha=scale, target_modules=list(targets)))


def add_random_biases(unet: nn.Module, generator: torch.Generator) -> None:
    """Give the query, key and value projections of all attentions frozen random biases.

    The release of DCAC does so by mistake: its adapters create biases, which the weights of Stable Diffusion do not
    fill. They are uniform in +-1 / sqrt(inputs).

    Args:
        unet: a UNet with adapters at these projections; others are left as they are.
        generator: draws the biases.
    """
    for name, module in unet.named_modules():
        layer = getattr(module, "base_layer", None)  # of peft's layers
        if isinstance(layer, nn.Linear) and layer.bias is None and name.endswith(("to_q", "to_k", "to_v")):
            bound = layer.in_features**-0.5
            drawn = torch.empty(layer.out_features).uniform_(-bound, bound, generator=generator)
            layer.bias = nn.Parameter(drawn.to(layer.weight), requires_grad=False)


def freeze_cross_attention_weights(unet: nn.Module) -> None:
    """Freeze the query and key projections of all cross-attentions, their adapters included.

    For conditions of one token: the attention's weight is 1, so they get no gradient.

    Args:
        unet: a `diffusers` UNet, with adapters or without.
    """
    for name, parameter in unet.named_parameters():
        if ".attn2.to_q." in name or ".attn2.to_k." in name:
            parameter.requires_grad_(False)


def train_all(unet: nn.Module) -> None:
    """Train every parameter of a UNet.

    Args:
        unet: the UNet.
    """
    unet.requires_grad_(True)
