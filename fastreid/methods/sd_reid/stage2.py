"""SD-ReID stage 2: generates the feature of a person under every view, and retrieves with all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.config import CfgNode, ConfigError, configurable
from fastreid.methods.sd_reid.build import (
    check_choices,
    check_sizes,
    key_names,
    make_denoiser,
    make_noise,
    make_sampler,
    make_schedule,
)
from fastreid.methods.sd_reid.calibration import Calibration
from fastreid.methods.sd_reid.conditioning import ConditionLearner, ConditionWhitening, perturb
from fastreid.methods.sd_reid.encoder import PersonEncoder
from fastreid.methods.sd_reid.fusion import Fusion
from fastreid.methods.sd_reid.linear_mean import LinearMean
from fastreid.methods.sd_reid.person_model import PersonModel
from fastreid.methods.sd_reid.targets import TARGETS
from fastreid.methods.sd_reid.view_refined_decoder import ViewRefinedDecoder
from fastreid.modeling.diffusion import Denoiser, LatentShape, NoiseSource, Sampler, Schedule
from fastreid.modeling.diffusion.guidance import NullCondition, drop_control
from fastreid.modeling.epoch_task import EpochTask
from fastreid.structures import Condition, PersonFeatures
from fastreid.utils.draws import BatchDraws


class SDReIDStage2(PersonModel):
    """A frozen stage-1 `PersonEncoder`, and a diffusion model over its identity vectors.

    `forward(batch)` returns the denoising loss in training, and the descriptor of `fusion` otherwise.

    Args:
        person: the encoder of stage 1; it is frozen, and always in eval mode.
        latent: shape into which identity vectors are folded.
        standardized: whether identity vectors are diffused with zero mean and unit variance.
        whitening: whitening of the identity conditions, or None for none.
        linear_mean: prediction of the latent from conditions and view, whose residual is diffused, or None for zero.
        condition_learner: identity conditions and a view centre -> tokens.
        view_decoder: a view token -> control maps.
        denoiser: the UNet.
        schedule: forward process.
        sampler: reverse process.
        noise: source of the noise of the reverse process.
        fusion: features -> descriptor.
        target: a row of `TARGETS`: whose feature is generated.
        null_percent: chance per image of training the null condition.
        null_drops_down: whether null rows lose the control maps of the encoder.
        null_drops_up: whether null rows lose the control maps of the decoder.
        null_is_learnt: whether sampling uses the learnt null condition; otherwise zeros.
        centre_percent: chance per image of control from the centre of the view instead of a view token.
        decoder_control: whether the decoder's control maps act.
        condition_noise: strength of the noise on conditions in training.
        num_views: views that are generated.
        num_draws: samples averaged per generated feature.
        generated_neck: whether generated features pass the BN neck.
    """

    # A checkpoint of stage 1, from which stage 2 starts, must fill them.
    required_prefixes = ("person.backbone.", "person.identity_head.bottleneck.", "person.memory.")

    @configurable
    def __init__(
        self,
        *,
        person: PersonEncoder,
        latent: LatentShape,
        standardized: bool,
        whitening: ConditionWhitening | None,
        linear_mean: LinearMean | None,
        condition_learner: ConditionLearner,
        view_decoder: ViewRefinedDecoder,
        denoiser: Denoiser,
        schedule: Schedule,
        sampler: Sampler,
        noise: NoiseSource,
        fusion: Fusion,
        target: str,
        null_percent: float,
        null_drops_down: bool,
        null_drops_up: bool,
        null_is_learnt: bool,
        centre_percent: float,
        decoder_control: bool,
        condition_noise: float,
        num_views: int,
        num_draws: int,
        generated_neck: bool,
    ) -> None:
        super().__init__()
        self.person = person.requires_grad_(False).eval()
        self.latent, self.standardized = latent, standardized
        self.schedule, self.sampler = schedule, sampler
        self.noise, self.fusion = noise, fusion
        self.whitening, self.linear_mean = whitening, linear_mean
        self.condition_learner, self.view_decoder, self.denoiser = (
            condition_learner,
            view_decoder,
            denoiser,
        )
        self.target = TARGETS[target]
        self.null_percent, self.null_is_learnt = null_percent, null_is_learnt
        self.null_drops_down, self.null_drops_up = null_drops_down, null_drops_up
        self.centre_percent, self.decoder_control = centre_percent, decoder_control
        self.condition_noise = condition_noise
        if not decoder_control:
            view_decoder.up.requires_grad_(False)  # no loss would reach them
        self.num_views, self.num_draws, self.generated_neck = num_views, num_draws, generated_neck
        self.register_frozen_asset("denoiser")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config.

        Raises:
            ConfigError: a key has an impossible value, or keys do not fit each other or the assets.
            AssetError: the UNet or the schedule is missing, damaged or does not fit.
        """
        keys, test = cfg.MODEL.SDMODEL, cfg.TEST.SDMODEL
        check_choices(cfg)
        person = PersonEncoder(cfg)
        dim, num_tokens = person.feature_dim, person.num_blocks  # L - 1 identity conditions and the view
        with key_names():
            latent = LatentShape.of(dim)
        denoiser = make_denoiser(cfg)
        check_sizes(cfg, num_tokens, dim, denoiser)
        schedule = make_schedule(cfg)
        return {
            "person": person,
            "latent": latent,
            "standardized": keys.STANDARDIZE_LATENT,
            "whitening": ConditionWhitening(num_tokens - 1, dim) if keys.WHITEN_CONDITIONS else None,
            "linear_mean": LinearMean(num_tokens - 1, dim, keys.VIEW_NUM) if keys.LINEAR_MEAN else None,
            "condition_learner": ConditionLearner(
                num_tokens=num_tokens,
                dim=dim,
                depth=keys.CON_LEARNER_CONFIG.DEPTH,
                num_heads=keys.CON_LEARNER_CONFIG.HEADS,
            ),
            "view_decoder": ViewRefinedDecoder(
                latent,
                denoiser.control_channels,
                denoiser.mid_channels if keys.MID_RESIDUAL == "learnt" else None,
            ),
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
        }

    def train(self, mode: bool = True) -> SDReIDStage2:
        """Set the training mode of all parts except the frozen encoder, whose statistics must not change."""
        super().train(mode)
        self.person.eval()
        return self

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor] | Tensor:
        """Return the denoising loss in training, and descriptors otherwise.

        Args:
            batch: `images`, and in training `targets` and `viewids`.
        """
        with torch.no_grad():
            features = self.person(batch["images"])
        return (
            {"loss_diffusion": self._denoising_loss(features, batch)} if self.training else self.embed(features, batch)
        )

    def _denoising_loss(self, features: PersonFeatures, batch: Mapping[str, Any]) -> Tensor:
        people, views = batch["targets"].to(self.device), batch["viewids"].to(self.device)
        id_conditions = self._whiten(features.id_conditions)
        draws = BatchDraws.of(batch, self.device)
        weights, requested = self.target(people, views, draws.uniform())
        with torch.autocast(self.device.type, enabled=False):  # else the targets are in half precision
            latents = weights @ self._encode(features.identity.float())
            clean = self.latent.fold(latents - self._mean(id_conditions, requested))
            instance = weights @ features.view.float()

        centre = self.person.memory(requested)
        use_centre = draws.uniform(1) < self.centre_percent
        condition = self.condition(
            perturb(id_conditions, self.condition_noise, draws),
            centre,
            view_token=torch.where(use_centre, centre, instance),
        )
        condition = self._drop_some(condition, draws)

        noise = draws.normal(*clean.shape[1:])
        timesteps = self.schedule.timesteps_of(draws.uniform())
        prediction = self.denoiser(self.schedule.add_noise(clean, noise, timesteps), timesteps, condition)
        return F.mse_loss(prediction.float(), self.schedule.target(clean, noise, timesteps))

    def epoch_tasks(self) -> Sequence[EpochTask]:
        """Return the calibration, if there is anything to fit."""
        return () if self.whitening is None and self.linear_mean is None else (Calibration(self.calibrate),)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit whitening and linear mean, which have closed forms, to features of the frozen encoder; before training.

        Args:
            batches: training images, with `targets` and `viewids`; read once.
        """
        if self.whitening is None and self.linear_mean is None:
            return
        conditions, identities, people, views = [], [], [], []
        for batch in batches:
            features = self.person(batch["images"])
            conditions.append(features.id_conditions.float())
            identities.append(features.identity.float())
            people.append(batch["targets"])
            views.append(batch["viewids"])
        id_conditions = torch.cat(conditions)
        if self.whitening is not None:
            self.whitening.fit(id_conditions)
        if self.linear_mean is not None:
            latents = self._encode(torch.cat(identities))
            who, view = torch.cat(people).to(self.device), torch.cat(views).to(self.device)
            self.linear_mean.fit(self._whiten(id_conditions), latents, who, view)

    def _mean(self, id_conditions: Tensor, views: Tensor) -> Tensor | float:
        return 0.0 if self.linear_mean is None else self.linear_mean(id_conditions, views)

    def _whiten(self, id_conditions: Tensor) -> Tensor:
        return id_conditions.float() if self.whitening is None else self.whitening(id_conditions)

    def _encode(self, identity: Tensor) -> Tensor:
        return self.person.standardize(identity) if self.standardized else identity

    def _decode(self, samples: Tensor) -> Tensor:
        return self.person.destandardize(samples) if self.standardized else samples

    def condition(self, id_conditions: Tensor, centre: Tensor, view_token: Tensor) -> Condition:
        """Return the condition for the denoiser.

        Args:
            id_conditions: [B, L-1, D].
            centre: centres [B, D] of the requested views, for the tokens.
            view_token: [B, D], for the control maps.
        """
        control = drop_control(self.view_decoder(view_token), down=False, up=not self.decoder_control)
        return Condition(self.condition_learner(id_conditions, centre), control)

    def _drop_some(self, condition: Condition, draws: BatchDraws) -> Condition:
        """Replace the condition of random rows by the null condition, with chance `null_percent`."""
        tokens = condition.tokens
        null = draws.uniform(1, 1) < self.null_percent
        kept = (~null).unsqueeze(-1).to(tokens.dtype)
        control = condition.control
        if control is not None:
            control = control.map(
                lambda m: m * kept if self.null_drops_down else m,
                lambda m: m * kept if self.null_drops_up else m,
            )
        return Condition(torch.where(null, self.condition_learner.null_like(tokens), tokens), control)

    def embed(self, features: PersonFeatures, batch: Mapping[str, Any]) -> Tensor:
        """Return descriptors [B, …] of the neck feature and the features generated for every view.

        Args:
            features: features of B images.
            batch: the images and paths, for noise that depends on them.
        """
        generated = self.generate(features, batch) if self.fusion.needs_generated else None
        return self.fusion(self.person.neck(features.identity), generated)

    def check_weights(self) -> None:
        """Check that every view that is generated has a centre.

        Raises:
            ConfigError: stage 1 never saw one.
        """
        seen = self.person.memory.seen[: self.num_views]
        if not seen.all():
            unseen = (~seen).nonzero().flatten().tolist()
            raise ConfigError(
                f"views {unseen} have no centre: stage 1 never saw them; train it on data that shows them, or set "
                "MODEL.SDMODEL.VIEW_NUM"
            )

    def generate(self, features: PersonFeatures, batch: Mapping[str, Any]) -> Tensor:
        """Return the feature of each person under every view, [B, V, D], averaged over `num_draws` samples.

        Args:
            features: features of B images.
            batch: the images and paths, for noise that depends on them.

        Raises:
            ConfigError: the memory bank has no centre for a view.
        """
        self.check_weights()
        size, repeats = len(features.identity), self.num_views * self.num_draws
        views = torch.arange(self.num_views, device=self.device).repeat_interleave(self.num_draws)
        requested = views.repeat(size)
        centre = self.person.memory(requested)
        id_conditions = self._whiten(features.id_conditions).repeat_interleave(repeats, dim=0)
        condition = self.condition(id_conditions, centre, view_token=centre)
        null = NullCondition(
            self.condition_learner.null_like(condition.tokens, learnt=self.null_is_learnt),
            self.null_drops_down,
            self.null_drops_up,
        )
        noise = self.noise.draw(batch, repeats, self.sampler.noise_steps).to(self.device).flatten(1, 2)
        samples = self.latent.unfold(self.sampler.sample(self.denoiser, condition, null, noise))
        samples = self._decode(samples + self._mean(id_conditions, requested))
        generated = samples.view(size, self.num_views, self.num_draws, -1).mean(dim=2)
        return self.person.neck(generated.flatten(0, 1)).view_as(generated) if self.generated_neck else generated

    def training_facts(self) -> dict[str, Any]:
        """Return what the assets decide about the training."""
        return {
            "the prediction type of stage 2": self.schedule.prediction_type,
            "the schedule of betas of stage 2": self.schedule.betas,
        }
