"""Building the parts of stage 2 from the config; their errors name config keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fastreid.config import CfgNode, ConfigError
from fastreid.methods.sd_reid.targets import TARGETS
from fastreid.modeling.diffusion import Denoiser, NoiseSource, OptionError, Sampler, Schedule
from fastreid.modeling.diffusion.adapters import add_lora, train_all, train_attentions
from fastreid.modeling.diffusion.guidance import get_guidance
from fastreid.utils.suggest import explain_choice

_UNET, _SCHEDULER = "MODEL.SDMODEL.UNET_CONFIG", "MODEL.SDMODEL.SCHEDULER_CONFIG"
# Arguments of the parts of a diffusion model -> the keys that they come from.
_KEYS = {
    "solver": f"{_SCHEDULER}.NAME",
    "num_timesteps": "MODEL.SDMODEL.TRAIN_STEP",
    "prediction_type": "MODEL.SDMODEL.PREDICTION_TYPE",
    "timestep_spacing": f"{_SCHEDULER}.TIMESTEP_SPACING",
    "num_steps": "TEST.SDMODEL.NUM_INFERENCE_STEPS",
    "guidance": "TEST.SDMODEL.INVERSE_TYPE",
    "micro_batch": "TEST.SDMODEL.MICRO_BATCH",
    "noise kind": "TEST.SDMODEL.NOISE",
    "LoRA": f"{_UNET}.TRAIN lora",
    "blocks": f"{_UNET}.TRAINABLE_BLOCK_IDX",
    "self_attention": f"{_UNET}.TRAIN_SELF_ATTN_*",
    "cross_attention": f"{_UNET}.TRAIN_CROSS_ATTN_*",
}


@contextmanager
def key_names() -> Iterator[None]:
    """Raise the `OptionError` of a part as a `ConfigError` that names keys instead of arguments."""
    try:
        yield
    except OptionError as error:
        raise ConfigError(error.with_keys(_KEYS)) from error


def make_denoiser(cfg: CfgNode) -> Denoiser:
    """Return the UNet of a config, with the parameters frozen that do not train.

    Raises:
        AssetError: no UNet, or one that does not fit.
        ConfigError: an impossible choice of what trains.
    """
    keys = cfg.MODEL.SDMODEL.UNET_CONFIG
    denoiser = Denoiser.from_pretrained(keys.PRETRAINED_PATH, key=f"{_UNET}.PRETRAINED_PATH")
    choose_trainable(denoiser.unet, keys)
    return denoiser


def choose_trainable(unet: nn.Module, keys: CfgNode) -> None:
    """Freeze a UNet except what `UNET_CONFIG.TRAIN` names.

    Args:
        unet: the UNet.
        keys: the group MODEL.SDMODEL.UNET_CONFIG.

    Raises:
        ConfigError: an unknown way to train, or attentions that this UNet does not have.
    """
    ways = {
        "cross_attention_kv": lambda: train_attentions(
            unet,
            keys.TRAINABLE_BLOCK_IDX,
            self_attention=_letters(keys, "SELF"),
            cross_attention=_letters(keys, "CROSS"),
        ),
        "lora": lambda: add_lora(unet, keys.LORA_RANK),
        "all": lambda: train_all(unet),
    }
    if keys.TRAIN not in ways:
        raise ConfigError(explain_choice(f"{_UNET}.TRAIN", keys.TRAIN, ways))
    with key_names():
        ways[keys.TRAIN]()


def _letters(keys: CfgNode, kind: str) -> str:
    return "".join(letter for letter in "qkv" if keys[f"TRAIN_{kind}_ATTN_{letter.upper()}"])


def make_schedule(cfg: CfgNode) -> Schedule:
    """Return the diffusion of a config, with the betas of the assets.

    Raises:
        AssetError: no `scheduler_config.json`, a damaged one, or one without a schedule of betas.
        ConfigError: a key has an impossible value, or contradicts the assets.
    """
    keys = cfg.MODEL.SDMODEL
    with key_names():
        return Schedule.from_pretrained(
            keys.SCHEDULER_CONFIG.PRETRAINED_PATH,
            solver=keys.SCHEDULER_CONFIG.NAME,
            num_timesteps=keys.TRAIN_STEP,
            prediction_type=keys.PREDICTION_TYPE,
            timestep_spacing=keys.SCHEDULER_CONFIG.TIMESTEP_SPACING,
            cubic=keys.SCHEDULER_CONFIG.CUBIC_SAMPLING,
            key=f"{_SCHEDULER}.PRETRAINED_PATH",
            key_of=_KEYS,
        )


def make_sampler(cfg: CfgNode, schedule: Schedule) -> Sampler:
    """Return the sampler of a config.

    Args:
        cfg: the config.
        schedule: the diffusion.

    Raises:
        ConfigError: a key has an impossible value.
    """
    keys = cfg.TEST.SDMODEL
    _check_word("TEST.SDMODEL.CONTROL_STEPS", keys.CONTROL_STEPS, ("every", "fading"))
    with key_names():
        return Sampler(
            schedule,
            num_steps=keys.NUM_INFERENCE_STEPS,
            guidance=get_guidance(keys.INVERSE_TYPE),
            full_scale=keys.FULL_GUIDANCE_SCALE,
            down_scale=keys.DOWN_BLOCK_GUIDANCE_SCALE,
            control_fades=keys.CONTROL_STEPS == "fading",
            micro_batch=keys.MICRO_BATCH,
        )


def make_noise(cfg: CfgNode, shape: tuple[int, ...]) -> NoiseSource:
    """Return the source of sampling noise of a config.

    Args:
        cfg: the config.
        shape: shape of one sample.

    Raises:
        ConfigError: unknown kind of noise.
    """
    keys = cfg.TEST.SDMODEL
    with key_names():
        return NoiseSource(keys.NOISE, cfg.MODEL.SEED if keys.NOISE_SEED < 0 else keys.NOISE_SEED, shape)


def check_choices(cfg: CfgNode) -> None:
    """Check the keys of stage 2 that need neither backbone nor UNet.

    Raises:
        ConfigError: a key has an impossible value, or two keys contradict each other.
    """
    keys, test = cfg.MODEL.SDMODEL, cfg.TEST.SDMODEL
    _check_word("MODEL.SDMODEL.TARGET", keys.TARGET, TARGETS)
    _check_word("MODEL.SDMODEL.NULL_CONDITION", keys.NULL_CONDITION, ("learnt", "zeros"))
    _check_word("MODEL.SDMODEL.VIEW_CONTROL", keys.VIEW_CONTROL, ("down_and_up", "down"))
    _check_word("MODEL.SDMODEL.MID_RESIDUAL", keys.MID_RESIDUAL, ("zero", "learnt"))
    if keys.MID_RESIDUAL == "learnt" and keys.VIEW_CONTROL == "down":
        raise ConfigError(
            'MODEL.SDMODEL.MID_RESIDUAL "learnt" is part of the control that VIEW_CONTROL "down" turns off'
        )
    for name in ("U_COND_PERCENT", "VIEW_CENTRE_PERCENT"):
        if not 0 <= keys[name] <= 1:
            raise ConfigError(f"MODEL.SDMODEL.{name} is a chance from 0 to 1, got {keys[name]}")
    if keys.STANDARDIZE_LATENT and not cfg.MODEL.HEADS.WITH_BNNECK:
        raise ConfigError("MODEL.SDMODEL.STANDARDIZE_LATENT uses the BN neck's statistics: set MODEL.HEADS.WITH_BNNECK")
    if not 0 <= test.NUM_VIEWS <= keys.VIEW_NUM:
        raise ConfigError(f"TEST.SDMODEL.NUM_VIEWS must be 0 (all) … VIEW_NUM={keys.VIEW_NUM}, got {test.NUM_VIEWS}")
    if test.NUM_DRAWS < 1:
        raise ConfigError(f"TEST.SDMODEL.NUM_DRAWS must be 1 or more, got {test.NUM_DRAWS}")


def _check_word(name: str, word: str, legal: Any) -> None:
    if word not in legal:
        raise ConfigError(explain_choice(name, word, legal))


def check_sizes(cfg: CfgNode, num_tokens: int, dim: int, denoiser: Denoiser) -> None:
    """Check that backbone, UNet and the sizes in MODEL.SDMODEL.CON_LEARNER_CONFIG fit each other.

    Args:
        cfg: the config.
        num_tokens: identity conditions, and the view.
        dim: width of the tokens.
        denoiser: the UNet.

    Raises:
        ConfigError: they do not fit.
    """
    if denoiser.context_dim != dim:
        raise ConfigError(
            f"the UNet takes tokens of {denoiser.context_dim} numbers, the backbone's have {dim}: choose a "
            "MODEL.BACKBONE.DEPTH and a MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH that fit"
        )
    learner = cfg.MODEL.SDMODEL.CON_LEARNER_CONFIG
    derived: dict[str, Any] = {
        "N_CTX": num_tokens,
        "CTX_DIM": dim,
        "OUT_CHANNELS": denoiser.control_channels * 2,
    }
    for name, size in derived.items():
        given = list(learner[name]) if isinstance(size, list) else learner[name]
        if given and given != size:
            raise ConfigError(f"MODEL.SDMODEL.CON_LEARNER_CONFIG.{name} is {given}, backbone and UNet give {size}")
