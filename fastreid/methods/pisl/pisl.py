"""PISL: re-identification without labels, with patches that a diffusion model places (Tao et al., TIP 2024).

Before each epoch all training images are clustered by their global feature. A part's consistency with the whole, the
likeness of their neighbourhoods, says how far its prediction refines the pseudo-label and how far the label of the part
is smoothed. Evaluation uses the global feature only. With fixed stripes and the Jaccard score this is PPLR (Cho et al.,
CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, configurable, with_values
from fastreid.methods.pisl.build import PISLOptions, pisl_parts
from fastreid.methods.pisl.camera_contrast import CameraContrast
from fastreid.methods.pisl.diffusion import DiffusedPatches, SpatialDiffusion
from fastreid.methods.pisl.losses import DiffusionLoss, label_smoothed_loss, refined_targets, score_smoothed_loss
from fastreid.methods.pisl.part_heads import PartHeads
from fastreid.methods.pisl.patches import pooled_patches, pooled_stripes
from fastreid.methods.pisl.pseudo_labels import EpochState
from fastreid.modeling.epoch_task import EpochTask
from fastreid.modeling.heads import EmbeddingHead
from fastreid.modeling.image_module import ImageModule
from fastreid.modeling.losses import triplet_loss
from fastreid.modeling.model import ReidModel
from fastreid.utils.draws import BatchDraws
from fastreid.utils.state_dicts import State

_LARGER_MAPS = (
    "take larger images (INPUT.SIZE_TRAIN), a convolutional backbone, or build_vit_backbone with "
    "MODEL.BACKBONE.OUTPUT patches"
)


class PISL(ImageModule, ReidModel):
    """Images -> backbone -> global head, and heads of P patches in training.

    `forward(batch)` returns the weighted losses in training, and global features of unit length [B, D] otherwise.

    Args:
        backbone: normalised images [B, 3, H, W] -> maps [B, C, h, w].
        heads: pooling, BN neck and classifier of the global feature.
        part_heads: those of the parts; None without parts.
        spatial_diffusion: places the patches; None for fixed stripes or without parts.
        camera_contrast: the camera loss.
        diffusion_loss: the loss of the diffusion.
        options: numbers of the losses.
        relabel: (extractor) -> the epoch task that labels the training images.
        state: scores and proxies of the epoch.
        pixel_mean: mean of each channel of images in 0..255.
        pixel_std: standard deviation of each channel.
    """

    needs_labels = False

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        heads: EmbeddingHead,
        part_heads: PartHeads | None,
        spatial_diffusion: SpatialDiffusion | None,
        camera_contrast: CameraContrast,
        diffusion_loss: DiffusionLoss,
        options: PISLOptions,
        relabel: Callable[[nn.Module], EpochTask],
        state: EpochState,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone, self.heads, self.part_heads = backbone, heads, part_heads
        self.spatial_diffusion = spatial_diffusion
        self._camera_contrast, self._diffusion_loss, self._options = camera_contrast, diffusion_loss, options
        self._relabel, self.state = relabel, state

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config.

        Raises:
            ConfigError: a key has an impossible value, or keys do not fit each other.
        """
        return pisl_parts(cfg)

    @classmethod
    def evaluation_config(cls, cfg: CfgNode) -> CfgNode:
        """Return the config without parts, which only training uses."""
        return with_values(cfg, {"PISL.NUM_PARTS": 0})

    def forward(self, batch: Any) -> dict[str, Tensor] | Tensor:
        """Return losses in training, and retrieval features otherwise.

        Args:
            batch: a batch (`images`, in training `targets`, `camids` and `indices`) or, in eval mode, images.
        """
        maps = self.backbone(self.preprocess_image(batch))
        with torch.autocast(maps.device.type, enabled=False):
            pooled, neck = self.heads.embed(maps)
            if not self.training:
                return F.normalize(neck)
            return self._losses(maps.float(), neck, batch)

    def _losses(self, maps: Tensor, features: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        self.state.check()
        options, num_clusters = self._options, self.state.num_clusters
        targets, cameras = batch["targets"].to(self.device), batch["camids"].to(self.device)
        logits = self.heads.logits(features)[:, :num_clusters]
        losses = {"loss_triplet": options.triplet_weight * triplet_loss(features, targets, options.margin, False, True)}
        if self.part_heads is None:
            losses["loss_cls"] = F.cross_entropy(logits, targets)
            return losses | self._camera_losses([features], targets, cameras)
        pooled, diffused = self._patches(maps, features, batch)
        parts = self.part_heads.embed(pooled)
        part_logits = self.part_heads.logits(parts, num_clusters)
        scores = self.state.scores_of(batch["indices"], self.device)
        refined = refined_targets(targets, part_logits, scores, options.refine)
        losses["loss_cls"] = F.cross_entropy(logits, refined)
        if self.state.epoch < options.smooth_start:
            losses["loss_part"] = label_smoothed_loss(part_logits, targets, options.epsilon)
        else:
            losses["loss_part"] = score_smoothed_loss(part_logits, targets, scores)
        losses |= self._camera_losses([features, *parts.unbind(1)], targets, cameras)
        if diffused is not None and options.diffusion_weight:
            terms = self._diffusion_loss(diffused, parts, targets)
            losses |= {f"loss_scd_{name}": options.diffusion_weight * term for name, term in terms.items()}
        self._second_pass(batch)
        return losses

    def _patches(
        self, maps: Tensor, features: Tensor, batch: Mapping[str, Any]
    ) -> tuple[Tensor, DiffusedPatches | None]:
        """Pooled patches [B, P, C] of a training batch, and what was diffused."""
        diffused = None
        if self.spatial_diffusion is None:
            pooled = self._stripes(maps)
        else:
            _check_maps(maps)
            diffused = self.spatial_diffusion(maps, features, BatchDraws.of(batch, self.device))
            theta = {"denoised": diffused.denoised, "noisy": diffused.noisy, "init": diffused.clean}
            pooled = pooled_patches(maps, theta[self._options.patch_source], self._options.padding)
        if self._options.shared_neck:
            shared = [self.heads.bottleneck(part[..., None, None])[..., 0, 0] for part in pooled.unbind(1)]
            pooled = torch.stack(shared, dim=1)
        return pooled, diffused

    def _stripes(self, maps: Tensor) -> Tensor:
        """Pooled stripes [B, P, C]."""
        num_parts, height = len(self.part_heads.necks), maps.shape[2]  # type: ignore[union-attr]  # there are parts
        if height < num_parts:
            raise ConfigError(
                f"{num_parts} stripes (PISL.NUM_PARTS) need maps of as many rows, the backbone gives {height}: "
                f"{_LARGER_MAPS}, or fewer stripes"
            )
        return pooled_stripes(maps, num_parts)

    def _camera_losses(self, views: Sequence[Tensor], targets: Tensor, cameras: Tensor) -> dict[str, Tensor]:
        """The camera loss of the global feature and the mean of those of the parts."""
        weight = self._options.camera_weight
        if not weight:
            return {}
        proxies = self.state.proxies_on(self.device)
        losses = [self._camera_contrast(view, targets, cameras, proxies, part) for part, view in enumerate(views)]
        parts = torch.stack(losses[1:]).mean() if losses[1:] else 0.0
        return {"loss_camera": weight * (losses[0] + parts)}

    @torch.no_grad()
    def _second_pass(self, batch: Mapping[str, Any]) -> None:
        """Move the BN statistics of backbone and localisation network again, as the release does."""
        if self._options.second_pass and self.spatial_diffusion is not None:
            self.spatial_diffusion.localizer(self.backbone(self.preprocess_image(batch)).float())

    def describe(self, batch: Mapping[str, Any], with_parts: bool = True) -> Tensor:
        """Return what labelling needs of each image: global feature, part features and matrices, [B, D + P C + 6 P].

        Args:
            batch: the batch.
            with_parts: False returns the global features [B, D] only.
        """
        maps = self.backbone(self.preprocess_image(batch))
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps.float()
            _, neck = self.heads.embed(maps)
            if self.part_heads is None or not with_parts:
                return neck
            if self.spatial_diffusion is None:
                parts = self.part_heads.embed(self._stripes(maps))
                return torch.cat([neck, parts.flatten(1)], dim=1)
            _check_maps(maps)
            diffusion, source = self.spatial_diffusion, self._options.patch_source
            theta = diffusion.localizer(maps) if source == "init" else diffusion.sample(neck, batch)
            parts = self.part_heads.embed(pooled_patches(maps, theta, self._options.padding))
            return torch.cat([neck, parts.flatten(1), theta.flatten(1)], dim=1)

    def epoch_tasks(self) -> Sequence[EpochTask]:
        """Return the labelling."""
        return [self._relabel(self)]

    def adapt_checkpoint(self, state: State) -> State:
        """Leave out what a model without parts or without patches that are placed does not have."""
        parts = {"part_heads.": self.part_heads, "spatial_diffusion.": self.spatial_diffusion}
        absent = tuple(prefix for prefix, part in parts.items() if part is None)
        return {name: value for name, value in state.items() if not name.startswith(absent)} if absent else state


def _check_maps(maps: Tensor) -> None:
    if min(maps.shape[2:]) < 3:
        raise ConfigError(
            f"PISL places patches on maps of at least 3 x 3 pixels, the backbone gives {maps.shape[2]} x "
            f"{maps.shape[3]}: {_LARGER_MAPS}"
        )
