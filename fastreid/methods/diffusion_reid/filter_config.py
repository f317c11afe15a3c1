"""The config keys of the filters, DIFFPERSON.FILTER."""

from __future__ import annotations

import math

from fastreid.config.method_config import Key
from fastreid.config.ranges import (
    COUNT,
    FINITE,
    NAME,
    NAMES,
    NOT_NEGATIVE,
    SHARE,
    SHARE_ABOVE_0,
    TEXT,
    Rule,
    between,
    one_of,
)  # fmt: skip


def _is_auto_or_number(value: str) -> bool:
    try:
        return value == "auto" or math.isfinite(float(value))
    except ValueError:
        return False


AUTO_OR_NUMBER = Rule('"auto", or a number as text, such as "0.6"', _is_auto_or_number)
PERCENT = between(0, 100)

KEYS = {
    # The filters, in their order: a picture has the reason of the first one that drops it. "several_people" needs
    # DETECTOR_WEIGHTS. "near_copy" should be the last one, as it compares pictures with those that are kept so far.
    "DIFFPERSON.FILTER.NAMES": Key(["reid", "blur", "near_copy"], NAMES),
    # The re-ID model of each data set, as "NAME=CHECKPOINT".
    "DIFFPERSON.FILTER.MODELS": Key([], NAMES),
    # Filter "reid": "threshold" keeps pictures by TAU_ID, MARGIN and TAU_DUP, "quantile" the KEEP_QUANTILE of each
    # person's pictures that are most similar to its real images.
    "DIFFPERSON.FILTER.MODE": Key("threshold", one_of("threshold", "quantile")),
    # Least similarity to the person: mean cosine to the three most similar real images. "auto": the TAU_PCT-th
    # percentile of that of real images.
    "DIFFPERSON.FILTER.TAU_ID": Key("auto", AUTO_OR_NUMBER),
    # The percentile for TAU_ID auto.
    "DIFFPERSON.FILTER.TAU_PCT": Key(5.0, PERCENT),
    # Least difference between the cosines to the centroid of the person and to the nearest one of another person.
    "DIFFPERSON.FILTER.MARGIN": Key(0.0, FINITE),
    # Greatest cosine to a real image; pictures above it are copies. "auto": the DUP_PCT-th percentile of that of real
    # images.
    "DIFFPERSON.FILTER.TAU_DUP": Key("auto", AUTO_OR_NUMBER),
    # The percentile for TAU_DUP auto.
    "DIFFPERSON.FILTER.DUP_PCT": Key(99.5, PERCENT),
    # Share of the pictures of each person that MODE quantile keeps.
    "DIFFPERSON.FILTER.KEEP_QUANTILE": Key(0.75, SHARE_ABOVE_0),
    # Fewest kept pictures of a person; the stage top-up writes more of people who have fewer.
    "DIFFPERSON.FILTER.MIN_KEEP": Key(100, NOT_NEGATIVE),
    # Most rounds, the first one included.
    "DIFFPERSON.FILTER.MAX_ROUNDS": Key(3, COUNT),
    # Filter "near_copy": greatest correlation of the pixels of two pictures, mirror images included.
    "DIFFPERSON.FILTER.MAX_CORRELATION": Key(0.9, between(-1, 1)),
    # Filter "blur": least sharpness, as a share of the median of the person's real images.
    "DIFFPERSON.FILTER.MIN_SHARPNESS": Key(0.15, NOT_NEGATIVE),
    # Filter "several_people": a detector of torchvision.models.detection.
    "DIFFPERSON.FILTER.DETECTOR": Key("fasterrcnn_mobilenet_v3_large_fpn", NAME),
    # The file of its COCO weights.
    "DIFFPERSON.FILTER.DETECTOR_WEIGHTS": Key("", TEXT, is_path=True),
    # Least confidence of a person that counts.
    "DIFFPERSON.FILTER.DETECTOR_SCORE": Key(0.7, SHARE),
}
