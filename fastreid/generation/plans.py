"""What is written of each person: the prompt and the seed of each picture, by its number alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastreid.generation.people import Identity
from fastreid.methods.diffusion_reid.grammar import Grammar
from fastreid.methods.diffusion_reid.prompts import prompt_of


@dataclass(frozen=True)
class PicturePlan:
    """A picture to write.

    Attributes:
        gid: number of the person; -1 for pictures of the reference set.
        number: number of the picture among those of the person.
        prompt: its prompt.
        seed: seed of its noise, below 2^63.
        facts: further entries of its row in the manifest.
    """

    gid: int
    number: int
    prompt: str
    seed: int
    facts: Mapping[str, Any]

    @property
    def key(self) -> tuple[int, int]:
        """The key of its row."""
        return self.gid, self.number


@dataclass(frozen=True)
class Swaps:
    """How often a phrase of a caption is replaced.

    Args:
        share: share of the pictures.
        identity_share: greatest share of a person's pictures in which it is a phrase of the person, such as its
            clothes: a re-identification model that is trained on the pictures has to recognise people by them.
    """

    share: float
    identity_share: float

    def allows_identity(self, number: int) -> bool:
        """Return whether a phrase of the person may be replaced in the picture of this number.

        Of the first n pictures, at most `identity_share` * n may have another one.

        Args:
            number: number of the picture, from 0.
        """
        return math.floor((number + 1) * self.identity_share) > math.floor(number * self.identity_share)


def seed_of(*facts: object) -> int:
    """Return a seed below 2^63 that depends on all facts."""
    digest = hashlib.blake2b("\0".join(map(str, facts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def plan_of(
    who: Identity,
    number: int,
    captions: Sequence[str],
    *,
    grammar: Grammar,
    template: str,
    has_words: bool,
    swaps: Swaps,
    seed: int,
) -> PicturePlan:
    """Return the plan of one picture of a person. It depends on the arguments only, not on other pictures.

    Args:
        who: the person.
        number: number of the picture.
        captions: captions of the person's images.
        grammar: finds the phrases of a caption, and has others.
        template: template of prompts.
        has_words: whether there are identity words.
        swaps: how often a phrase is replaced.
        seed: seed of the run.
    """
    own = seed_of(seed, who.source, who.person, number)
    rng = np.random.default_rng([own, 2])
    caption = captions[int(rng.integers(len(captions)))] if captions else ""
    swapped = ""
    if rng.random() < swaps.share:
        caption, swapped = _swapped(caption, grammar, rng, with_identity=swaps.allows_identity(number))
    facts = {"source": who.source, "person": who.person, "caption": caption, "swapped": swapped}
    return PicturePlan(who.gid, number, prompt_of(template, caption, has_words=has_words), own, facts)


def _swapped(caption: str, grammar: Grammar, rng: np.random.Generator, *, with_identity: bool) -> tuple[str, str]:
    """Return a caption with another phrase, and its slot; the caption itself and "" if none can be replaced."""
    found = grammar.parse(caption)
    slots = [slot for slot in grammar.swaps if slot in found and (with_identity or slot not in grammar.identity)]
    if not slots:
        return caption, ""
    slot = slots[int(rng.integers(len(slots)))]
    before = found[slot].phrase
    phrase = grammar.other_phrase(slot, before, rng)
    return (grammar.swapped(caption, slot, phrase) or caption, slot) if phrase != before else (caption, "")


def reference_plans(grammar: Grammar, count: int, seed: int, *, is_fine_grained: bool) -> list[PicturePlan]:
    """Return the plans of the reference set.

    Args:
        grammar: draws the descriptions.
        count: number of pictures.
        seed: seed of the run.
        is_fine_grained: whether each has a prompt of its own, or all have the prefix, as in DreamBooth.

    Raises:
        ConfigError: the grammar has too few descriptions.
    """
    drawn: Sequence[dict[str, str]] = grammar.draw(count, seed) if is_fine_grained else [{}] * count
    texts = [", ".join(filter(None, [grammar.prefix, grammar.text(attributes)])) for attributes in drawn]
    return [
        PicturePlan(-1, number, text, seed_of(seed, "reference", number), {"attributes": attributes})
        for number, (text, attributes) in enumerate(zip(texts, drawn, strict=True))
    ]
