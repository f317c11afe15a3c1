"""Diffusion-ReID's generator: Stable Diffusion that is fine-tuned on people, each with an identity word.

Niu et al., "Synthesizing Efficient Data with Diffusion Models for Person Re-Identification Pre-Training", Machine
Learning 114(3), 2025 (doi 10.1007/s10994-024-06663-3). No code was published: docs/diffusion_reid.md says which parts
follow the paper and which are choices of this library.

The loss is E |eps - eps_theta(z_t, t, c)|^2 over images of people, with c the text of identity word and caption, plus
lambda times the same over a reference set that the model wrote before its training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import CfgNode, configurable, with_values
from fastreid.methods.diffusion_reid.build import generator_parts
from fastreid.methods.diffusion_reid.captions import CAPTIONS_FACT, captions_of, digest_of_captions
from fastreid.methods.diffusion_reid.features import PersonExtractor, StorePersonFeatures
from fastreid.methods.diffusion_reid.one_person import OnePerson
from fastreid.methods.diffusion_reid.options import ALL_PEOPLE, GeneratorOptions
from fastreid.methods.diffusion_reid.prompts import prompt_of
from fastreid.methods.diffusion_reid.reference import ReferenceSet
from fastreid.methods.diffusion_reid.words import IdentityWords, WordEncoder
from fastreid.modeling.array_cache import ArrayCache, FillCache
from fastreid.modeling.diffusion import Autoencoder, Schedule, UNetDenoiser
from fastreid.modeling.diffusion.text import TextEncoder
from fastreid.modeling.epoch_task import EpochTask
from fastreid.modeling.model import RatePart, ReidModel
from fastreid.structures import Condition, PersonImage
from fastreid.utils.compiling import compile_module
from fastreid.utils.devices import to_device
from fastreid.utils.draws import BatchDraws
from fastreid.utils.errors import ArgumentError


class DiffusionReID(ReidModel):
    """Images of people, their numbers and captions -> the losses of a text-to-image model.

    `forward(batch)` needs `images`, `targets` and `img_paths`, or `indices` if latents are stored.

    Args:
        text: the text encoder; frozen.
        autoencoder: images -> latents; frozen.
        denoiser: the UNet; what trains in it is chosen before.
        schedule: of the noise.
        words: the identity words, or None.
        reference: the reference set, or None.
        captions: real path of an image -> its caption; None for prompts without captions.
        options: numbers of the losses.
        cache: where the moments of the latents of training images are stored; None encodes in each step.
        extractor: gives the features that a `WordEncoder` reads; None for other words.
    """

    @configurable
    def __init__(
        self,
        *,
        text: TextEncoder,
        autoencoder: Autoencoder,
        denoiser: UNetDenoiser,
        schedule: Schedule,
        words: IdentityWords | None,
        reference: ReferenceSet | None,
        captions: Mapping[str, str] | None,
        options: GeneratorOptions,
        cache: ArrayCache | None = None,
        extractor: PersonExtractor | None = None,
    ) -> None:
        super().__init__()
        self.text, self.autoencoder, self.denoiser, self.schedule = text, autoencoder, denoiser, schedule
        self.words, self.reference, self.options, self.cache = words, reference, options, cache
        self._captions, self._extractor = captions, extractor and (extractor,)  # a tuple: not a part of checkpoints
        self._empty: Tensor | None = None  # tokens of an empty prompt, which are computed once
        self.consistency = nn.Linear(text.dim, options.reid_dim) if options.consistency_weight else None
        for part in ("text", "autoencoder", "denoiser"):
            self.register_frozen_asset(part)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config.

        Raises:
            ConfigError: a key has an impossible value, or keys do not fit each other or the assets.
            AssetError: a part of Stable Diffusion is missing, damaged or does not fit.
        """
        return generator_parts(cfg)

    @classmethod
    def evaluation_config(cls, cfg: CfgNode) -> CfgNode:
        """Return the config without captions, reference set and cache, which writing pictures does not use."""
        unused = {"DIFFPERSON.LPE.CAPTIONER": "none", "DIFFPERSON.DI.ENABLED": False, "DIFFPERSON.SD.LATENT_CACHE": ""}
        return with_values(cfg, unused)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def check_data(self, images: Sequence[PersonImage]) -> None:
        """Check that each image has a caption."""
        if self._captions is not None:
            captions_of([image.path for image in images], self._captions, "DIFFPERSON.LPE.CAPTION_FILE")

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses.

        Args:
            batch: a batch.

        Raises:
            ArgumentError: in eval mode: the model has no descriptors.
        """
        if not self.training:
            raise ArgumentError("DiffusionReID writes pictures (tools/diffperson.py generate); it has no descriptors")
        device, options = self.device, self.options
        draws = BatchDraws.of(batch, device)
        people = self._rows_of(batch["targets"].to(device))
        vectors = None if self.words is None else self.words(people)
        tokens, at_words = self._tokens(batch, vectors)
        moments = self._moments(batch)
        halves = [self._noised(moments, self._with_empty(tokens, draws), draws)]
        if self.reference is not None:
            chosen = (draws.uniform_on_cpu() * len(self.reference)).long()
            moments, tokens = self.reference.rows(chosen, self.autoencoder, self.text)
            halves.append(self._noised(moments, self._with_empty(tokens, draws), draws))
        first, *rest = self._squared_errors(halves)
        losses = {"loss_identity": first}
        if rest:
            losses["loss_prior"] = options.prior_weight * rest[0]
        if vectors is not None and options.length_weight:
            losses["loss_words"] = options.length_weight * vectors.abs().mean()
        if self.consistency is not None:
            losses["loss_consistency"] = options.consistency_weight * self._inconsistency(at_words, people)
        return losses

    def compile_parts(self, batch_size: int) -> None:
        """Compile the UNet."""
        compile_module(self.denoiser)

    def vectors_of(self, people: Tensor) -> Tensor:
        """Return the vectors of the identity words of people, [B, m, D]; only for a model that has words.

        Args:
            people: their numbers, int64 [B], on the device of the model.
        """
        assert self.words is not None
        return self.words(self._rows_of(people))

    def _rows_of(self, people: Tensor) -> Tensor:
        """Return the rows of people in the words: a model of one person has one row."""
        return people if self.options.person == ALL_PEOPLE else torch.zeros_like(people)

    def _tokens(self, batch: Mapping[str, Any], vectors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the tokens [B, L, D] of the prompts of images, and the text encoder's state at the words [B, D]."""
        prompts = [
            prompt_of(self.options.template, caption, has_words=vectors is not None) for caption in self._text_of(batch)
        ]
        encoded = self.text.encode(prompts).to(self.device)
        tokens = self.text(encoded, vectors).float()
        rows = torch.arange(len(tokens), device=tokens.device)
        return tokens, tokens[rows, encoded.places[:, -1].clamp_min(0)]

    def _text_of(self, batch: Mapping[str, Any]) -> list[str]:
        if self._captions is None:
            return [""] * len(batch["targets"])
        return [self._captions[os.path.realpath(path)] for path in batch["img_paths"]]

    def _with_empty(self, tokens: Tensor, draws: BatchDraws) -> Tensor:
        """Replace the tokens of some rows by those of an empty prompt."""
        if not self.options.empty_share:
            return tokens
        if self._empty is None:
            with torch.no_grad():
                self._empty = self.text(self.text.encode([""]).to(self.device))
        is_empty = draws.uniform() < self.options.empty_share
        return torch.where(is_empty[:, None, None], self._empty.to(tokens), tokens)

    def _moments(self, batch: Mapping[str, Any]) -> Tensor:
        if self.cache is not None:
            return to_device(self.cache.read(batch["indices"]), self.device)
        return self.moments(batch)

    def moments(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the moments of the latents [B, 2C, h, w] of the images of a batch."""
        return self.autoencoder.moments(batch["images"].to(self.device).float() / 127.5 - 1)

    def _noised(self, moments: Tensor, tokens: Tensor, draws: BatchDraws) -> dict[str, Tensor]:
        """Return noisy latents with their times, tokens and targets."""
        noise, posterior = (draws.normal(moments.shape[1] // 2, *moments.shape[2:]) for _ in range(2))
        latents = self.autoencoder.latents(moments, posterior)
        times = self.schedule.timesteps_of(draws.uniform())
        noisy = self.schedule.add_noise(latents, noise, times)
        target = self.schedule.target(latents, noise, times)
        return {"noisy": noisy, "times": times, "tokens": tokens, "target": target}

    def _squared_errors(self, halves: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """Return the mean error of each half; the UNet sees all halves in one call."""
        joined = {name: torch.cat([half[name] for half in halves]) for name in halves[0]}
        prediction = self.denoiser(joined["noisy"], joined["times"], Condition(joined["tokens"]))
        errors = F.mse_loss(prediction.float(), joined["target"], reduction="none").flatten(1).mean(dim=1)
        errors = errors * self._weights(joined["times"], errors)
        return [half.mean() for half in errors.split([len(half["times"]) for half in halves])]

    def _weights(self, times: Tensor, like: Tensor) -> Tensor:
        """Return the min-SNR weights of times (Hang et al., ICCV 2023, eq. 5), or 1."""
        gamma = self.options.snr_gamma
        if not gamma:
            return torch.ones_like(like)
        kept = self.schedule.kept_signal(times, like)
        ratio = kept / (1 - kept)
        divisor = {"epsilon": ratio, "v_prediction": ratio + 1}.get(self.schedule.prediction_type, 1.0)
        return ratio.clamp(max=gamma) / divisor

    def _inconsistency(self, states: Tensor, people: Tensor) -> Tensor:
        assert isinstance(self.words, WordEncoder) and self.consistency is not None
        expected = self.words.features[people][:, -self.options.reid_dim :]
        return (1 - F.cosine_similarity(self.consistency(states.float()), expected, dim=1)).mean()

    def epoch_tasks(self) -> Sequence[EpochTask]:
        """Return what is computed from all training images, and the choice of one person."""
        tasks: list[EpochTask] = []
        if self.cache is not None:
            tasks.append(FillCache(self.cache, self.autoencoder, self.moments))
        if self._extractor and isinstance(self.words, WordEncoder):
            tasks.append(StorePersonFeatures(self.words, *self._extractor, self.options.person))
        if self.options.person != ALL_PEOPLE:
            tasks.append(OnePerson(self.options.person))
        return tasks

    def rate_parts(self) -> Sequence[RatePart]:
        """Return the identity words, which have a rate of their own."""
        trained = [part for part in (self.words, self.consistency) if part is not None]
        return [RatePart("SOLVER.WORDS_LR_FACTOR", tuple(trained))] if trained else []

    def frozen_in(self, epoch: int) -> Sequence[str]:
        """Return the parts that do not train in an epoch of pivotal tuning: first the UNet, then the words."""
        if not self.options.pivot_epochs:
            return ()
        return ("denoiser",) if epoch < self.options.pivot_epochs else ("words",)

    def training_facts(self) -> dict[str, Any]:
        """Return what the assets decide about the training."""
        facts = {
            "the prediction type of the diffusion": self.schedule.prediction_type,
            "the schedule of betas of the diffusion": self.schedule.betas,
        }
        if self._captions is not None:
            facts[CAPTIONS_FACT] = digest_of_captions(self._captions)
        if self.reference is not None:
            facts["the prompts of the reference set"] = "\n".join(self.reference.prompts)
            facts["the pictures of the reference set"] = self.reference.mark()
        return facts
