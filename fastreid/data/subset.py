"""The part of the training images that a run uses: DATASETS.PEOPLE and DATASETS.SUBSET."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from fastreid.config import CfgNode, ConfigError
from fastreid.structures import PersonImage
from fastreid.structures.names import relative_names

logger = logging.getLogger(__name__)

Pairs = Sequence[tuple[PersonImage, Hashable]]
"""Training images, each with a key of its person, None if the person is not known."""

_FEWEST = 2  # images of a person: fewer give no positive pair


@dataclass(frozen=True)
class TrainingPart:
    """Chooses training images of a data set; the same ones whenever ids and names of its images are the same.

    Args:
        people: [from, to], the share of the people that is used (DATASETS.PEOPLE).
        mode: of DATASETS.SUBSET: "small_scale" keeps a share of these people with all their images, "few_shot" keeps
            all of them and a share of the images of each, at least two; "none" keeps everything.
        ratio: the share. A smaller one chooses a subset of what a larger one chooses with the same seed.
        seed: chooses another subset.
    """

    people: tuple[float, float] = (0.0, 1.0)
    mode: str = "none"
    ratio: float = 1.0
    seed: int = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TrainingPart:
        """Return the part of a config."""
        keys = cfg.DATASETS.SUBSET
        return cls(tuple(cfg.DATASETS.PEOPLE), keys.MODE, keys.RATIO, keys.SEED)

    def of(self, pairs: Pairs, name: str) -> Pairs:
        """Return the chosen images of a data set, in the order in which they were given.

        Args:
            pairs: its training images and their people.
            name: its name, for messages.

        Raises:
            ConfigError: nobody is left, or people are not known.
        """
        if self.people != (0.0, 1.0):
            pairs = self._of_people(pairs, name)
        if self.mode == "none":
            return pairs
        _check_known(pairs, f"DATASETS.SUBSET.MODE {self.mode}", name)
        chosen = self._small_scale(pairs, name) if self.mode == "small_scale" else self._few_shot(pairs)
        people, left = (len({who for _, who in some}) for some in (pairs, chosen))
        logger.info(
            "training on %d of the %d images and %d of the %d people of %s (DATASETS.SUBSET %s %g, seed %d)",
            *(len(chosen), len(pairs), left, people, name, self.mode, self.ratio, self.seed),
        )
        return chosen

    def _of_people(self, pairs: Pairs, name: str) -> Pairs:
        """Return the images of the people from one share to another, in the order of checksums of their ids."""
        _check_known(pairs, f"DATASETS.PEOPLE {list(self.people)}", name)
        people = sorted({who for _, who in pairs}, key=lambda who: _checksum(repr(who)))
        first, last = (round(share * len(people)) for share in self.people)
        chosen = set(people[first:last])
        if not chosen:
            raise ConfigError(
                f"DATASETS.PEOPLE {list(self.people)} leaves none of the {len(people)} training people of {name}"
            )
        logger.info("training on %d of the %d people of %s (DATASETS.PEOPLE)", len(chosen), len(people), name)
        return [pair for pair in pairs if pair[1] in chosen]

    def _small_scale(self, pairs: Pairs, name: str) -> Pairs:
        people = sorted({who for _, who in pairs}, key=lambda who: self._rank(repr(who)))
        chosen = set(people[: round(self.ratio * len(people))])
        if not chosen:
            raise ConfigError(
                f"DATASETS.SUBSET.RATIO {self.ratio:g} leaves none of the {len(people)} training people of {name}: "
                f"small_scale needs {1 / len(people):.2g} or more"
            )
        return [pair for pair in pairs if pair[1] in chosen]

    def _few_shot(self, pairs: Pairs) -> Pairs:
        names = relative_names(image for image, _ in pairs)
        images_of: dict[Hashable, list[int]] = {}
        for index, (_, who) in enumerate(pairs):
            images_of.setdefault(who, []).append(index)
        chosen: set[int] = set()
        for indices in images_of.values():
            indices.sort(key=lambda index: self._rank(names[index]))
            chosen.update(indices[: max(_FEWEST, round(self.ratio * len(indices)))])
        return [pair for index, pair in enumerate(pairs) if index in chosen]

    def _rank(self, name: str) -> bytes:
        return _checksum(f"{self.seed}\n{name}")


def _checksum(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape")).digest()


def _check_known(pairs: Pairs, what: str, name: str) -> None:
    if any(who is None for _, who in pairs):
        raise ConfigError(f"{what} chooses by people, but those of {name} are not known")
