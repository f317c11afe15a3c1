"""Distiller: a Baseline that is trained with the logits of teachers; DistillerOverhaul: with their maps, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, configurable, with_values
from fastreid.methods.baseline.baseline import Baseline
from fastreid.methods.distillation.divergence import kl_divergence, symmetric_divergence
from fastreid.methods.distillation.overhaul import OverhaulLoss, keep_inputs, require_resnet, stage_maps
from fastreid.methods.distillation.teachers import load_teachers, logits_of, require_logits
from fastreid.modeling.model import RatePart
from fastreid.structures import PersonImage
from fastreid.utils.state_dicts import State

# KD.DIVERGENCE -> the name in the log (that of "js" is fast-reid's) and the function.
_DIVERGENCES = {"js": ("loss_jsdiv", symmetric_divergence), "kl": ("loss_kldiv", kl_divergence)}


class Distiller(Baseline):
    """Baseline with one more loss: the divergence of its class probabilities from those of trained teachers.

    Teachers are frozen, in eval mode, and not in checkpoints. A checkpoint is one of Baseline, with its names.

    Args:
        teachers: the teachers; none for a model that is only evaluated.
        divergence: "js" or "kl", as KD.DIVERGENCE.
        temperature: divides the logits.
        scale: weight of the divergence.
        parts: arguments of `Baseline`.

    Raises:
        ConfigError: the head gives no logits.
    """

    takes_outputs = frozenset({"cls_outputs"})

    @configurable
    def __init__(
        self,
        *,
        teachers: Sequence[Baseline] = (),
        divergence: str = "js",
        temperature: float = 16.0,
        scale: float = 1.0,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        require_logits(self.heads, "student")
        self.term, self.divergence = _DIVERGENCES[divergence]
        self.temperature, self.scale = temperature, scale
        self.teachers = nn.ModuleList(teachers).requires_grad_(False).eval()
        self.register_frozen_asset("teachers", only_in_training=True)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config."""
        keys = cfg.KD
        return super().from_config(cfg) | {
            "teachers": load_teachers(cfg),
            "divergence": keys.DIVERGENCE,
            "temperature": keys.TEMPERATURE,
            "scale": keys.SCALE,
        }

    @classmethod
    def evaluation_config(cls, cfg: CfgNode) -> CfgNode:
        """Return the config without teachers."""
        return with_values(cfg, {"KD.MODEL_CONFIG": [], "KD.MODEL_WEIGHTS": []})

    def check_data(self, images: Sequence[PersonImage]) -> None:
        """Check that there is a teacher.

        Raises:
            ConfigError: there is none.
        """
        if not len(self.teachers):
            raise ConfigError(
                f"{type(self).__name__} trains with a teacher, but KD.MODEL_WEIGHTS is empty: name the checkpoint of a "
                "trained model there"
            )

    @property
    def _teachers(self) -> list[Baseline]:
        return [cast(Baseline, teacher) for teacher in self.teachers]

    def rate_parts(self) -> Sequence[RatePart]:
        """Return the head of the student; those of teachers do not train."""
        return [RatePart("SOLVER.HEADS_LR_FACTOR", (self.heads,))]

    def train(self, mode: bool = True) -> Distiller:
        """Set training or eval mode; teachers stay in eval mode."""
        super().train(mode)
        self.teachers.eval()
        return self

    def forward(self, batched_inputs: Any) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and features otherwise.

        Args:
            batched_inputs: as in `Baseline`.
        """
        if not self.training:
            return super().forward(batched_inputs)
        images, targets = self.preprocess_image(batched_inputs), batched_inputs["targets"].to(self.device)
        outputs = self.heads(self.backbone(images), targets)
        with torch.no_grad():
            # Each with its own mean and deviation of pixels.
            maps = [teacher.backbone(teacher.preprocess_image(batched_inputs)) for teacher in self._teachers]
            theirs = [logits_of(teacher, found) for teacher, found in zip(self._teachers, maps, strict=True)]
        return self.losses(outputs, targets) | self.distillation(outputs, theirs)

    def distillation(self, outputs: Mapping[str, Tensor], theirs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the weighted divergence, the mean over teachers.

        Args:
            outputs: outputs of the head in training.
            theirs: logits [B, C] of each teacher.
        """
        own = outputs["pred_class_logits"]
        values = [self.divergence(own, logits, self.temperature) for logits in theirs]
        return {self.term: self.scale * torch.stack(values).mean()}


class DistillerOverhaul(Distiller):
    """Distiller with another loss: distances of feature maps of the four stages of ResNets (`OverhaulLoss`).

    Args:
        overhaul: the loss for each teacher.
        overhaul_scale: weight of their mean.
        parts: arguments of `Distiller`.
    """

    @configurable
    def __init__(self, *, overhaul: Sequence[OverhaulLoss] = (), overhaul_scale: float = 1.0, **parts: Any) -> None:
        super().__init__(**parts)
        self.overhaul, self.overhaul_scale = nn.ModuleList(overhaul), overhaul_scale
        for model, whose in ((self, "student"), *((teacher, "teacher") for teacher in self._teachers)):
            keep_inputs(require_resnet(model.backbone, whose))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config.

        Raises:
            ConfigError: the student or a teacher is no ResNet.
        """
        parts, keys = super().from_config(cfg), cfg.MODEL.BACKBONE
        student = require_resnet(parts["backbone"], "student")
        networks = [require_resnet(teacher.backbone, "teacher") for teacher in parts["teachers"]]
        losses = [OverhaulLoss(student, other, norm=keys.NORM, num_splits=keys.NORM_SPLIT) for other in networks]
        return parts | {"overhaul": losses, "overhaul_scale": cfg.KD.OVERHAUL.SCALE}

    def compile_parts(self, batch_size: int) -> None:
        """Compile the backbone of a model that is only evaluated.

        Raises:
            ConfigError: there are teachers; what `stage_maps` adds to networks is not seen by compiled ones.
        """
        if len(self.overhaul):
            raise ConfigError(
                "DistillerOverhaul reads maps inside of its networks, which compiled ones do not give: "
                "set MODEL.COMPILE to False for the training"
            )
        super().compile_parts(batch_size)

    def adapt_checkpoint(self, state: State) -> State:
        """Leave out the connectors if there are no teachers to compare with."""
        return state if len(self.overhaul) else {k: v for k, v in state.items() if not k.startswith("overhaul.")}

    def forward(self, batched_inputs: Any) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and features otherwise.

        Args:
            batched_inputs: as in `Baseline`.

        Raises:
            ConfigError: maps of student and teacher differ in size.
        """
        if not self.training:
            return super().forward(batched_inputs)
        targets = batched_inputs["targets"].to(self.device)
        maps, own = stage_maps(self.backbone, self.preprocess_image(batched_inputs))
        outputs = self.heads(maps, targets)
        logits, distances = [], []
        for teacher, compare in zip(self._teachers, self.overhaul, strict=True):
            with torch.no_grad():
                maps, theirs = stage_maps(teacher.backbone, teacher.preprocess_image(batched_inputs))
                logits.append(logits_of(teacher, maps))
            distances.append(compare(own, theirs))
        found = self.losses(outputs, targets) | self.distillation(outputs, logits)
        return found | {"loss_overhaul": self.overhaul_scale * torch.stack(distances).mean()}
