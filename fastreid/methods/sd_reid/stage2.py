"""SD-ReID stage 2: generates the feature of a person under every view, and retrieves with all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.config import CfgNode, ConfigError, configurable
from fastreid.data.transforms import DrawMirroring
from fastreid.methods.sd_reid.build import stage2_parts
from fastreid.methods.sd_reid.calibration import Calibration
from fastreid.methods.sd_reid.conditioning import ConditionLearner, PlainConditions, perturb
from fastreid.methods.sd_reid.encoder import PersonEncoder
from fastreid.methods.sd_reid.feature_cache import FeatureCache, FillFeatureCache, check_cacheable
from fastreid.methods.sd_reid.fusion import Fusion
from fastreid.methods.sd_reid.generated_losses import GeneratedLosses
from fastreid.methods.sd_reid.linear_mean import LinearMean
from fastreid.methods.sd_reid.person_losses import PersonLosses
from fastreid.methods.sd_reid.person_model import PersonModel
from fastreid.methods.sd_reid.start_noise import StartNoise
from fastreid.methods.sd_reid.target_memory import DrawnTargets, FillTargetMemory, TargetMemory
from fastreid.methods.sd_reid.targets import OF_ALL, TARGETS
from fastreid.methods.sd_reid.view_refined_decoder import ViewEmbedding, ViewRefinedDecoder
from fastreid.methods.sd_reid.whitening import ConditionWhitening, LatentWhitening
from fastreid.modeling.diffusion import Denoiser, Latent, NoiseSource, Sampler, Schedule
from fastreid.modeling.diffusion.guidance import NullCondition, drop_control, keep_control
from fastreid.modeling.diffusion.steps import clean_of
from fastreid.modeling.epoch_task import EpochTask, reading
from fastreid.modeling.model import RatePart, Transform
from fastreid.structures import Condition, PersonFeatures
from fastreid.utils.compiling import compile_module
from fastreid.utils.devices import to_device
from fastreid.utils.draws import BatchDraws


class SDReIDStage2(PersonModel):
    """A stage-1 `PersonEncoder`, and a diffusion model over its identity vectors.

    `forward(batch)` returns the losses in training, and the descriptor of `fusion` otherwise.

    Args:
        person: the encoder of stage 1; it is frozen, and always in eval mode, without `loss_terms`.
        latent: shape into which identity vectors are folded.
        standardized: whether identity vectors are diffused with zero mean and unit variance.
        latent_whitening: whitening of identity vectors instead, or None for none.
        own_view_condition: whether the view token of the image is one more identity condition.
        whitening: whitening of the identity conditions, or None for none.
        linear_mean: prediction of the latent from conditions and view, whose residual is diffused, or None for zero.
        condition_learner: identity conditions and a view centre -> tokens.
        view_decoder: a view token -> control of the denoiser.
        denoiser: the denoiser.
        schedule: forward process.
        sampler: reverse process.
        noise: source of the noise of the reverse process.
        fusion: features -> descriptor.
        target: a row of `TARGETS`, or `OF_ALL`: whose feature is generated.
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
        cache: where the features of training images are stored, or None to compute them in each iteration.
        compares_latents: whether generated features stay as they are diffused, without neck.
        loss_terms: losses of stage 1, with which the encoder trains too, or None to freeze it.
        start_noise: the learnt starting noise, or None for a normal distribution.
        generated_losses: further losses on generated vectors, or None for none.
    """

    # A checkpoint of stage 1, from which stage 2 starts, must fill them.
    required_prefixes = ("person.backbone.", "person.identity_head.bottleneck.", "person.memory.")

    @configurable
    def __init__(
        self,
        *,
        person: PersonEncoder,
        latent: Latent,
        standardized: bool,
        latent_whitening: LatentWhitening | None,
        own_view_condition: bool,
        whitening: ConditionWhitening | None,
        linear_mean: LinearMean | None,
        condition_learner: ConditionLearner | PlainConditions,
        view_decoder: ViewRefinedDecoder | ViewEmbedding,
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
        compares_latents: bool,
        cache: FeatureCache | None = None,
        loss_terms: PersonLosses | None = None,
        start_noise: StartNoise | None = None,
        generated_losses: GeneratedLosses | None = None,
    ) -> None:
        super().__init__()
        self.person, self.loss_terms = person, loss_terms
        if loss_terms is None:
            person.requires_grad_(False).eval()
        else:
            loss_terms.freeze_unused(person)
        self.latent, self.standardized = latent, standardized
        self.schedule, self.sampler, self.noise, self.fusion = schedule, sampler, noise, fusion
        self.whitening, self.linear_mean = whitening, linear_mean
        self.latent_whitening, self.own_view_condition = latent_whitening, own_view_condition
        self.condition_learner, self.view_decoder, self.denoiser = condition_learner, view_decoder, denoiser
        self.memory = TargetMemory(person.memory.num_views) if target == OF_ALL else None
        self.target = TARGETS.get(target)
        self.null_percent, self.null_is_learnt = null_percent, null_is_learnt
        self.null_drops_down, self.null_drops_up = null_drops_down, null_drops_up
        self.centre_percent, self.condition_noise = centre_percent, condition_noise
        self.decoder_control, self.cache = decoder_control, cache
        if not decoder_control:
            view_decoder.up.requires_grad_(False)  # no loss would reach them
        self.num_views, self.num_draws = num_views, num_draws
        self.generated_neck, self.compares_latents = generated_neck, compares_latents
        self.start_noise, self.generated_losses = start_noise, generated_losses
        self.register_frozen_asset("denoiser")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config.

        Raises:
            ConfigError: a key has an impossible value, or keys do not fit each other or the assets.
            AssetError: the UNet or the schedule is missing, damaged or does not fit.
        """
        return stage2_parts(cfg)

    def train(self, mode: bool = True) -> SDReIDStage2:
        """Set the training mode of all parts except a frozen encoder, whose statistics must not change."""
        super().train(mode)
        if self.loss_terms is None:
            self.person.eval()
        return self

    def rate_parts(self) -> Sequence[RatePart]:
        """Return the heads, and the encoder, which trains at MODEL.SDMODEL.ENCODER_LR_FACTOR."""
        return [*super().rate_parts(), RatePart("MODEL.SDMODEL.ENCODER_LR_FACTOR", (self.person,))]

    def compile_parts(self, batch_size: int) -> None:
        """Compile the backbone, and the denoiser in training and in sampling."""
        super().compile_parts(batch_size)
        compile_module(self.denoiser)
        self.sampler = self.sampler.with_compiled(batch_size * self.num_views * self.num_draws)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor] | Tensor:
        """Return the losses in training, and descriptors otherwise.

        Args:
            batch: `images`, and in training `targets` and `viewids`.
        """
        if not self.training:
            with torch.no_grad():
                features = self.person(batch["images"])
            return self.embed(features, batch)
        features = self._training_features(batch)
        losses = {} if self.loss_terms is None else self.loss_terms.of(self.person, features, batch)
        return losses | self._generator_losses(features, batch)

    def _training_features(self, batch: Mapping[str, Any]) -> PersonFeatures:
        if self.cache is None:
            with torch.set_grad_enabled(self.loss_terms is not None):
                return self.person(batch["images"])
        return self.cache.features(batch["indices"], batch["images"], self.device)

    @classmethod
    def image_transforms(cls, cfg: CfgNode, *, is_train: bool) -> Mapping[str, Transform]:
        """Return what replaces the pixels in training with stored features: whether the image is mirrored.

        Raises:
            ConfigError: the config has augmentations whose features cannot be stored.
        """
        if not is_train or not cfg.MODEL.SDMODEL.FEATURE_CACHE:
            return {}
        check_cacheable(cfg)
        return {"images": DrawMirroring(cfg.INPUT.FLIP.PROB if cfg.INPUT.FLIP.ENABLED else None)}

    def _generator_losses(self, features: PersonFeatures, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        id_conditions = self._conditions(features)
        draws = BatchDraws.of(batch, self.device)
        targets = self._targets(features, batch, draws)
        requested, instance = targets.views, targets.view_tokens
        with torch.autocast(self.device.type, enabled=False):  # else the targets are in half precision
            clean = self.latent.fold(targets.latents - self._mean(id_conditions, requested))
        centre = self.person.memory(requested)
        use_centre = draws.uniform(1) < self.centre_percent
        perturbed = perturb(id_conditions, self.condition_noise, draws)
        condition = self.condition(perturbed, centre, view_token=torch.where(use_centre, centre, instance))
        condition = self._drop_some(condition, draws)
        noise, losses = draws.normal(*clean.shape[1:]), {}
        if self.start_noise is not None:
            learnt, losses["loss_start_noise"] = self.start_noise.draw(self._latents(features), noise.flatten(1))
            noise = self.latent.fold(learnt)
        timesteps = self.schedule.timesteps_of(draws.uniform())
        noisy = self.schedule.add_noise(clean, noise, timesteps)
        prediction = self.denoiser(noisy, timesteps, condition).float()
        losses["loss_diffusion"] = F.mse_loss(prediction, self.schedule.target(clean, noise, timesteps))
        if self.generated_losses is not None:
            generated = self.latent.unfold(clean_of(self.schedule, prediction, noisy, timesteps))
            generated = generated + self._mean(id_conditions, requested)
            losses |= self.generated_losses(self._latents(features), generated, batch["targets"].to(self.device))
        return losses

    @torch.no_grad()
    def _targets(self, features: PersonFeatures, batch: Mapping[str, Any], draws: BatchDraws) -> DrawnTargets:
        if self.memory is not None:
            return self.memory.draw(batch["indices"], draws.uniform_on_cpu(), self.device)
        assert self.target is not None
        people, views = batch["targets"].to(self.device), batch["viewids"].to(self.device)
        weights, requested = self.target(people, views, draws.uniform())
        with torch.autocast(self.device.type, enabled=False):
            return DrawnTargets(weights @ self._latents(features), weights @ features.view.float(), requested)

    def epoch_tasks(self) -> Sequence[EpochTask]:
        """Return the calibration and the memory of targets, as far as there is anything to fit.

        They run before every epoch if the encoder trains, otherwise before the first one.
        """
        trains = self.loss_terms is not None
        tasks: list[EpochTask] = [] if self.cache is None else [FillFeatureCache(self.cache, self.person)]
        if self._fitted():
            tasks.append(Calibration(self.calibrate, every_epoch=trains))
        if self.memory is not None:
            tasks.append(FillTargetMemory(self.memory, self._describe, every_epoch=trains))
        return [reading(task, self.person) for task in tasks]

    def _fitted(self) -> bool:
        return not (self.whitening is None and self.linear_mean is None and self.latent_whitening is None)

    def _describe(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        features = self.person(batch["images"])
        return self._latents(features), features.view.float()

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit whitenings and linear mean, which have closed forms, to features of the encoder.

        Args:
            batches: training images, with `targets` and `viewids`; read once.
        """
        conditions, identities, people, views = [], [], [], []
        for batch in batches:
            features = self.person(batch["images"])
            conditions.append(self._raw_conditions(features))
            identities.append(features.identity.float())
            people.append(batch["targets"])
            views.append(batch["viewids"])
        id_conditions = torch.cat(conditions)
        if self.whitening is not None:
            self.whitening.fit(id_conditions)
        if self.latent_whitening is not None:
            self.latent_whitening.fit(torch.cat(identities))
        if self.linear_mean is not None:
            latents = self._encode(torch.cat(identities))
            who, view = torch.cat(people).to(self.device), torch.cat(views).to(self.device)
            self.linear_mean.fit(self._whiten(id_conditions), latents, who, view)

    def _mean(self, id_conditions: Tensor, views: Tensor) -> Tensor | float:
        return 0.0 if self.linear_mean is None else self.linear_mean(id_conditions, views)

    def _raw_conditions(self, features: PersonFeatures) -> Tensor:
        """[B, L-1, D], or [B, L, D] with the view token of the image, in float32."""
        conditions = features.id_conditions.float()
        return torch.cat([conditions, features.view.float()[:, None]], dim=1) if self.own_view_condition else conditions

    def _conditions(self, features: PersonFeatures) -> Tensor:
        return self._whiten(self._raw_conditions(features))

    def _whiten(self, id_conditions: Tensor) -> Tensor:
        return id_conditions if self.whitening is None else self.whitening(id_conditions)

    def _latents(self, features: PersonFeatures) -> Tensor:
        return self._encode(features.identity.float())

    def _encode(self, identity: Tensor) -> Tensor:
        if self.latent_whitening is not None:
            return self.latent_whitening.encode(identity)
        return self.person.standardize(identity) if self.standardized else identity

    def _decode(self, samples: Tensor) -> Tensor:
        if self.latent_whitening is not None:
            return self.latent_whitening.decode(samples)
        return self.person.destandardize(samples) if self.standardized else samples

    def condition(
        self, id_conditions: Tensor, centre: Tensor, view_token: Tensor, index: Tensor | None = None
    ) -> Condition:
        """Return the condition for the denoiser.

        Args:
            id_conditions: [B, L-1, D].
            centre: centres [B, D] of the requested views, for the tokens.
            view_token: [B, D], for the control maps.
            index: which view token each sample has [B], if there are fewer.
        """
        control = drop_control(self.view_decoder(view_token), down=False, up=not self.decoder_control)
        return Condition(self.condition_learner(id_conditions, centre), replace(control, index=index))

    def _drop_some(self, condition: Condition, draws: BatchDraws) -> Condition:
        """Replace the condition of random rows by the null condition, with chance `null_percent`."""
        tokens = condition.tokens
        null = draws.uniform(1, 1) < self.null_percent
        kept = (~null).unsqueeze(-1).to(tokens.dtype)
        control = keep_control(condition.control, kept, down=self.null_drops_down, up=self.null_drops_up)
        return Condition(torch.where(null, self.condition_learner.null_like(tokens), tokens), control)

    def embed(self, features: PersonFeatures, batch: Mapping[str, Any]) -> Tensor:
        """Return descriptors [B, …] of the neck feature and the features generated for every view.

        Args:
            features: features of B images.
            batch: the images and paths, for noise that depends on them.
        """
        generated = self.generate(features, batch) if self.fusion.needs_generated else None
        latent = self._latents(features) if self.fusion.needs_latent else None
        return self.fusion(self.person.neck(features.identity), generated, latent)

    def check_weights(self) -> None:
        """Check that every view that is generated has a centre.

        Raises:
            ConfigError: stage 1 never saw one.
        """
        if unseen := [view for view in self.person.memory.unseen() if view < self.num_views]:
            raise ConfigError(
                f"views {unseen} have no centre: stage 1 never saw them; train it on data that shows them, or set "
                "MODEL.SDMODEL.VIEW_NUM"
            )

    def generate(self, features: PersonFeatures, batch: Mapping[str, Any]) -> Tensor:
        """Return the feature (or latent) of each person under every view, [B, V, D], a mean of `num_draws` samples.

        Args:
            features: features of B images.
            batch: the images and paths, for noise that depends on them.

        Raises:
            ConfigError: the memory bank has no centre for a view.
        """
        if not torch.compiler.is_compiling():  # a graph cannot branch on values
            self.check_weights()
        size, repeats = features.identity.shape[0], self.num_views * self.num_draws
        views = torch.arange(self.num_views, device=self.device)
        requested = views.repeat_interleave(self.num_draws).repeat(size)
        centres = self.person.memory(views)
        id_conditions = self._conditions(features).repeat_interleave(repeats, dim=0)
        # All images share the control maps of a view, which take far more memory than the features.
        condition = self.condition(id_conditions, centres[requested], view_token=centres, index=requested)
        tokens = self.condition_learner.null_like(condition.tokens, learnt=self.null_is_learnt)
        null = NullCondition(tokens, self.null_drops_down, self.null_drops_up)
        noise = to_device(self.noise.draw(batch, repeats, self.sampler.noise_steps), self.device).flatten(1, 2)
        if self.start_noise is not None:
            start = self.latent.fold(self.start_noise(self._latents(features)).repeat_interleave(repeats, dim=0))
            noise = torch.cat([start[None], noise[1:]])
        samples = self.latent.unfold(self.sampler.sample(self.denoiser, condition, null, noise))
        samples = samples + self._mean(id_conditions, requested)
        samples = samples if self.compares_latents else self._decode(samples)
        generated = samples.view(size, self.num_views, self.num_draws, -1).mean(dim=2)
        has_neck = self.generated_neck and not self.compares_latents
        return self.person.neck(generated.flatten(0, 1)).view_as(generated) if has_neck else generated

    def training_facts(self) -> dict[str, Any]:
        """Return what the assets decide about the training."""
        return {
            "the prediction type of stage 2": self.schedule.prediction_type,
            "the schedule of betas of stage 2": self.schedule.betas,
        }
