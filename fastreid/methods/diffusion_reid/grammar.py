"""The grammar of descriptions of people: slots, the phrases that fill them, and where they stand in a caption."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastreid.config import ConfigError
from fastreid.config.files import read_tree
from fastreid.utils.suggest import explain_choice

Attributes = dict[str, str]
"""Slot -> the phrase that a caption has for it; slots without one are missing."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_KEYS = ("words", "slots", "prefix", "order", "identity", "swaps")
_MOST_DRAWS = 100


@dataclass(frozen=True)
class Found:
    """A phrase in a caption.

    Attributes:
        phrase: the phrase, in lower case.
        start: where it begins in the caption.
        stop: where it ends.
    """

    phrase: str
    start: int
    stop: int


@dataclass(frozen=True)
class Grammar:
    """Slots of a description, such as upper clothes, and their phrases.

    Args:
        slots: name -> forms; a form is a phrase, with `{word}` where one of the words stands. "" is no phrase.
        words: name -> what can stand there.
        prefix: the beginning of a prompt that is made of phrases.
        order: the slots, in the order in which phrases are joined.
        identity: slots that belong to the person, who has the same phrase in all images.
        swaps: slots that may get another phrase when pictures are written.

    Raises:
        ConfigError: a name of a slot or word that there is not, a slot without forms.
    """

    slots: Mapping[str, tuple[str, ...]]
    words: Mapping[str, tuple[str, ...]]
    prefix: str
    order: tuple[str, ...]
    identity: tuple[str, ...] = ()
    swaps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, chosen in (("order", self.order), ("identity", self.identity), ("swaps", self.swaps)):
            for slot in chosen:
                if slot not in self.slots:
                    raise ConfigError(f"{name}: {explain_choice('slot', slot, self.slots)}")
        if missing := [slot for slot in self.slots if slot not in self.order]:
            raise ConfigError(f"order lacks {', '.join(missing)}: it must name every slot")
        for slot, forms in self.slots.items():
            if not any(forms):
                raise ConfigError(f"the slot {slot} has no phrase")
            for word in itertools.chain.from_iterable(map(_PLACEHOLDER.findall, forms)):
                if word not in self.words:
                    raise ConfigError(f"the slot {slot}: {explain_choice('list of words', word, self.words)}")

    @classmethod
    def read(cls, path: str | Path) -> Grammar:
        """Read a YAML file with the arguments of the constructor as its keys.

        Args:
            path: the file.

        Raises:
            ConfigError: it cannot be read, or is no grammar; the message names the file.
        """
        path = Path(path).expanduser()
        try:
            content = read_tree(str(path))
        except ConfigError as error:
            raise ConfigError(f"the grammar cannot be read: {error}") from None
        try:
            return cls(**_checked(content))
        except ConfigError as error:
            raise ConfigError(f"the grammar {path}: {error}") from None

    def parse(self, caption: str) -> dict[str, Found]:
        """Return the phrases that a caption has, by their slots.

        The longest phrase of a slot counts, then the first. No part of the caption counts for two slots: those that
        come first in `order` choose first.

        Args:
            caption: text; upper and lower case are the same.
        """
        # Letters whose small form has two characters stay, so that places in both texts are the same.
        rest, found = "".join(lower if len(lower := letter.lower()) == 1 else letter for letter in caption), {}
        for slot in self.order:
            if (match := self._longest(slot, rest)) is not None:
                found[slot] = match
                rest = rest[: match.start] + "\n" * (match.stop - match.start) + rest[match.stop :]
        return found

    def attributes(self, caption: str) -> Attributes:
        """Return the phrases of a caption, without their places."""
        return {slot: match.phrase for slot, match in self.parse(caption).items()}

    def swapped(self, caption: str, slot: str, phrase: str) -> str | None:
        """Return a caption with another phrase in a slot; None if it has no phrase of this slot to replace.

        Args:
            caption: the caption.
            slot: the slot.
            phrase: the new phrase.
        """
        match = self.parse(caption).get(slot)
        return None if match is None else caption[: match.start] + phrase + caption[match.stop :]

    def text(self, attributes: Attributes) -> str:
        """Return phrases joined by commas, in the order of the slots."""
        return ", ".join(attributes[slot] for slot in self.order if attributes.get(slot))

    def majority(self, captions: Sequence[str]) -> Attributes:
        """Return the phrase of most captions for each slot of the person; of equally many, the one that comes first.

        Captions without a phrase of a slot do not vote.

        Args:
            captions: captions of the images of one person.
        """
        votes: dict[str, Counter[str]] = {slot: Counter() for slot in self.identity}
        for caption in captions:
            for slot, phrase in self.attributes(caption).items():
                if slot in votes:
                    votes[slot][phrase] += 1
        return {slot: counts.most_common(1)[0][0] for slot, counts in votes.items() if counts}

    def merged(self, caption: str, shared: Attributes) -> str:
        """Return a caption whose phrases of the person are those of most of its captions.

        Args:
            caption: the caption of one image.
            shared: what `majority` returned for the person; slots that the caption has no phrase for are added.
        """
        added = []
        for slot, phrase in shared.items():
            replaced = self.swapped(caption, slot, phrase)
            caption = caption if replaced is None else replaced
            if replaced is None:
                added.append(phrase)
        return ", ".join([*filter(None, [caption.strip(" ,.")]), *added])

    def draw(self, count: int, seed: int) -> list[Attributes]:
        """Return descriptions that all differ, drawn at random.

        Args:
            count: number of descriptions.
            seed: seed of the draws.

        Raises:
            ConfigError: the grammar has fewer different descriptions.
        """
        rng = np.random.default_rng([seed, 1])
        found: dict[tuple[str, ...], Attributes] = {}
        for _ in range(_MOST_DRAWS * count):
            if len(found) == count:
                break
            phrases = tuple(self._phrase(slot, rng) for slot in self.order)
            found.setdefault(phrases, dict(zip(self.order, phrases, strict=True)))
        if len(found) < count:
            raise ConfigError(f"the grammar has only about {len(found)} descriptions, {count} are needed: add phrases")
        return list(found.values())

    def other_phrase(self, slot: str, phrase: str, rng: np.random.Generator) -> str:
        """Return a phrase of a slot, other than the given one and not empty; the given one if there is no other.

        Args:
            slot: the slot.
            phrase: the phrase that it must not be.
            rng: draws it.
        """
        for _ in range(_MOST_DRAWS):
            drawn = self._phrase(slot, rng)
            if drawn and drawn.lower() != phrase.lower():
                return drawn
        return phrase

    def _phrase(self, slot: str, rng: np.random.Generator) -> str:
        """Draw a form, equally often however many words it has, and its words."""
        form = _one_of(rng, self.slots[slot])
        return _PLACEHOLDER.sub(lambda match: _one_of(rng, self.words[match[1]]), form)

    @cached_property
    def _patterns(self) -> Mapping[str, tuple[re.Pattern[str], ...]]:
        """Expressions for the forms of each slot, in lower case."""
        return {slot: tuple(self._pattern(form) for form in forms if form) for slot, forms in self.slots.items()}

    def _pattern(self, form: str) -> re.Pattern[str]:
        pieces = _PLACEHOLDER.split(form)  # text and names in turn
        texts, names = pieces[::2], pieces[1::2]
        choices = [f"(?:{'|'.join(map(_escaped, sorted(self.words[name], key=len, reverse=True)))})" for name in names]
        body = "".join(_escaped(text) + choice for text, choice in itertools.zip_longest(texts, choices, fillvalue=""))
        return re.compile(rf"(?<!\w){body}(?!\w)")

    def _longest(self, slot: str, caption: str) -> Found | None:
        found = [
            Found(match[0], *match.span()) for pattern in self._patterns[slot] for match in pattern.finditer(caption)
        ]
        return max(found, key=lambda match: (match.stop - match.start, -match.start), default=None)


def _escaped(text: str) -> str:
    return re.escape(text.lower())


def _one_of(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Grammar` in the content of a file."""
    for key in content:
        if key not in _KEYS:
            raise ConfigError(explain_choice("key", key, _KEYS))
    if lacking := [key for key in ("slots", "prefix") if not content.get(key)]:
        raise ConfigError(f"it lacks {', '.join(lacking)}")
    if not isinstance(content["prefix"], str):
        raise ConfigError(f"prefix must be text, got {content['prefix']!r}")
    lists = {key: _lists(key, content.get(key) or {}) for key in ("words", "slots")}
    order = content.get("order") or list(lists["slots"])
    chosen = {"order": order, "identity": content.get("identity") or [], "swaps": content.get("swaps") or []}
    return {**lists, "prefix": content["prefix"], **{key: _texts(key, value) for key, value in chosen.items()}}


def _lists(key: str, value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} must be names with lists of texts, got {value!r}")
    return {str(name): _texts(f"{key}.{name}", texts) for name, texts in value.items()}


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ConfigError(f"{key} must be a list of texts, got {value!r:.200}; quote words such as yes, no, on and off")
    if not value and "." in key:
        raise ConfigError(f"{key} is empty: name at least one text")
    if len(set(value)) < len(value):
        repeated = next(text for text in value if value.count(text) > 1)
        raise ConfigError(f"{key} has {repeated!r} twice")
    return tuple(value)
