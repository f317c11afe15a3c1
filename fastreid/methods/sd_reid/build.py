"""Building the parts of stage 2 from the config; their errors name config keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fastreid.config import CfgNode, ConfigError
from fastreid.methods.sd_reid.conditioning import ConditionLearner, PlainConditions
from fastreid.methods.sd_reid.encoder import PersonEncoder
from fastreid.methods.sd_reid.feature_cache import FeatureCache
from fastreid.methods.sd_reid.fusion import Fusion
from fastreid.methods.sd_reid.generated_losses import GeneratedLosses
from fastreid.methods.sd_reid.linear_mean import LinearMean
from fastreid.methods.sd_reid.person_losses import PersonLosses
from fastreid.methods.sd_reid.start_noise import StartNoise
from fastreid.methods.sd_reid.targets import OF_ALL, TARGETS
from fastreid.methods.sd_reid.view_refined_decoder import ViewEmbedding, ViewRefinedDecoder
from fastreid.methods.sd_reid.whitening import ConditionWhitening, LatentWhitening
from fastreid.modeling.diffusion import (
    Denoiser,
    Latent,
    LatentShape,
    MLPDenoiser,
    NoiseSource,
    Sampler,
    Schedule,
    TransformerDenoiser,
    UNetDenoiser,
    VectorDenoiser,
    option_keys,
)
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
    "num_heads": "MODEL.SDMODEL.TRANSFORMER_CONFIG.HEADS",
    "noise kind": "TEST.SDMODEL.NOISE",
    "LoRA": f"{_UNET}.TRAIN lora",
    "blocks": f"{_UNET}.TRAINABLE_BLOCK_IDX",
    "self_attention": f"{_UNET}.TRAIN_SELF_ATTN_*",
    "cross_attention": f"{_UNET}.TRAIN_CROSS_ATTN_*",
}


def stage2_parts(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of `SDReIDStage2` for a config.

    Raises:
        ConfigError: a key has an impossible value, or keys do not fit each other or the assets.
        AssetError: the UNet or the schedule is missing, damaged or does not fit.
    """
    keys, test = cfg.MODEL.SDMODEL, cfg.TEST.SDMODEL
    check_choices(cfg)
    person = PersonEncoder(cfg)
    dim, num_conditions = person.feature_dim, person.num_blocks - 1 + keys.OWN_VIEW_CONDITION
    num_tokens = num_conditions + (keys.DENOISER != "mlp")  # the learner adds the requested view
    denoiser = make_denoiser(cfg, num_tokens, dim)
    with option_keys(_KEYS):
        latent = denoiser.latent_of(dim)
    check_sizes(cfg, num_conditions + 1, dim, denoiser)
    schedule = make_schedule(cfg)
    return {
        "person": person,
        "latent": latent,
        "standardized": keys.STANDARDIZE_LATENT,
        "latent_whitening": LatentWhitening(dim) if keys.WHITEN_LATENT else None,
        "own_view_condition": keys.OWN_VIEW_CONDITION,
        "whitening": ConditionWhitening(num_conditions, dim) if keys.WHITEN_CONDITIONS else None,
        "linear_mean": LinearMean(num_conditions, dim, keys.VIEW_NUM) if keys.LINEAR_MEAN else None,
        "condition_learner": make_learner(cfg, num_tokens, dim),
        "view_decoder": make_view_decoder(cfg, latent, denoiser),
        "denoiser": denoiser,
        "schedule": schedule,
        "sampler": make_sampler(cfg, schedule),
        "noise": make_noise(cfg, latent.shape),
        "fusion": Fusion.from_config(cfg),
        "target": keys.TARGET,
        "null_percent": keys.U_COND_PERCENT,
        "null_drops_down": keys.U_COND_DOWN_BLOCK_GUIDANCE,
        "null_drops_up": keys.U_COND_UP_BLOCK_GUIDANCE,
        "null_is_learnt": keys.NULL_CONDITION == "learnt",
        "centre_percent": keys.VIEW_CENTRE_PERCENT,
        "decoder_control": keys.VIEW_CONTROL == "down_and_up",
        "condition_noise": keys.CONDITION_NOISE,
        "num_views": test.NUM_VIEWS or keys.VIEW_NUM,
        "num_draws": test.NUM_DRAWS,
        "generated_neck": test.GENERATED_NECK,
        "compares_latents": test.GENERATED_SPACE == "latent",
        "cache": _make_cache(cfg) if keys.FEATURE_CACHE else None,
        "loss_terms": PersonLosses.from_config(cfg, person) if keys.JOINT_TRAINING else None,
        "start_noise": StartNoise(dim, keys.LEARNT_NOISE_KL) if keys.LEARNT_NOISE else None,
        "generated_losses": make_generated_losses(cfg, dim, schedule),
    }


def _make_cache(cfg: CfgNode) -> FeatureCache:
    return FeatureCache(cfg.MODEL.SDMODEL.FEATURE_CACHE, [*cfg.INPUT.SIZE_TEST, cfg.INPUT.INTERPOLATION_TEST])


def make_denoiser(cfg: CfgNode, num_tokens: int, dim: int) -> Denoiser:
    """Return the denoiser that MODEL.SDMODEL.DENOISER names.

    Args:
        cfg: the config.
        num_tokens: tokens of a condition.
        dim: width of the tokens and of identity vectors.

    Raises:
        AssetError: no UNet, or one that does not fit.
        ConfigError: an unknown name, an impossible choice of what trains, or a number that does not fit.
    """
    keys = cfg.MODEL.SDMODEL
    sizes = {"dim": dim, "num_tokens": num_tokens, "num_views": keys.VIEW_NUM}
    mlp, transformer = keys.MLP_CONFIG, keys.TRANSFORMER_CONFIG
    makers: dict[str, Callable[[], Denoiser]] = {
        "unet": lambda: _make_unet(keys.UNET_CONFIG),
        "mlp": lambda: MLPDenoiser(**sizes, width=mlp.WIDTH, depth=mlp.DEPTH, dropout=mlp.DROPOUT),
        "transformer": lambda: TransformerDenoiser(
            **sizes, depth=transformer.DEPTH, num_heads=transformer.HEADS, dropout=transformer.DROPOUT
        ),
    }
    _check_word("MODEL.SDMODEL.DENOISER", keys.DENOISER, makers)
    with option_keys(_KEYS):
        return makers[keys.DENOISER]()


def _make_unet(keys: CfgNode) -> UNetDenoiser:
    """The UNet, with the parameters frozen that do not train."""
    denoiser = UNetDenoiser.from_pretrained(keys.PRETRAINED_PATH, key=f"{_UNET}.PRETRAINED_PATH")
    choose_trainable(denoiser.unet, keys)
    return denoiser


def make_learner(cfg: CfgNode, num_tokens: int, dim: int) -> ConditionLearner | PlainConditions:
    """Return what makes the tokens of the denoiser.

    Args:
        cfg: the config.
        num_tokens: tokens of a condition.
        dim: width of the tokens.

    Raises:
        ConfigError: the attention heads do not divide `dim`.
    """
    keys = cfg.MODEL.SDMODEL.CON_LEARNER_CONFIG
    if cfg.MODEL.SDMODEL.DENOISER == "mlp":
        return PlainConditions(num_tokens=num_tokens, dim=dim)
    return ConditionLearner(num_tokens=num_tokens, dim=dim, depth=keys.DEPTH, num_heads=keys.HEADS)


def make_view_decoder(cfg: CfgNode, latent: Latent, denoiser: Denoiser) -> ViewRefinedDecoder | ViewEmbedding:
    """Return what makes the control of the denoiser.

    Args:
        cfg: the config.
        latent: shape of the latents.
        denoiser: the denoiser.

    Raises:
        ConfigError: the middle block's residual is to be learnt, and the denoiser has no middle block.
    """
    is_learnt = cfg.MODEL.SDMODEL.MID_RESIDUAL == "learnt"
    if isinstance(denoiser, VectorDenoiser):
        if is_learnt:
            raise ConfigError(
                'MODEL.SDMODEL.MID_RESIDUAL "learnt" is of the UNet\'s middle block, and MODEL.SDMODEL.DENOISER '
                f'{cfg.MODEL.SDMODEL.DENOISER} has none: set it to "zero"'
            )
        return ViewEmbedding(latent.feature_dim, denoiser.control_dim)
    assert isinstance(denoiser, UNetDenoiser) and isinstance(latent, LatentShape)
    return ViewRefinedDecoder(latent, denoiser.control_channels, denoiser.mid_channels if is_learnt else None)


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
    with option_keys(_KEYS):
        ways[keys.TRAIN]()


def _letters(keys: CfgNode, kind: str) -> str:
    return "".join(letter for letter in "qkv" if keys[f"TRAIN_{kind}_ATTN_{letter.upper()}"])


def make_schedule(cfg: CfgNode) -> Schedule:
    """Return the diffusion of a config, with the betas of the assets, or a cosine schedule where none are needed.

    Raises:
        AssetError: no `scheduler_config.json`, a damaged one, or one without a schedule of betas.
        ConfigError: a key has an impossible value, or contradicts the assets.
    """
    keys = cfg.MODEL.SDMODEL
    folder = keys.SCHEDULER_CONFIG.PRETRAINED_PATH
    if not folder and keys.DENOISER == "unet":
        raise ConfigError(f'{_SCHEDULER}.PRETRAINED_PATH is "": a UNet needs the schedule that it was trained with')
    with option_keys(_KEYS):
        return Schedule.from_pretrained(
            folder,
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
    with option_keys(_KEYS):
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
    with option_keys(_KEYS):
        return NoiseSource(keys.NOISE, cfg.MODEL.SEED if keys.NOISE_SEED < 0 else keys.NOISE_SEED, shape)


def make_generated_losses(cfg: CfgNode, dim: int, schedule: Schedule) -> GeneratedLosses | None:
    """Return the losses on generated vectors, or None if their weights are 0.

    Args:
        cfg: the config.
        dim: width of identity vectors.
        schedule: the diffusion.

    Raises:
        ConfigError: the network predicts noise, or trains the null condition.
    """
    keys = cfg.MODEL.SDMODEL
    if not (keys.GENERATED_CE or keys.GENERATED_TRIPLET):
        return None
    losses = "MODEL.SDMODEL.GENERATED_CE and GENERATED_TRIPLET"
    if schedule.prediction_type == "epsilon":
        raise ConfigError(
            f"{losses} need the clean vector, which a prediction of noise gives too inexactly: set "
            "MODEL.SDMODEL.PREDICTION_TYPE sample or v_prediction"
        )
    if keys.U_COND_PERCENT:
        raise ConfigError(f"{losses} need the person of every generated vector: set MODEL.SDMODEL.U_COND_PERCENT 0.0")
    weights = {"ce_weight": keys.GENERATED_CE, "triplet_weight": keys.GENERATED_TRIPLET}
    return GeneratedLosses(dim, cfg.MODEL.HEADS.NUM_CLASSES, **weights)


def check_choices(cfg: CfgNode) -> None:
    """Check the keys of stage 2 that need neither backbone nor UNet.

    Raises:
        ConfigError: a key has an impossible value, or two keys contradict each other.
    """
    keys, test = cfg.MODEL.SDMODEL, cfg.TEST.SDMODEL
    _check_word("MODEL.SDMODEL.TARGET", keys.TARGET, (*TARGETS, OF_ALL))
    _check_word("TEST.SDMODEL.GENERATED_SPACE", test.GENERATED_SPACE, ("feature", "latent"))
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
    if keys.JOINT_TRAINING and keys.FEATURE_CACHE:
        raise ConfigError(
            "MODEL.SDMODEL.FEATURE_CACHE stores the features of a frozen encoder, and MODEL.SDMODEL.JOINT_TRAINING "
            'trains it: set MODEL.SDMODEL.FEATURE_CACHE ""'
        )
    if test.VIEW_WEIGHTS and len(test.VIEW_WEIGHTS) != (test.NUM_VIEWS or keys.VIEW_NUM):
        raise ConfigError(
            f"TEST.SDMODEL.VIEW_WEIGHTS is {list(test.VIEW_WEIGHTS)}, and {test.NUM_VIEWS or keys.VIEW_NUM} views are "
            "generated: give one weight for each"
        )
    if not 0 <= test.NUM_VIEWS <= keys.VIEW_NUM:
        raise ConfigError(f"TEST.SDMODEL.NUM_VIEWS must be 0 (all) … VIEW_NUM={keys.VIEW_NUM}, got {test.NUM_VIEWS}")
    if test.NUM_DRAWS < 1:
        raise ConfigError(f"TEST.SDMODEL.NUM_DRAWS must be 1 or more, got {test.NUM_DRAWS}")


def _check_word(name: str, word: str, legal: Any) -> None:
    if word not in legal:
        raise ConfigError(explain_choice(name, word, legal))


def check_sizes(cfg: CfgNode, num_tokens: int, dim: int, denoiser: Denoiser) -> None:
    """Check that backbone, denoiser and the sizes in MODEL.SDMODEL.CON_LEARNER_CONFIG fit each other.

    Args:
        cfg: the config.
        num_tokens: identity conditions, and the view.
        dim: width of the tokens.
        denoiser: the denoiser; OUT_CHANNELS is compared with a UNet only.

    Raises:
        ConfigError: they do not fit.
    """
    if denoiser.context_dim != dim:
        raise ConfigError(
            f"the UNet takes tokens of {denoiser.context_dim} numbers, the backbone's have {dim}: choose a "
            "MODEL.BACKBONE.DEPTH and a MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH that fit"
        )
    learner = cfg.MODEL.SDMODEL.CON_LEARNER_CONFIG
    derived: dict[str, Any] = {"N_CTX": num_tokens, "CTX_DIM": dim}
    if isinstance(denoiser, UNetDenoiser):
        derived["OUT_CHANNELS"] = denoiser.control_channels * 2
    for name, size in derived.items():
        given = list(learner[name]) if isinstance(size, list) else learner[name]
        if given and given != size:
            raise ConfigError(f"MODEL.SDMODEL.CON_LEARNER_CONFIG.{name} is {given}, backbone and UNet give {size}")
