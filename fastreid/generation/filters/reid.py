"""The re-ID confidence filter: whether a written picture still shows the person, by the re-ID model of its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fastreid.generation.filters import reid_scores as scoring
from fastreid.generation.filters.base import FILTER_REGISTRY, FilterError, PictureFilter, Source, Verdict, WrittenPerson
from fastreid.generation.filters.reid_scores import COPY, IDENTITY, MARGIN, QUANTILE, Thresholds

AUTO = "auto"


@FILTER_REGISTRY.register(name="reid")
class ReidFilter(PictureFilter):
    """Drops pictures that are not similar to their person, similar to another one, or copies of a real image.

    Args:
        identity: tau_id, or None to calibrate it.
        identity_percentile: as of `calibrated`.
        margin: m0.
        copy: tau_dup, or None to calibrate it.
        copy_percentile: as of `calibrated`.
        quantile: keep this share of the pictures of each person, those with the greatest s_id, whatever the
            thresholds are; None to use the thresholds.
    """

    uses_features = True

    def __init__(
        self,
        *,
        identity: float | None = None,
        identity_percentile: float = 5.0,
        margin: float = 0.0,
        copy: float | None = None,
        copy_percentile: float = 99.5,
        quantile: float | None = None,
    ) -> None:
        self._fixed = {"identity": identity, "copy": copy}
        self._margin, self._quantile = margin, quantile
        self._percentiles = {"identity_percentile": identity_percentile, "copy_percentile": copy_percentile}

    @classmethod
    def from_config(cls, keys: Any) -> ReidFilter:
        """Return the filter of the keys MODE, TAU_ID, TAU_PCT, MARGIN, TAU_DUP, DUP_PCT and KEEP_QUANTILE."""
        return cls(
            identity=_number_or_none(keys.TAU_ID),
            identity_percentile=keys.TAU_PCT,
            margin=keys.MARGIN,
            copy=_number_or_none(keys.TAU_DUP),
            copy_percentile=keys.DUP_PCT,
            quantile=keys.KEEP_QUANTILE if keys.MODE == "quantile" else None,
        )

    def settings(self) -> dict[str, Any]:
        """Return all arguments."""
        return {**self._fixed, **self._percentiles, "margin": self._margin, "quantile": self._quantile}

    def thresholds(self, source: Source) -> dict[str, float]:
        """Return tau_id, m0 and tau_dup of a source; those without a given value are calibrated.

        Held-out images are used if the source has them. Otherwise each real image is compared with the others of its
        person; if the model was trained on them, tau_id is then higher than new images of the people would reach.

        Args:
            source: the data set.

        Raises:
            ArgumentError: no person has two images.
        """
        if self._quantile is not None:
            return {}
        values = {name: value for name, value in self._fixed.items() if value is not None}
        if len(values) < len(self._fixed):
            if source.held_out is None:
                genuine = scoring.genuine_scores(source.features, source.people)
            else:
                genuine = scoring.held_out_scores(*source.held_out, source.features, source.people)
            values = vars(scoring.calibrated(genuine, **self._percentiles, margin=self._margin)) | values
        return vars(Thresholds(**{"margin": self._margin, **values}))

    def judge(self, person: WrittenPerson, kept: Sequence[bool], thresholds: Mapping[str, float]) -> list[Verdict]:
        """Return a verdict for each picture; the filters before this one do not matter.

        Args:
            person: the pictures.
            kept: not used.
            thresholds: from `thresholds`.

        Raises:
            FilterError: the person has no real image in its source.
        """
        source = person.source
        own = (source.centroid_people == person.gid).nonzero()
        if not len(own):
            raise FilterError(f"person {person.gid} has no real image in {source.name}: its pictures cannot be judged")
        real = source.features[source.people == person.gid]
        scores = scoring.reid_scores(person.features, real, source.centroids, int(own[0, 0]))
        found = {IDENTITY: scores.identity, MARGIN: scores.margin, COPY: scores.copy}
        if self._quantile is not None:
            found[QUANTILE] = scoring.ranks(scores.identity, torch.tensor(person.numbers)).double()
            limit = scoring.kept_count(self._quantile, len(person.numbers))
            why = [QUANTILE if rank > limit else "" for rank in found[QUANTILE].tolist()]
        else:
            why = scoring.reasons(scores, Thresholds(**thresholds))
        rows = zip(*(values.tolist() for values in found.values()), strict=True)
        return [Verdict(reason, dict(zip(found, row, strict=True))) for reason, row in zip(why, rows, strict=True)]


def _number_or_none(text: str) -> float | None:
    return None if text == AUTO else float(text)
