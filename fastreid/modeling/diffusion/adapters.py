"""Which parameters of the UNet train: chosen attentions, LoRA adapters, or everything."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
from torch import nn

from fastreid.config import CfgNode, ConfigError
from fastreid.utils.suggest import explain_choice

_ATTENTIONS_PER_BLOCK = 3


def choose_trainable(unet: diffusers.UNet2DConditionModel, keys: CfgNode) -> None:
    """Freeze the UNet except what `UNET_CONFIG.TRAIN` names.

    Raises:
        ConfigError: an unknown way, or attentions that this UNet does not have.
    """
    if keys.TRAIN not in _WAYS:
        raise ConfigError(explain_choice("MODEL.SDMODEL.UNET_CONFIG.TRAIN", keys.TRAIN, _WAYS))
    unet.requires_grad_(False)
    _WAYS[keys.TRAIN](unet, keys)


def _train_attentions(unet: diffusers.UNet2DConditionModel, keys: CfgNode) -> None:
    chosen = [
        projection
        for index in keys.TRAINABLE_BLOCK_IDX
        for block in _transformer_blocks(unet, index)
        for attention, kind in ((block.attn1, "SELF"), (block.attn2, "CROSS"))
        for name, projection in (
            ("Q", attention.to_q),
            ("K", attention.to_k),
            ("V", attention.to_v),
        )
        if keys[f"TRAIN_{kind}_ATTN_{name}"]
    ]
    if not chosen:
        raise ConfigError(
            'MODEL.SDMODEL.UNET_CONFIG.TRAIN "cross_attention_kv" leaves nothing to train: '
            "TRAINABLE_BLOCK_IDX is empty or every TRAIN_*_ATTN_* is False"
        )
    for projection in chosen:
        projection.requires_grad_(True)


def _transformer_blocks(unet: diffusers.UNet2DConditionModel, index: int) -> nn.ModuleList:
    """Transformer blocks of up-block attention `index`, three attentions to a block, attention or not."""
    block_index, attention_index = divmod(index, _ATTENTIONS_PER_BLOCK)
    attentions = [list(getattr(block, "attentions", [])) for block in unet.up_blocks]
    legal = [b * _ATTENTIONS_PER_BLOCK + a for b, found in enumerate(attentions) for a in range(len(found))]
    if index not in legal:
        raise ConfigError(
            f"MODEL.SDMODEL.UNET_CONFIG.TRAINABLE_BLOCK_IDX has {index}, "
            f"but this UNet's up-block attentions are {legal}"
        )
    return attentions[block_index][attention_index].transformer_blocks


def _train_lora(unet: diffusers.UNet2DConditionModel, keys: CfgNode) -> None:
    try:
        from peft import LoraConfig  # takes longer to import than all of this library
    except Exception as error:  # a broken package raises anything
        raise ConfigError(
            f"MODEL.SDMODEL.UNET_CONFIG.TRAIN lora needs peft, which cannot be imported ({type(error).__name__}: "
            f"{error}): pip install --upgrade peft, or take another way to train"
        ) from error

    unet.add_adapter(
        LoraConfig(
            r=keys.LORA_RANK,
            lora_alpha=keys.LORA_RANK,
            target_modules=["to_q", "to_k", "to_v", "to_out.0"],
        )
    )


def _train_all(unet: diffusers.UNet2DConditionModel, keys: CfgNode) -> None:
    unet.requires_grad_(True)


_WAYS: dict[str, Callable[[diffusers.UNet2DConditionModel, CfgNode], None]] = {
    "cross_attention_kv": _train_attentions,
    "lora": _train_lora,
    "all": _train_all,
}
