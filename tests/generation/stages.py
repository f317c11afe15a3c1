"""Folders of finished stages with tiny pictures."""

import time

import numpy as np
from PIL import Image

from fastreid.generation import export
from fastreid.generation.journal import Journal
from fastreid.generation.shards import Shard

SOURCES = ("Market1501", "MSMT17", "Market1501", "CUHK03", "MSMT17")
"""The source of each of five people."""
NUMBERS = 4
DROPPED = {(0, 1): "confidence", (2, 0): "blur", (2, 1): "blur", (2, 2): "confidence", (2, 3): "near_copy"}
"""(person, number) -> reason; nothing of person 2 is kept."""


def write_stages(folder, *, size=(10, 20)):
    """Write `pictures` and `filter` of five people with four pictures each into a folder, and return it."""
    with Journal(folder / "pictures").writer() as pictures, Journal(folder / "filter").writer() as judged:
        for gid, source in enumerate(SOURCES):
            for number in range(NUMBERS):
                file = f"{gid:05d}/{number:04d}.png"
                path = folder / "pictures" / file
                path.parent.mkdir(exist_ok=True)
                pixels = np.random.default_rng([gid, number]).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
                swapped = ("", "upper", "", "carrying")[number]
                pictures.add({
                    "gid": gid, "number": number, "file": file, "source": source, "person": str(gid * 7),
                    "prompt": f"a photo of <id> person, {number}", "caption": "a red top", "swapped": swapped,
                    "seed": 100 * gid + number, "steps": 20, "guidance": 7.5,
                })  # fmt: skip
                reason = DROPPED.get((gid, number), "")
                judged.add({
                    "gid": gid, "number": number, "kept": not reason, "reason": reason,
                    "scores": {"confidence": number / 10},
                })  # fmt: skip
    return folder


def content_of(folder):
    """{relative path: bytes} of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def export_slowly(folder, options, shard, sender):
    """Export a shard; a message is sent before each picture."""
    whole_jpeg = export._jpeg

    def slow(picture, quality):
        sender.send("picture")
        time.sleep(0.01)
        return whole_jpeg(picture, quality)

    export._jpeg = slow
    export.export_pictures(folder, options, Shard.parse(shard))
