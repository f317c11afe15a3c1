"""Captions of rendered images: what the renderer knows of a person and of a shot, as text.

The words and forms are those of configs/grammars/rendered.yml.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastreid.structures import View
from fastreid.utils.files import atomic_write

from .cameras import Camera
from .layout import Shot
from .layouts import get_layout
from .people import CLOTHES, HAIRS, Person
from .plan import RenderRequest
from .raycast import Pinhole
from .render import facing, view_of
from .textures import RGB, Fabric

_HAIRS = dict(zip(("black", "dark brown", "brown", "blond", "grey"), HAIRS, strict=True))
_HAIR_STYLES = {
    "bald": "a bald head",
    "short": "short {} hair",
    "bob": "bobbed {} hair",
    "long": "long {} hair",
    "bun": "{} hair in a bun",
}
_HATS = {"cap": "a {} cap", "brim": "a {} sun hat", "beanie": "a {} beanie"}
_BAGS = {"backpack": "a {} backpack", "shoulder": "a {} shoulder bag", "hand": "a {} handbag"}
_PATTERNS = {
    "plain": "",
    "hoops": "{} hoops",
    "pinstripes": "{} stripes",
    "checks": "{} checks",
    "dots": "{} dots",
    "halves": "a {} hem",
    "yoke": "{} shoulders",
    "open": "a {} front",
    "logo": "a {} logo",
    "side": "{} side stripes",
}
_SLEEVES = ((0.1, "no sleeves"), (1.0, "short sleeves"), (1.7, "three-quarter sleeves"), (2.0, "long sleeves"))
_LEGWEAR = {"trousers": "{} trousers", "shorts": "{} shorts", "cropped": "{} cropped trousers", "skirt": "a {} skirt"}
_LONG_COAT = 0.1
"""How far below the hip, in body heights, a top is called a coat."""
_GROUNDS = {
    "asphalt": "plain ground",
    "grass": "grass",
    "paving": "paving",
    "crossing": "a zebra crossing",
    "tiles": "tiles",
    "panels": "metal panels",
    "cobbles": "cobbles",
}


def colour_name(colour: RGB, names: dict[str, RGB] | None = None) -> str:
    """Return the name whose colour is nearest to an sRGB colour in [0, 1].

    Args:
        colour: the colour.
        names: names with their colours; those of `CLOTHES` by default.
    """
    names = names or CLOTHES
    return min(names, key=lambda name: float(np.square(np.subtract(names[name], colour)).sum()))


def _with(fabric: Fabric, *others: str) -> str:
    """The pattern of a fabric and other details, as " with A and B"; empty if there are none."""
    pattern = _PATTERNS[fabric.pattern].format(colour_name(fabric.second))
    details = " and ".join(filter(None, (pattern, *others)))
    return f" with {details}" if details else ""


def person_slots(person: Person) -> dict[str, str]:
    """Return the slots of a caption that describe a person: upper, lower, hair, hat, carrying; "" for nothing.

    Args:
        person: the person.
    """
    garment = "coat" if person.coat >= _LONG_COAT else "top"
    sleeves = next(name for end, name in _SLEEVES if person.sleeves <= end)
    return {
        "upper": f"a {colour_name(person.upper.colour)} {garment}{_with(person.upper, sleeves)}",
        "lower": _LEGWEAR[person.legwear].format(colour_name(person.lower.colour)) + _with(person.lower),
        "hair": _HAIR_STYLES[person.hair_style].format(colour_name(person.hair, _HAIRS)),
        "hat": _HATS.get(person.hat, "").format(colour_name(person.hat_colour)),
        "carrying": _BAGS.get(person.bag, "").format(colour_name(person.bag_colour)),
    }


def shot_slots(camera: Camera, rng: np.random.Generator, request: RenderRequest) -> dict[str, str]:
    """Return the slots of a caption that describe one image: view, facing, place.

    Args:
        camera: the camera.
        rng: generator with the state that `render_person` gets.
        request: parameters of the benchmark.
    """
    pinhole, pose = view_of(camera, rng, request.config)
    return {
        "view": "seen from above" if camera.view == View.AERIAL else "seen at eye level",
        "facing": _facing(pinhole, pose.heading),
        "place": f"on {_GROUNDS[camera.ground.pattern]}",
    }


def _facing(pinhole: Pinhole, heading: float) -> str:
    towards = facing(pinhole, heading)
    if abs(towards) < np.cos(np.pi / 4):
        return "turned to the side"
    return "facing the camera" if towards > 0 else "facing away"


def caption(request: RenderRequest, shot: Shot) -> str:
    """Return the caption of an image: its slots, without the empty ones, joined by ", ".

    Args:
        request: parameters of the benchmark.
        shot: the image.
    """
    about_shot = shot_slots(request.cameras[shot.camera], request.rng(shot), request)
    return ", ".join(filter(None, (person_slots(request.person(shot.person)) | about_shot).values()))


def captions(request: RenderRequest) -> Iterator[tuple[str, str]]:
    """Yield path below the benchmark's folder, and caption, of every image of a benchmark.

    Args:
        request: parameters of the benchmark.
    """
    layout = get_layout(request.name)
    for pid in request.people:
        for shot in request.shots(pid):
            text = caption(request, shot)
            for path in (layout.path(shot), *layout.copies(shot)):
                yield path, text


def write_captions(request: RenderRequest, folder: Path, file: Path, *, overwrite: bool = False) -> int:
    """Write the captions of a benchmark as JSON lines `{"image": path, "caption": text}`, and return their number.

    Args:
        request: parameters of the benchmark.
        folder: its folder.
        file: the file; paths in it are relative to its folder.
        overwrite: replace a file that has other content.

    Raises:
        FileExistsError: the file has other content.
        DiskError: the disk is full or broken.
    """
    to_images = Path(os.path.relpath(folder.resolve(), file.resolve().parent))
    lines = [json.dumps({"image": (to_images / path).as_posix(), "caption": text}) for path, text in captions(request)]
    text = "".join(f"{line}\n" for line in lines)
    if overwrite or not file.exists():
        with atomic_write(file) as out:
            out.write(text)
    elif file.read_bytes() != text.encode():
        raise FileExistsError(
            f"{file} has other captions, or is no file of captions: name another, or replace it with --overwrite"
        )
    return len(lines)
