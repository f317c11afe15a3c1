"""Features of the training images, which the encoder of identity words reads: of a re-ID model, of CLIP, or of both."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import ConfigError, image_size
from fastreid.methods.diffusion_reid.options import ALL_PEOPLE
from fastreid.methods.diffusion_reid.words import WordEncoder
from fastreid.modeling.epoch_task import EpochPlan, EpochTask, TrainingSet
from fastreid.modeling.image_module import as_batch
from fastreid.modeling.trained import load_trained
from fastreid.utils.errors import first_line_of
from fastreid.utils.precision import full_precision
from fastreid.utils.transformers_model import load_transformers_model

_REID, _CLIP = "DIFFPERSON.IIR.REID", "DIFFPERSON.IIR.CLIP"


class ReidFeatures(nn.Module):
    """Features of unit length of a trained model of this library.

    Args:
        model: the model, in eval mode.
        size: (height, width) of the images that it takes.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self._size = model, size
        with torch.no_grad():
            device = next(model.parameters()).device
            self.dim = self(torch.zeros(1, 3, *size, device=device)).shape[1]

    @classmethod
    def of(cls, checkpoint: str) -> ReidFeatures:
        """Load a checkpoint; errors as of `load_trained`."""
        model, cfg = load_trained(checkpoint, key=_REID)
        return cls(model, image_size(cfg, is_train=False))

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, F] of images [B, 3, H, W] in 0..255."""
        if tuple(images.shape[2:]) != self._size:
            images = F.interpolate(images, self._size, mode="bilinear", antialias=True)
        return F.normalize(self.model({"images": images}).float(), dim=1)


class ClipFeatures(nn.Module):
    """Features of unit length of CLIP's image encoder.

    Args:
        model: a `transformers.CLIPVisionModel`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.dim = model.requires_grad_(False).eval(), model.config.hidden_size
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        for name, values in (("mean", OPENAI_CLIP_MEAN), ("deviation", OPENAI_CLIP_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def of(cls, folder: str) -> ClipFeatures:
        """Read a folder of transformers.

        Args:
            folder: folder of a CLIP model, or of its image encoder.

        Raises:
            ConfigError: it cannot be read.
        """
        from transformers import CLIPVisionModel

        try:
            return cls(load_transformers_model(CLIPVisionModel, folder))
        except Exception as error:  # transformers may raise any error for missing or damaged files
            raise ConfigError(
                f"{_CLIP} {folder!r} cannot be read as CLIP's image encoder: {first_line_of(error)[:300]}"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, F] of images [B, 3, H, W] in 0..255."""
        side = self.model.config.image_size
        resized = F.interpolate(images / 255, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return F.normalize(self.model((resized - self.mean) / self.deviation).pooler_output.float(), dim=1)


class PersonExtractor(nn.Module):
    """Joins the features of several extractors.

    Args:
        parts: name -> extractor, in the order of the features.
    """

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.eval().requires_grad_(False)

    @classmethod
    def of(cls, names: str, *, reid: str, clip: str) -> PersonExtractor:
        """Return the extractor of DIFFPERSON.IIR.INPUT.

        Args:
            names: "clip", "reid" or "clip+reid".
            reid: checkpoint of the re-ID model.
            clip: folder of CLIP's image encoder.

        Raises:
            ConfigError: a part is missing or cannot be read.
        """
        makers = {"clip": (ClipFeatures.of, clip, _CLIP), "reid": (ReidFeatures.of, reid, _REID)}
        parts = {}
        for name in names.split("+"):
            make, place, key = makers[name]
            if not place:
                raise ConfigError(
                    f'DIFFPERSON.IIR.INPUT {names!r} reads features of {name}, but {key} is "": set it, or choose '
                    "another INPUT, or another DIFFPERSON.IIR.MODE"
                )
            parts[name] = make(place)
        return cls(parts)

    @property
    def dims(self) -> dict[str, int]:
        """Width of the features of each part."""
        return {name: part.dim for name, part in self.parts.items()}  # type: ignore[misc]

    def forward(self, batch: Any) -> Tensor:
        """Return features [B, F] of a batch (`images`) or of images in 0..255."""
        images = as_batch(batch)["images"].to(next(self.parameters()).device).float()
        return torch.cat([part(images) for part in self.parts.values()], dim=1)


class StorePersonFeatures(EpochTask):
    """Fills the features of a `WordEncoder` before the first epoch.

    Args:
        words: the encoder.
        extractor: gives the features.
        person: number of the only person that the encoder is of; `ALL_PEOPLE` for all.
    """

    in_all_processes = True

    def __init__(self, words: WordEncoder, extractor: PersonExtractor, person: int = ALL_PEOPLE) -> None:
        self._words, self._extractor, self._person = words, extractor, person

    def is_due(self, epoch: int) -> bool:
        """Return True for the first epoch."""
        return epoch == 0

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Store the mean features of people; labels and order stay."""
        self._extractor.to(self._words.features.device)
        with full_precision():
            indices, features = training_set.features(self._extractor)
        people = torch.tensor(training_set.people)[indices]
        if self._person != ALL_PEOPLE:
            people = torch.where(people == self._person, 0, -1)
        self._words.set_features(features, people)
        return None
