"""Drops pictures with two or more people, which a detector of torchvision finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastreid.generation.filters.base import FILTER_REGISTRY, FilterError, PictureFilter, Verdict, WrittenPerson
from fastreid.utils.checkpoint_file import read_checkpoint, state_dict_in

NAME = "several_people"
_PERSON = 1  # class of the COCO detectors of torchvision

Detector = Callable[[list[Tensor]], list[dict[str, Tensor]]]
"""Images float [3, H, W] in [0, 1] -> for each its "boxes" [K, 4], "labels" [K] and "scores" [K]."""


@FILTER_REGISTRY.register(name=NAME)
class SeveralPeopleFilter(PictureFilter):
    """Drops pictures in which a detector finds two or more people of similar size.

    Args:
        detector: the network.
        identity: what it is, for the settings of the stage.
        min_score: least confidence of a person that counts.
        min_share: least area of a person that counts, as a share of the largest one: people in the background are
            smaller.
    """

    def __init__(
        self, detector: Detector, *, identity: str = "", min_score: float = 0.7, min_share: float = 0.25
    ) -> None:
        self._detector, self._identity = detector, identity
        self._min_score, self._min_share = min_score, min_share

    @classmethod
    def from_config(cls, keys: Any) -> SeveralPeopleFilter:
        """Return the filter of the keys DETECTOR, DETECTOR_WEIGHTS and DETECTOR_SCORE.

        Raises:
            FilterError: there are no weights, or they do not fit.
        """
        detector = torchvision_detector(keys.DETECTOR, keys.DETECTOR_WEIGHTS)
        return cls(detector, identity=f"{keys.DETECTOR} {keys.DETECTOR_WEIGHTS}", min_score=keys.DETECTOR_SCORE)

    def settings(self) -> dict[str, Any]:
        """Return the detector and what counts as a person."""
        return {"detector": self._identity, "min_score": self._min_score, "min_share": self._min_share}

    def judge(self, person: WrittenPerson, kept: Sequence[bool], thresholds: Mapping[str, float]) -> list[Verdict]:
        """Return a verdict for each picture; pictures are detected one by one.

        Args:
            person: the pictures.
            kept: not used.
            thresholds: not used.
        """
        verdicts = []
        for pixels in person.pixels:
            with torch.inference_mode():
                (found,) = self._detector([_image(pixels)])
            count = people_in(found, min_score=self._min_score, min_share=self._min_share)
            verdicts.append(Verdict(NAME if count > 1 else "", {NAME: float(count)}))
        return verdicts


def people_in(found: Mapping[str, Tensor], *, min_score: float, min_share: float) -> int:
    """Return the number of people that a detector has found.

    Args:
        found: "boxes" [K, 4] as (left, top, right, bottom), "labels" int64 [K], "scores" [K].
        min_score: least confidence of a person that counts.
        min_share: least area of a person that counts, as a share of the largest one.
    """
    is_person = (found["labels"] == _PERSON) & (found["scores"] >= min_score)
    boxes = found["boxes"][is_person]
    if not len(boxes):
        return 0
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    return int((areas >= min_share * areas.max()).sum())


def torchvision_detector(name: str, weights: str) -> Detector:
    """Return a detector of torchvision, trained on COCO, in eval mode.

    Args:
        name: a function of `torchvision.models.detection`.
        weights: path of its state dict; nothing is downloaded.

    Raises:
        FilterError: there is no such function or file, or the weights do not fit.
    """
    from torchvision.models import detection, get_model, list_models

    names = list_models(module=detection)
    if name not in names:
        raise FilterError(f"DIFFPERSON.FILTER.DETECTOR {name!r} is none of {', '.join(names)}")
    if not weights or not Path(weights).is_file():
        where = f"there is no file {weights}" if weights else "it is empty"
        raise FilterError(
            f"the filter {NAME!r} needs a detector: set DIFFPERSON.FILTER.DETECTOR_WEIGHTS to a file with the weights "
            f"that torchvision has of {name} ({where}), or remove {NAME!r} from DIFFPERSON.FILTER.NAMES"
        )
    detector = get_model(name, weights=None, weights_backbone=None)
    try:
        detector.load_state_dict(state_dict_in(read_checkpoint(weights), weights))
    except RuntimeError as error:
        raise FilterError(f"{weights} does not fit the detector {name} of torchvision: {error}") from error
    return detector.eval()


def _image(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
