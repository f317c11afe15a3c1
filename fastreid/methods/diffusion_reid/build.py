"""Building the parts of the generator from the config; their errors name config keys."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastreid.config import CfgNode, ConfigError, image_size
from fastreid.data.build import datasets_root
from fastreid.methods.diffusion_reid.captions import read_captions
from fastreid.methods.diffusion_reid.features import PersonExtractor
from fastreid.methods.diffusion_reid.grammar import Grammar
from fastreid.methods.diffusion_reid.options import ALL_PEOPLE, GeneratorOptions
from fastreid.methods.diffusion_reid.prompts import check_template
from fastreid.methods.diffusion_reid.reference import ReferenceSet, read_reference
from fastreid.methods.diffusion_reid.words import IdentityWords, WordEncoder, WordTable
from fastreid.modeling.array_cache import ArrayCache
from fastreid.modeling.diffusion import Autoencoder, OptionError, Schedule, UNetDenoiser, option_keys
from fastreid.modeling.diffusion.adapters import add_lora, lora_layers, train_all
from fastreid.modeling.diffusion.scheduler_assets import read_scheduler
from fastreid.modeling.diffusion.text import TextEncoder

_WEIGHTS, _CACHE = "DIFFPERSON.SD.WEIGHTS", "DIFFPERSON.SD.LATENT_CACHE"
# Arguments of the parts of a diffusion model -> the keys that they come from.
_KEYS = {
    "image_size": "INPUT.SIZE_TRAIN",
    "num_vectors": "DIFFPERSON.IIR.WORDS",
    "LoRA": "DIFFPERSON.TUNE.MODE lora",
    "LoRA targets": "DIFFPERSON.TUNE.TARGETS",
}
_START_WORD = "person"


def generator_parts(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of `DiffusionReID` for a config.

    Raises:
        ConfigError: a key has an impossible value, or keys do not fit each other or the assets.
        AssetError: a part of Stable Diffusion is missing, damaged or does not fit.
    """
    keys = cfg.DIFFPERSON
    check_template(keys.LPE.TEMPLATE, has_words=keys.IIR.MODE != "off")
    parts = frozen_parts(cfg)
    text: TextEncoder = parts["text"]
    extractor = None
    if keys.IIR.MODE == "encoder":
        extractor = PersonExtractor.of(keys.IIR.INPUT, reid=keys.IIR.REID, clip=keys.IIR.CLIP)
    words = _words(cfg, text, extractor)
    with option_keys(_KEYS):
        _choose_trainable(parts["denoiser"].unet, cfg)
    if keys.TUNE.MODE == "words" and words is None:
        raise ConfigError("DIFFPERSON.TUNE.MODE words with DIFFPERSON.IIR.MODE off leaves nothing to train")
    return {
        **parts,
        "words": words,
        "reference": _reference(cfg) if keys.DI.ENABLED and keys.DI.PRIOR_WEIGHT else None,
        "captions": _captions(cfg),
        "options": _options(cfg, extractor),
        "cache": _cache(cfg),
        "extractor": extractor,
    }


def frozen_parts(cfg: CfgNode) -> dict[str, Any]:
    """Return text encoder, autoencoder, denoiser and schedule of DIFFPERSON.SD.WEIGHTS, as they are in its files.

    Raises:
        ConfigError: no folder, or pictures of a size that it cannot work with.
        AssetError: a part is missing, damaged or does not fit the others.
    """
    folder = cfg.DIFFPERSON.SD.WEIGHTS
    if not folder:
        raise ConfigError(
            f'{_WEIGHTS} is "": name a folder of Stable Diffusion with unet/, vae/, scheduler/, tokenizer/ and '
            "text_encoder/ (`python tools/make_assets.py --text` writes random ones)"
        )
    with option_keys(_KEYS):
        text = TextEncoder.from_pretrained(folder, num_vectors=cfg.DIFFPERSON.IIR.WORDS, key=_WEIGHTS)
        autoencoder = Autoencoder.from_pretrained(folder, key=_WEIGHTS)
        denoiser = UNetDenoiser.from_pretrained(folder, key=_WEIGHTS)
        schedule = Schedule.from_pretrained(folder, solver="ddim", num_timesteps=timesteps_in(folder), key=_WEIGHTS)
        if text.dim != denoiser.context_dim:
            raise ConfigError(
                f"the text encoder in {_WEIGHTS} makes tokens of {text.dim} numbers, its UNet takes "
                f"{denoiser.context_dim}: they are not of the same model"
            )
        check_size(denoiser, autoencoder, *image_size(cfg))
    return {"text": text, "autoencoder": autoencoder, "denoiser": denoiser, "schedule": schedule}


def timesteps_in(folder: str) -> int:
    """Return the length of the diffusion of a folder of Stable Diffusion.

    Raises:
        AssetError: it has no scheduler, or a damaged one.
    """
    return int(read_scheduler(folder, key=_WEIGHTS).get("num_train_timesteps", 1000))


def check_size(denoiser: UNetDenoiser, autoencoder: Autoencoder, height: int, width: int) -> None:
    """Check that the UNet can work on the latents of pictures of a size.

    Args:
        denoiser: the UNet.
        autoencoder: makes the latents.
        height: in pixels.
        width: in pixels.

    Raises:
        OptionError: a side cannot be halved as often as the autoencoder and the UNet do together.
    """
    autoencoder.latent_shape(height, width)
    step = autoencoder.reduction * 2 ** (len(denoiser.unet.config.block_out_channels) - 1)
    if height % step or width % step:
        nearest = [max(step, round(side / step) * step) for side in (height, width)]
        raise OptionError(
            f"image_size {height}x{width}: the autoencoder and the UNet halve pictures until each side must be a "
            f"multiple of {step}; {nearest[0]}x{nearest[1]} is",
            "image_size",
        )


def _words(cfg: CfgNode, text: TextEncoder, extractor: PersonExtractor | None) -> IdentityWords | None:
    keys = cfg.DIFFPERSON
    num_people = 1 if keys.PERSON != ALL_PEOPLE else cfg.MODEL.HEADS.NUM_CLASSES
    if keys.IIR.MODE == "off":
        return None
    if extractor is None:
        return WordTable(num_people, keys.IIR.WORDS, text.vector_of(_START_WORD))
    return WordEncoder(
        num_people,
        keys.IIR.WORDS,
        dim=text.dim,
        feature_dim=sum(extractor.dims.values()),
        hidden=keys.IIR.HIDDEN,
        length=text.mean_norm,
    )


def _choose_trainable(unet: nn.Module, cfg: CfgNode) -> None:
    tune = cfg.DIFFPERSON.TUNE
    if tune.MODE == "full":
        train_all(unet)
    elif tune.MODE == "lora":
        add_lora(unet, tune.RANK, lora_layers(tune.TARGETS), alpha=tune.ALPHA or None)
    else:
        unet.requires_grad_(False)
    if cfg.DIFFPERSON.SD.CHECKPOINTING:
        unet.enable_gradient_checkpointing()  # type: ignore[operator]


def _reference(cfg: CfgNode) -> ReferenceSet:
    keys = cfg.DIFFPERSON
    prompt = "" if keys.DI.FINE_GRAINED else Grammar.read(keys.GRAMMAR).prefix
    return ReferenceSet(read_reference(keys.DI.FOLDER), image_size(cfg), prompt)


def _captions(cfg: CfgNode) -> dict[str, str] | None:
    keys = cfg.DIFFPERSON.LPE
    if keys.CAPTIONER == "none":
        return None
    if not keys.CAPTION_FILE:
        raise ConfigError(
            f'training reads captions from DIFFPERSON.LPE.CAPTION_FILE, which is "": `tools/diffperson.py caption` '
            f"writes them by DIFFPERSON.LPE.CAPTIONER {keys.CAPTIONER}; CAPTIONER none trains without captions"
        )
    return read_captions(keys.CAPTION_FILE, datasets_root(cfg))


def _options(cfg: CfgNode, extractor: PersonExtractor | None) -> GeneratorOptions:
    keys = cfg.DIFFPERSON
    reid_dim = 0 if extractor is None else extractor.dims.get("reid", 0)
    if keys.IIR.ID_CONSIST and not reid_dim:
        raise ConfigError(
            "DIFFPERSON.IIR.ID_CONSIST compares with re-identification features: it needs DIFFPERSON.IIR.MODE encoder "
            "and an INPUT with reid"
        )
    pivot = round(keys.TUNE.PIVOT * cfg.SOLVER.MAX_EPOCH)
    if keys.TUNE.PIVOT and not 0 < pivot < cfg.SOLVER.MAX_EPOCH:
        raise ConfigError(
            f"DIFFPERSON.TUNE.PIVOT {keys.TUNE.PIVOT} of SOLVER.MAX_EPOCH {cfg.SOLVER.MAX_EPOCH} is {pivot} epochs: "
            "both parts of pivotal tuning need at least one"
        )
    if keys.TUNE.PIVOT and (keys.IIR.MODE == "off" or keys.TUNE.MODE == "words"):
        raise ConfigError("DIFFPERSON.TUNE.PIVOT trains the identity words first and the UNet then: it needs both")
    return GeneratorOptions(
        template=keys.LPE.TEMPLATE,
        prior_weight=keys.DI.PRIOR_WEIGHT,
        length_weight=keys.IIR.REG,
        consistency_weight=keys.IIR.ID_CONSIST,
        reid_dim=reid_dim,
        empty_share=keys.TRAIN.COND_DROP,
        snr_gamma=keys.TRAIN.SNR_GAMMA,
        pivot_epochs=pivot,
        person=keys.PERSON,
    )


def _cache(cfg: CfgNode) -> ArrayCache | None:
    folder = cfg.DIFFPERSON.SD.LATENT_CACHE
    if not folder:
        return None
    if cfg.INPUT.FLIP.ENABLED:
        raise ConfigError(f"{_CACHE} stores one latent per image: set INPUT.FLIP.ENABLED False, or empty the key")
    return ArrayCache(folder, stem="latents", key=_CACHE, facts=list(image_size(cfg)))
