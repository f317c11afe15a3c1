"""Building the parts of DCAC from the config; their errors name config keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastreid.config import CfgNode, ConfigError
from fastreid.data.transforms import PersonTransform, ResizeCropFlip, ResizeRandomCrop
from fastreid.methods.dcac.condition import IdentityCondition
from fastreid.methods.dcac.feedback import DiffusionFeedback
from fastreid.modeling.array_cache import ArrayCache
from fastreid.modeling.backbones import build_backbone, with_feature_dim
from fastreid.modeling.diffusion import Autoencoder, OptionError, Schedule, UNetDenoiser, option_keys
from fastreid.modeling.diffusion.adapters import (
    add_lora,
    add_random_biases,
    freeze_cross_attention_weights,
    lora_layers,
    train_all,
)
from fastreid.modeling.diffusion.single_token import use_single_token_attention
from fastreid.modeling.heads import EmbeddingHead, build_heads
from fastreid.modeling.losses import LossTerms, loss_options, require_losses
from fastreid.modeling.prototypes import PrototypeMemory

_WEIGHTS, _CACHE = "DCAC.SD.WEIGHTS", "DCAC.SD.LATENT_CACHE"
# Arguments of the parts of a diffusion model -> the keys that they come from.
_KEYS = {
    "num_timesteps": "DCAC.SD.TIMESTEPS",
    "image_size": "DCAC.SD.IMAGE_SIZE",
    "LoRA": "DCAC.SD.FINETUNE lora",
    "LoRA targets": "DCAC.LORA.TARGETS",
}


def dcac_parts(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of `DCAC` for a config.

    Raises:
        ConfigError: a key has an impossible value, or keys do not fit each other or the assets.
        AssetError: a part of Stable Diffusion is missing, damaged or does not fit.
    """
    backbone = build_backbone(cfg)
    cfg = with_feature_dim(cfg, backbone)
    heads = build_heads(cfg)
    if not isinstance(heads, EmbeddingHead):
        raise ConfigError(f"DCAC needs the neck and the classifier of an EmbeddingHead, got {cfg.MODEL.HEADS.NAME}")
    nn.init.normal_(heads.weight, std=cfg.DCAC.CLASSIFIER_STD)
    # After the rest, so that backbone and heads start from the same random weights as without a diffusion model.
    dim, losses = heads.weight.shape[1], cfg.MODEL.LOSSES
    has_feedback = losses.DIFF.SCALE > 0
    needs_memory = losses.PCL.SCALE > 0 or (has_feedback and "pcl" in cfg.DCAC.COND.SOURCE)
    return {
        "backbone": backbone,
        "heads": heads,
        "loss_terms": _identity_losses(cfg),
        "memory": _memory(cfg, dim) if needs_memory else None,
        "prototype_weight": losses.PCL.SCALE,
        "reinit_period": losses.PCL.REINIT_PERIOD,
        "feedback": _feedback(cfg, dim) if has_feedback else None,
        "feedback_weight": losses.DIFF.SCALE,
        "neck_passes": cfg.DCAC.NECK_PASSES,
        "tests_neck": cfg.TEST.NECK_FEAT == "after",
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _identity_losses(cfg: CfgNode) -> LossTerms:
    """The losses of MODEL.LOSSES.NAME. Label smoothing is spread over all C classes, the true one included."""
    options = loss_options(cfg)
    require_losses(options)
    classes, smoothing = max(cfg.MODEL.HEADS.NUM_CLASSES, 1), options["ce"]["eps"]
    if smoothing > 0:
        options["ce"]["eps"] = smoothing * (classes - 1) / classes
    return LossTerms(options)


def _memory(cfg: CfgNode, dim: int) -> PrototypeMemory:
    keys = cfg.MODEL.LOSSES.PCL
    return PrototypeMemory(
        cfg.MODEL.HEADS.NUM_CLASSES, dim, temperature=keys.TEMPERATURE, momentum=keys.MOMENTUM, update=keys.UPDATE
    )


def _feedback(cfg: CfgNode, dim: int) -> DiffusionFeedback:
    keys, size = cfg.DCAC.SD, cfg.DCAC.SD.IMAGE_SIZE
    if not keys.WEIGHTS:
        raise ConfigError(
            f'{_WEIGHTS} is "": name a folder of Stable Diffusion with unet/, vae/ and scheduler/ (`python '
            "tools/make_assets.py` writes random ones), or set MODEL.LOSSES.DIFF.SCALE 0 to train without it"
        )
    if keys.LATENT_CACHE and keys.RANDOM_CROP:
        raise ConfigError(f"{_CACHE} stores one latent per image: turn DCAC.SD.RANDOM_CROP off, or empty the key")
    with option_keys(_KEYS):
        schedule = Schedule.from_pretrained(
            keys.WEIGHTS, solver="ddpm", num_timesteps=keys.TIMESTEPS, key=_WEIGHTS, key_of=_KEYS
        )
        denoiser = UNetDenoiser.from_pretrained(keys.WEIGHTS, key=_WEIGHTS)
        autoencoder = Autoencoder.from_pretrained(keys.WEIGHTS, key=_WEIGHTS)
        _check_sizes(denoiser, autoencoder, size)
        condition = _condition(cfg, dim, denoiser.context_dim)  # before the adapters, so that all ways share prompts
        _choose_trainable(denoiser.unet, cfg)
    return DiffusionFeedback(
        condition=condition,
        autoencoder=autoencoder,
        denoiser=denoiser,
        schedule=schedule,
        samples_posterior=keys.SAMPLE_POSTERIOR,
        transform=diffusion_transform(cfg),
        cache=ArrayCache(keys.LATENT_CACHE, stem="latents", key=_CACHE, facts=[size]) if keys.LATENT_CACHE else None,
    )


def _condition(cfg: CfgNode, feature_dim: int, dim: int) -> IdentityCondition:
    keys = cfg.DCAC.COND
    return IdentityCondition(
        source=keys.SOURCE,
        num_classes=cfg.MODEL.HEADS.NUM_CLASSES,
        feature_dim=feature_dim,
        dim=dim,
        tau=keys.TAU,
        init_std=keys.INIT_STD,
        bottleneck=keys.BOTTLENECK,
        hard_label=keys.HARD_LABEL,
        detached=keys.DETACH,
    )


def diffusion_transform(cfg: CfgNode) -> PersonTransform:
    """Return the transform of the image that is diffused: a square, without augmentation.

    Args:
        cfg: the config.
    """
    size = cfg.DCAC.SD.IMAGE_SIZE
    square = (size, size)
    is_cropped = cfg.DCAC.SD.RANDOM_CROP
    return PersonTransform(ResizeRandomCrop((2 * size, size), square) if is_cropped else ResizeCropFlip(square))


def _check_sizes(denoiser: UNetDenoiser, autoencoder: Autoencoder, size: int) -> None:
    channels, height, width = autoencoder.latent_shape(size, size)
    config = denoiser.unet.config
    if channels != config.in_channels:
        raise ConfigError(
            f"the autoencoder in {_WEIGHTS} makes latents of {channels} channels, its UNet takes {config.in_channels}"
        )
    step = 2 ** (len(config.block_out_channels) - 1)
    if height % step or width % step:
        raise OptionError(
            f"image_size {size} gives latents of {height}x{width}, which the UNet cannot halve "
            f"{len(config.block_out_channels) - 1} times: take a multiple of {step * autoencoder.reduction}",
            "image_size",
        )


def _choose_trainable(unet: nn.Module, cfg: CfgNode) -> None:
    keys, lora = cfg.DCAC.SD, cfg.DCAC.LORA
    if keys.SINGLE_TOKEN:
        use_single_token_attention(unet)
    if keys.FINETUNE == "all":
        train_all(unet)
    elif keys.FINETUNE == "freeze":
        unet.requires_grad_(False)
    else:
        add_lora(unet, lora.RANK, lora_layers(lora.TARGETS), alpha=lora.ALPHA)
        if lora.RANDOM_BIAS:
            add_random_biases(unet, torch.Generator().manual_seed(cfg.MODEL.SEED))
    if keys.SINGLE_TOKEN:
        freeze_cross_attention_weights(unet)  # nothing depends on them
    if keys.CHECKPOINTING:
        unet.enable_gradient_checkpointing()  # type: ignore[operator]
