"""Which parameters of a Stable Diffusion UNet train: chosen attentions, LoRA adapters, or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fastreid.modeling.diffusion.option_error import OptionError

_ATTENTIONS_PER_BLOCK = 3
ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""Names of the projections of an attention in diffusers."""


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


def add_lora(unet: nn.Module, rank: int, targets: Sequence[str] = ATTENTION_PROJECTIONS) -> None:
    """Freeze a UNet and add LoRA adapters, which train and start as zero (Hu et al., "LoRA", ICLR 2022).

    Args:
        unet: a `diffusers` model with adapter support.
        rank: rank of the adapters; their scale is 1.
        targets: ends of the names of the linear layers that get an adapter.

    Raises:
        OptionError: peft cannot be imported.
    """
    try:
        from peft import LoraConfig  # takes longer to import than all of this library
    except Exception as error:  # a broken package raises anything
        raise OptionError(
            f"LoRA needs peft, which cannot be imported ({type(error).__name__}: {error}): "
            "pip install --upgrade peft, or take another way to train",
            "LoRA",
        ) from error

    unet.requires_grad_(False)
    adaptable: Any = unet
    adaptable.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)))


def train_all(unet: nn.Module) -> None:
    """Train every parameter of a UNet.

    Args:
        unet: the UNet.
    """
    unet.requires_grad_(True)
