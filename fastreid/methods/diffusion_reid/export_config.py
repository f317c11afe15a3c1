"""The config keys of the stage `export`, with their defaults and ranges."""

from __future__ import annotations

from fastreid.config.method_config import Key
from fastreid.config.ranges import COUNT, NOT_NEGATIVE, between, one_of

CAMERAS = ("prompt", "one")

KEYS = {
    # Quality of the JPEG files, as Pillow counts it.
    "DIFFPERSON.EXPORT.QUALITY": Key(95, between(1, 100)),
    # Pseudo-cameras of the pictures: "prompt" (0: the own caption, then one for each slot that was swapped) or "one"
    # (0 for all).
    "DIFFPERSON.EXPORT.CAMERAS": Key("prompt", one_of(*CAMERAS)),
    # Leave out people with fewer kept pictures.
    "DIFFPERSON.EXPORT.MIN_PICTURES": Key(1, COUNT),
    # Pictures in each WebDataset tar file; 0 writes one file for each picture.
    "DIFFPERSON.EXPORT.SHARD_SIZE": Key(0, NOT_NEGATIVE),
}
