"""DCAC: a re-identification model that is trained together with a diffusion model (Li & Gong, Sensors 2025, 25(2):552).

The classifier's probabilities mix one prompt per person into a condition. A diffusion model has to denoise the image's
latent under this condition. The gradient of its loss flows through the condition into the classifier and the backbone.
Evaluation uses the backbone and the BN neck only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.config import CfgNode, configurable, with_values
from fastreid.methods.dcac.build import dcac_parts, diffusion_transform
from fastreid.methods.dcac.feedback import VIEW, DiffusionFeedback
from fastreid.methods.dcac.prototypes import NeckExtractor, RebuildPrototypes
from fastreid.modeling.epoch_task import EpochTask
from fastreid.modeling.heads import EmbeddingHead
from fastreid.modeling.image_module import ImageModule
from fastreid.modeling.losses import LossTerms
from fastreid.modeling.model import RatePart, ReidModel, Transform
from fastreid.modeling.prototypes import PrototypeMemory
from fastreid.utils.compiling import compile_module
from fastreid.utils.state_dicts import State


class DCAC(ImageModule, ReidModel):
    """Images -> backbone -> head, with prototypes of people and the feedback of a diffusion model.

    `forward(batch)` returns the weighted losses in training, and features of unit length [B, D] otherwise.

    Args:
        backbone: normalised images [B, 3, H, W] -> maps [B, C, h, w].
        heads: pooling, BN neck and classifier.
        loss_terms: losses of logits and features; as published, the identity loss.
        memory: the prototypes, or None.
        prototype_weight: weight of the contrastive loss over prototypes.
        reinit_period: epochs after which the prototypes are computed anew.
        feedback: the diffusion branch, or None.
        feedback_weight: weight of its loss.
        neck_passes: times that a batch passes the neck in training; 2 moves its statistics twice, as released.
        tests_neck: whether the retrieval feature is the one after the neck.
        pixel_mean: mean of each channel of images in 0..255.
        pixel_std: standard deviation of each channel.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: torch.nn.Module,
        heads: EmbeddingHead,
        loss_terms: LossTerms,
        memory: PrototypeMemory | None,
        prototype_weight: float,
        reinit_period: int,
        feedback: DiffusionFeedback | None,
        feedback_weight: float,
        neck_passes: int,
        tests_neck: bool,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone, self.heads, self.loss_terms = backbone, heads, loss_terms
        self.memory, self.prototype_weight, self.reinit_period = memory, prototype_weight, reinit_period
        self.feedback, self.feedback_weight = feedback, feedback_weight
        self.neck_passes, self.tests_neck = neck_passes, tests_neck
        if feedback is not None:
            self.register_frozen_asset("feedback.autoencoder", only_in_training=True)
            self.register_frozen_asset("feedback.denoiser", only_in_training=True)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config.

        Raises:
            ConfigError: a key has an impossible value, or keys do not fit each other or the assets.
            AssetError: a part of Stable Diffusion is missing, damaged or does not fit.
        """
        return dcac_parts(cfg)

    @classmethod
    def evaluation_config(cls, cfg: CfgNode) -> CfgNode:
        """Return the config without prototypes and diffusion model."""
        return with_values(cfg, {"MODEL.LOSSES.PCL.SCALE": 0.0, "MODEL.LOSSES.DIFF.SCALE": 0.0})

    @classmethod
    def image_transforms(cls, cfg: CfgNode, *, is_train: bool) -> Mapping[str, Transform]:
        """Return the view that is diffused: the whole image as a square, without augmentation."""
        needed = is_train and cfg.MODEL.LOSSES.DIFF.SCALE and not cfg.DCAC.SD.LATENT_CACHE
        return {VIEW: diffusion_transform(cfg)} if needed else {}

    def forward(self, batch: Any, *, after_neck: bool = False) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and retrieval features otherwise.

        Args:
            batch: a batch (`images`, in training `targets` and what `DiffusionFeedback` needs) or images, in eval mode.
            after_neck: in eval mode, return features after the neck, of which prototypes are made, in any case.
        """
        maps = self.backbone(self.preprocess_image(batch))
        with torch.autocast(maps.device.type, enabled=False):
            pooled, neck = self.heads.embed(maps)
            if not self.training:
                return F.normalize(neck if self.tests_neck or after_neck else pooled)
            targets = batch["targets"].to(self.device)
            outputs = self.heads.classify(pooled, neck, targets)
            losses = self.loss_terms(outputs, targets)
            if self.neck_passes == 2:
                neck = self.heads.embed(maps)[1]
            features = F.normalize(neck)
            if self.memory is not None and self.prototype_weight:
                losses["loss_prototype"] = self.prototype_weight * self.memory(features, targets)
        if self.feedback is not None:
            logits = outputs["pred_class_logits"]
            loss = self.feedback(logits, features, targets, self.memory, batch)
            losses["loss_diffusion"] = self.feedback_weight * loss
        if self.memory is not None:
            self.memory.update(features, targets, batch.get("position"))
        return losses

    def epoch_tasks(self) -> Sequence[EpochTask]:
        """Return what is stored or computed from all training images: latents, then prototypes."""
        tasks = [] if self.feedback is None else list(self.feedback.epoch_tasks())
        if self.memory is not None:
            tasks.append(RebuildPrototypes(self.memory, NeckExtractor(self), self.reinit_period))
        return tasks

    def rate_parts(self) -> Sequence[RatePart]:
        """Return the heads and the prompts, which have rates of their own."""
        parts = [RatePart("SOLVER.HEADS_LR_FACTOR", (self.heads,))]
        if self.feedback is not None:
            parts.append(RatePart("SOLVER.PROMPT_LR_FACTOR", (self.feedback.condition,)))
        return parts

    def compile_parts(self, batch_size: int) -> None:
        """Compile the backbone and the UNet."""
        super().compile_parts(batch_size)
        if self.feedback is not None:
            compile_module(self.feedback.denoiser)

    def adapt_checkpoint(self, state: State) -> State:
        """Leave out what a model without prototypes or diffusion model does not have."""
        parts = {"memory.": self.memory, "feedback.": self.feedback}
        absent = tuple(prefix for prefix, part in parts.items() if part is None)
        return {name: value for name, value in state.items() if not name.startswith(absent)} if absent else state

    def training_facts(self) -> dict[str, Any]:
        """Return what the assets decide about the training."""
        if self.feedback is None:
            return {}
        return {
            "the prediction type of DCAC's diffusion": self.feedback.schedule.prediction_type,
            "the schedule of betas of DCAC's diffusion": self.feedback.schedule.betas,
        }
