"""Captions of rendered images: they say what is drawn, in the words of the grammar."""

import itertools
import json
import re

import numpy as np
import pytest
import yaml

from fastreid.rendering import DOMAINS, RenderConfig, RenderRequest, render_person
from fastreid.rendering.captions import caption, captions, colour_name, person_slots, shot_slots, write_captions
from fastreid.rendering.people import CLOTHES, HAIR_STYLES, HATS, LEGWEAR, LOWER_PATTERNS, UPPER_PATTERNS
from tests.miniature import ROOT

GRAMMAR = yaml.safe_load((ROOT / "configs/grammars/rendered.yml").read_text())


def request(name="CARGO", domain="plain", **config):
    return RenderRequest(name, 30, 2, 6, 3, RenderConfig(**config), domain)


def expression(form):
    """The regular expression of a form of the grammar."""
    parts = re.split(r"\{([^}]*)\}", form)
    words = ["|".join(map(re.escape, GRAMMAR["words"][name])) for name in parts[1::2]]
    joined = zip(parts[::2], [*(f"({word})" for word in words), ""], strict=True)
    return re.compile("".join(re.escape(text) + word for text, word in joined))


FORMS = {slot: [expression(form) for form in GRAMMAR["slots"][slot] if form] for slot in GRAMMAR["order"]}


def parsed(text):
    """The slots of a caption; every part must be of the next slot that has such a form."""
    found, rest = {}, text.split(", ")
    for slot, forms in FORMS.items():
        if rest and any(form.fullmatch(rest[0]) for form in forms):
            found[slot] = rest.pop(0)
    assert not rest, f"{text!r}: {rest} is of no slot"
    return found


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_caption_is_parsed_into_its_slots(domain):
    wanted = request(domain=domain)
    for pid in wanted.people:
        about_person = person_slots(wanted.person(pid))
        for shot in wanted.shots(pid):
            slots = about_person | shot_slots(wanted.cameras[shot.camera], wanted.rng(shot), wanted)
            assert list(slots) == GRAMMAR["order"]
            assert parsed(caption(wanted, shot)) == {slot: text for slot, text in slots.items() if text}
    assert {*GRAMMAR["identity"], *GRAMMAR["swaps"]} <= {*GRAMMAR["order"]}


def test_different_people_have_different_words():
    wanted = request(lookalike_group=1, palette_size=12)
    slots = [person_slots(wanted.person(pid)) for pid in range(1, 31)]
    for slot in ("upper", "lower", "hair", "hat", "carrying"):
        assert len({person[slot] for person in slots}) > 3, slot


def test_every_property_has_a_word_of_the_grammar():
    person = request().person(1)
    for upper, lower, legwear in itertools.product({*UPPER_PATTERNS, "side"}, LOWER_PATTERNS, LEGWEAR):
        upper_cloth, lower_cloth = person.upper._replace(pattern=upper), person.lower._replace(pattern=lower)
        for hair, hat in zip(HAIR_STYLES, HATS, strict=True):
            changes = {"upper": upper_cloth, "lower": lower_cloth, "hair_style": hair, "hat": hat, "legwear": legwear}
            slots = person_slots(type(person)(**{**vars(person), **changes}))
            assert parsed(", ".join(filter(None, slots.values()))) == {k: v for k, v in slots.items() if v}
    assert [colour_name(colour) for colour in CLOTHES.values()] == list(CLOTHES) == GRAMMAR["words"]["colour"]


def test_a_person_who_faces_away_shows_the_backpack():
    """The colour of a backpack has more pixels in images with "facing away" than in those with "facing the camera"."""
    wanted = request("Market1501", occlusion=0, bystander=0, crop_error=0, noise=0, colour_response=0)
    person = wanted.person(1)
    green = {"bag": "backpack", "bag_colour": (0.0, 0.9, 0.0), "hat": "none"}
    person = type(person)(**{**vars(person), **green})
    areas = {"facing the camera": [], "facing away": []}
    for number in range(24):
        camera = wanted.cameras[1]
        facing = shot_slots(camera, np.random.default_rng(number), wanted)["facing"]
        if facing in areas:
            picture = render_person(person, camera, np.random.default_rng(number), wanted.config).astype(int)
            is_green = (picture[..., 1] > 1.5 * picture[..., 0]) & (picture[..., 1] > 1.5 * picture[..., 2])
            areas[facing].append(is_green[: len(picture) // 2].mean())
    front, back = (np.array(area) for area in areas.values())
    assert min(len(front), len(back)) >= 3 and back.min() > 2 * front.max()


def test_the_view_is_that_of_the_camera():
    wanted = request()
    for shot in wanted.shots(1):
        view = "seen from above" if shot.camera <= 5 else "seen at eye level"
        assert view in caption(wanted, shot).split(", ")


def test_the_file_leads_to_the_images(tmp_path):
    wanted = request("MSMT17")
    (tmp_path / "notes").mkdir()
    count = write_captions(wanted, tmp_path / "data/MSMT17", tmp_path / "notes/captions.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "notes/captions.jsonl").read_text().splitlines()]
    assert count == len(rows) == len(list(captions(wanted)))
    assert all(row["image"].startswith("../data/MSMT17/") and row["image"].endswith(".jpg") for row in rows)
    assert [row["caption"] for row in rows] == [text for _, text in captions(wanted)]


@pytest.mark.parametrize("name", ["photographs.yml", "rendered.yml"])
def test_grammars_are_complete(name):
    grammar = yaml.safe_load((ROOT / "configs/grammars" / name).read_text())
    assert {*grammar} == {"words", "slots", "prefix", "order", "identity", "swaps"}
    assert {*grammar["order"]} == {*grammar["slots"]} >= {*grammar["identity"], *grammar["swaps"]}
    texts = [text for texts in (*grammar["words"].values(), *grammar["slots"].values()) for text in texts]
    assert all(isinstance(text, str) and "," not in text for text in texts)
    used = {name for texts in grammar["slots"].values() for form in texts for name in re.findall(r"\{([^}]*)\}", form)}
    assert used == {*grammar["words"]}
