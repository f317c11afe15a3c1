"""The plan of a rendered benchmark: its people, and the camera of each image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from .cameras import Camera
from .config import RenderConfig
from .domains import PLAIN, Domain, get_domain
from .layout import Shot
from .layouts import get_layout
from .people import Person, draw_person

RENDERER = 1
"""Version of the renderer, increased when images change; benchmarks of other versions are not reused."""


@dataclass(frozen=True)
class RenderRequest:
    """All parameters of a benchmark; people 1..train_ids are for training, the next for tests, then distractors.

    Raises:
        ValueError: an unknown name or domain, or an impossible count.
    """

    name: str
    train_ids: int
    test_ids: int
    images_per_id: int
    seed: int
    config: RenderConfig
    domain: str = PLAIN

    def __post_init__(self) -> None:
        get_domain(self.domain)
        least = 2 * len(get_layout(self.name).views())
        for field, low in (("train_ids", 1), ("test_ids", 2), ("images_per_id", least), ("seed", 0)):
            if getattr(self, field) < low:
                raise ValueError(f"{field} is {getattr(self, field)}; {self.name} needs at least {low}")

    def manifest(self) -> dict:
        """The request in the manifest, in plain JSON types."""
        return json.loads(json.dumps({"renderer": RENDERER, **asdict(self)}))

    @property
    def look(self) -> Domain:
        """The settings of its domain."""
        return get_domain(self.domain)

    @cached_property
    def cameras(self) -> Mapping[int, Camera]:
        """The cameras of its layout as they look in its domain, by their numbers."""
        return self.look.cameras(get_layout(self.name).cameras)

    @property
    def people(self) -> range:
        """Ids of all rendered people; benchmarks with unlabelled people have one for every ten test people."""
        distractors = -(-self.test_ids // 10) if get_layout(self.name).has_distractors else 0
        return range(1, self.train_ids + self.test_ids + distractors + 1)

    def person(self, pid: int) -> Person:
        """Identity `pid`; training and test people have separate look-alike groups, in the order of ids."""
        is_test = pid > self.train_ids
        group, member = divmod(pid - 1 - is_test * self.train_ids, self.config.lookalike_group)
        shared = np.random.default_rng([self.seed, 1, 2 * group + is_test])
        own = np.random.default_rng([self.seed, 2, pid])
        return draw_person(shared, own, member, self.config, self.look.wardrobe)

    def rng(self, shot: Shot) -> np.random.Generator:
        """The generator of an image: of its pose, surroundings and noise."""
        return np.random.default_rng([self.seed, 4, shot.person, shot.image])

    def shots(self, pid: int) -> list[Shot]:
        """The images of person `pid`: views alternate, and cameras alternate within a view.

        One image of each view of a test person is a query. Each view has at least two images of
        each person, so a query has matches in every view and, with at least two cameras per view,
        one under another camera of its own view.
        """
        rng = np.random.default_rng([self.seed, 3, pid])
        views = get_layout(self.name).views()
        turns = [rng.permutation(view)[: self.config.cameras_per_view].tolist() for view in views]
        indices = range(self.images_per_id)
        queries = [rng.choice(indices[view :: len(views)]) for view in range(len(views))]
        shots = []
        for index in indices:
            turn, view = divmod(index, len(views))
            camera = turns[view][turn % len(turns[view])]
            split = self._split(pid, is_query=index in queries)
            shots.append(Shot(split, pid, camera, index, (pid - 1) * self.images_per_id + index + 1))
        return shots

    def _split(self, pid: int, *, is_query: bool) -> str:
        if pid <= self.train_ids:
            return "train"
        if pid > self.train_ids + self.test_ids:
            return "distractor"
        return "query" if is_query else "gallery"
