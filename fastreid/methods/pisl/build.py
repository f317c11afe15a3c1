"""Building the parts of PISL from the config; their errors name config keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, resolve_device, with_values
from fastreid.labeling.build import build_relabel
from fastreid.methods.pisl.camera_contrast import CameraContrast
from fastreid.methods.pisl.denoiser import ThetaDenoiser
from fastreid.methods.pisl.diffusion import Signal, SpatialDiffusion, cosine_betas
from fastreid.methods.pisl.localization import LocalizationNetwork
from fastreid.methods.pisl.losses import DiffusionLoss
from fastreid.methods.pisl.part_heads import PartHeads
from fastreid.methods.pisl.patch_log import PatchLog
from fastreid.methods.pisl.patches import released_first_noise, released_first_patches, strips
from fastreid.methods.pisl.pseudo_labels import (
    EpochState,
    LabelParts,
    PartExtractor,
    RelabelParts,
    ScoreOptions,
    unit_parts,
)
from fastreid.methods.pisl.released_sampler import ReleasedSampler
from fastreid.modeling.backbones import build_backbone, with_feature_dim
from fastreid.modeling.diffusion import NoiseSource, Sampler, Schedule, option_keys
from fastreid.modeling.diffusion.guidance import get_guidance
from fastreid.modeling.epoch_task import EpochTask
from fastreid.modeling.heads import EmbeddingHead, build_heads

_KEYS = {"num_timesteps": "PISL.DIFF.TIMESTEPS", "num_steps": "PISL.DIFF.SAMPLE_STEPS"}


@dataclass(frozen=True)
class PISLOptions:
    """The numbers of PISL's losses; the keys of `config.py` below PISL.

    Attributes:
        refine: PSC.REFINE.
        smooth_start: PSC.SMOOTH_START.
        epsilon: CE.EPSILON.
        triplet_weight: TRI.WEIGHT.
        margin: TRI.MARGIN.
        camera_weight: CAM.WEIGHT; 0 without CAM.ENABLED.
        diffusion_weight: SCD.WEIGHT.
        patch_source: SDM.PATCH_SOURCE.
        padding: SDM.PADDING.
        shared_neck: SDM.SHARED_BN.
        second_pass: SCD.SECOND_PASS.
    """

    refine: float
    smooth_start: int
    epsilon: float
    triplet_weight: float
    margin: float
    camera_weight: float
    diffusion_weight: float
    patch_source: str
    padding: str
    shared_neck: bool
    second_pass: bool


def pisl_parts(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of `PISL` for a config.

    Raises:
        ConfigError: a key has an impossible value, or keys do not fit each other.
    """
    backbone = build_backbone(cfg)
    cfg = with_values(with_feature_dim(cfg, backbone), {"MODEL.HEADS.NUM_CLASSES": cfg.MODEL.HEADS.MAX_CLUSTERS})
    heads = build_heads(cfg)
    if not isinstance(heads, EmbeddingHead):
        raise ConfigError(f"PISL needs the neck and the classifier of an EmbeddingHead, got {cfg.MODEL.HEADS.NAME}")
    if heads.cls_layer.takes_cosines or heads.cls_layer.s != 1:
        raise ConfigError(
            f"the logits of PISL are inner products: set MODEL.HEADS.CLS_LAYER Linear and MODEL.HEADS.SCALE 1, got "
            f"{cfg.MODEL.HEADS.CLS_LAYER} and {cfg.MODEL.HEADS.SCALE:g}"
        )
    nn.init.normal_(heads.weight, std=cfg.PISL.CLASSIFIER_STD)
    keys, num_parts, channels = cfg.PISL, cfg.PISL.NUM_PARTS, cfg.MODEL.BACKBONE.FEAT_DIM
    dim = heads.weight.shape[1]
    if num_parts and dim != channels:
        raise ConfigError(
            f"the proxies of the whole image and of its parts must have one width, got {dim} and {channels} numbers: "
            "set MODEL.HEADS.EMBEDDING_DIM 0, or PISL.NUM_PARTS 0"
        )
    part_heads = None
    if num_parts:
        rows, norm = cfg.MODEL.HEADS.MAX_CLUSTERS, cfg.MODEL.HEADS.NORM
        part_heads = PartHeads(num_parts=num_parts, dim=channels, num_rows=rows, norm=norm, std=keys.CLASSIFIER_STD)
    state = EpochState()
    return {
        "backbone": backbone,
        "heads": heads,
        "part_heads": part_heads,
        "spatial_diffusion": _spatial_diffusion(cfg, channels, dim) if _is_placed(cfg) else None,
        "camera_contrast": CameraContrast(keys.CAM.TEMP, keys.CAM.NUM_HARD, keys.CAM.FILL_WITH_OWN),
        "diffusion_loss": _diffusion_loss(cfg),
        "options": _options(cfg),
        "relabel": _relabel(cfg, heads, part_heads, state),
        "state": state,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _is_placed(cfg: CfgNode) -> bool:
    return cfg.PISL.NUM_PARTS > 0 and cfg.PISL.SDM.PATCH_SOURCE != "stripes"


def _options(cfg: CfgNode) -> PISLOptions:
    keys = cfg.PISL
    return PISLOptions(
        refine=keys.PSC.REFINE,
        smooth_start=keys.PSC.SMOOTH_START,
        epsilon=keys.CE.EPSILON,
        triplet_weight=keys.TRI.WEIGHT,
        margin=keys.TRI.MARGIN,
        camera_weight=keys.CAM.WEIGHT if keys.CAM.ENABLED else 0.0,
        diffusion_weight=keys.SCD.WEIGHT,
        patch_source=keys.SDM.PATCH_SOURCE,
        padding=keys.SDM.PADDING,
        shared_neck=keys.SDM.SHARED_BN,
        second_pass=keys.SCD.SECOND_PASS,
    )


def _diffusion_loss(cfg: CfgNode) -> DiffusionLoss:
    keys = cfg.PISL.SCD
    return DiffusionLoss(
        target=keys.TARGET,
        consistency_of=keys.CONSIST_OF,
        consistency_weight=keys.LAMBDA_CONSIST,
        cosine_weight=keys.COS_WEIGHT,
        contrast_weight=keys.LAMBDA_CONTRAST,
        temperature=keys.TEMP,
    )


def _spatial_diffusion(cfg: CfgNode, channels: int, dim: int) -> SpatialDiffusion:
    keys, parts = cfg.PISL, cfg.PISL.NUM_PARTS
    if keys.DIFF.TIME_DIM % 2:
        raise ConfigError(f"PISL.DIFF.TIME_DIM must be even, for sines and cosines, got {keys.DIFF.TIME_DIM}")
    signal = Signal(keys.DIFF.SCALE, keys.DIFF.SIGNAL == "box")
    is_released = keys.SDM.INIT == "released"
    localizer = LocalizationNetwork(
        in_channels=channels,
        channels=keys.SDM.LOC_CHANNELS,
        hidden=keys.SDM.HIDDEN,
        first=released_first_patches(parts) if is_released else strips(parts),
        norm=cfg.MODEL.HEADS.NORM,
    )
    denoiser = ThetaDenoiser(
        feature_dim=dim,
        size=6 * parts,
        time_dim=keys.DIFF.TIME_DIM,
        hidden=keys.DIFF.HIDDEN,
        takes_theta=keys.DIFF.USE_THETA_INPUT,
        first=_first_prediction(cfg, signal),
    )
    if not keys.SCD.WEIGHT and keys.SDM.PATCH_SOURCE != "denoised":
        denoiser.requires_grad_(False)  # no loss reaches it
    with option_keys(_KEYS):
        schedule, sampler = _sampler(cfg)
    return SpatialDiffusion(
        localizer=localizer,
        denoiser=denoiser,
        schedule=schedule,
        signal=signal,
        sampler=sampler,
        t_per_sample=keys.DIFF.T_PER_SAMPLE,
        noise=NoiseSource(keys.DIFF.NOISE, keys.DIFF.SEED, (6 * parts,)),
        sample_normalized=keys.DIFF.SAMPLE_NORMALIZED,
    )


def _first_prediction(cfg: CfgNode, signal: Signal) -> Tensor:
    """The denoiser's output before training, [P, 2, 3]: the strips, no noise, or what the release has."""
    parts = cfg.PISL.NUM_PARTS
    if cfg.PISL.SDM.INIT == "released":
        return released_first_noise(parts)
    return signal.encode(strips(parts)) if cfg.PISL.DIFF.PREDICT == "x0" else torch.zeros(parts, 2, 3)


def _sampler(cfg: CfgNode) -> tuple[Schedule, Sampler | ReleasedSampler]:
    keys = cfg.PISL.DIFF
    is_released = keys.SAMPLER == "released"
    schedule = Schedule(
        {"_class_name": "DDPMScheduler", "trained_betas": cosine_betas(keys.TIMESTEPS, keys.COSINE_S)},
        solver="ddim",
        num_timesteps=keys.TIMESTEPS,
        prediction_type={"x0": "sample", "eps": "epsilon"}[keys.PREDICT],
        timestep_spacing="trailing",
        cubic=False,
        eta=keys.ETA,
    )
    if is_released:
        if keys.PREDICT != "eps":
            raise ConfigError("PISL.DIFF.SAMPLER released reads predictions as noise: set PISL.DIFF.PREDICT eps")
        schedule.reverse(keys.SAMPLE_STEPS, "cpu")  # raises if the number of steps is impossible
        return schedule, ReleasedSampler(schedule, keys.SAMPLE_STEPS, keys.RENEWAL, keys.ENSEMBLE, keys.ETA)
    if keys.RENEWAL or keys.ENSEMBLE:
        raise ConfigError("PISL.DIFF.RENEWAL and ENSEMBLE belong to PISL.DIFF.SAMPLER released: turn them off")
    return schedule, Sampler(schedule, keys.SAMPLE_STEPS, get_guidance("full"))


def _relabel(
    cfg: CfgNode, heads: EmbeddingHead, part_heads: PartHeads | None, state: EpochState
) -> Callable[[nn.Module], EpochTask]:
    """Makes the epoch task that labels the training images."""
    dim, num_parts = heads.weight.shape[1], 0 if part_heads is None else len(part_heads.necks)

    @torch.no_grad()
    def set_rows(centres: Sequence[Tensor]) -> None:
        weights = [heads.weight, *([] if part_heads is None else part_heads.classifiers)]
        for weight, rows in zip(weights, centres, strict=True):
            weight[: len(rows)] = rows.to(weight)

    log = PatchLog(cfg.OUTPUT_DIR)
    take = LabelParts(
        state,
        partial(unit_parts, dim=dim, num_parts=num_parts, part_dim=cfg.MODEL.BACKBONE.FEAT_DIM),
        ScoreOptions(cfg.PISL.PSC.KNN, cfg.PISL.PSC.SCORE, cfg.CLUSTER.KNN_BACKEND, resolve_device(cfg.MODEL.DEVICE)),
        set_rows if cfg.CLUSTER.REINIT_CLASSIFIER else None,
        log,
        compares_cameras=cfg.PISL.CAM.ENABLED and cfg.PISL.CAM.WEIGHT > 0,
    )

    def make(model: nn.Module) -> EpochTask:  # for training only
        if cfg.SOLVER.FSDP.ENABLED and cfg.CLUSTER.REINIT_CLASSIFIER:
            raise ConfigError(
                "CLUSTER.REINIT_CLASSIFIER sets rows of whole classifiers, which no process has under SOLVER.FSDP: "
                "turn one off"
            )
        num_neighbors = cfg.PISL.PSC.KNN + 1 if num_parts else 0  # for the scores
        exported = PartExtractor(model, with_parts=False)
        make_task = partial(RelabelParts, state, log, exported=exported)
        return build_relabel(cfg, PartExtractor(model), take, dim, num_neighbors, make_task)

    return make
