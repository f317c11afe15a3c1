"""Batches of P people with K images each, chosen by camera or by view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from fastreid.data.samplers.base import EndlessSampler
from fastreid.data.samplers.identity import check_groups


class GroupSampler(EndlessSampler):
    """P people per batch in shuffled passes; a subclass chooses K images of each person.

    Args:
        persons: identity per image.
        groups: camera or view of each image.
        batch_size: images per step, P x K.
        num_instances: K.
        seed: seed of the order.

    Raises:
        ConfigError: K does not divide the batch, or there are fewer than P people.
    """

    def __init__(
        self,
        persons: Sequence[int],
        groups: Sequence[int],
        *,
        batch_size: int,
        num_instances: int,
        seed: int,
    ) -> None:
        super().__init__(batch_size, num_instances)
        self.images_of: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, (person, group) in enumerate(zip(persons, groups, strict=True)):
            self.images_of[person][group].append(index)
        self.people_per_batch = check_groups(batch_size, num_instances, len(self.images_of))
        self.num_instances, self.seed = num_instances, seed

    def choose(self, images_at: dict[int, list[int]], random: np.random.Generator) -> list[int]:
        """Choose K images of one person.

        Args:
            images_at: camera or view -> indices of images.
            random: generator of the order.
        """
        raise NotImplementedError(f"{type(self).__name__} must define choose")

    def stream(self) -> Iterator[int]:
        """The indices from the beginning of the order."""
        random = np.random.default_rng(self.seed)
        people = list(self.images_of)
        while True:
            order = random.permutation(len(people)).tolist()
            for first in range(0, len(order) - self.people_per_batch + 1, self.people_per_batch):
                for at in order[first : first + self.people_per_batch]:
                    yield from self.choose(self.images_of[people[at]], random)


class BalancedIdentitySampler(GroupSampler):
    """A random image, and K - 1 of the same person under other cameras, if there are any (fast-reid).

    Args:
        persons: identity per image.
        cameras: camera per image.
        batch_size: images per step, P x K.
        num_instances: K.
        seed: seed of the order.
    """

    def __init__(
        self,
        persons: Sequence[int],
        *,
        cameras: Sequence[int],
        batch_size: int,
        num_instances: int,
        seed: int,
    ) -> None:
        super().__init__(persons, cameras, batch_size=batch_size, num_instances=num_instances, seed=seed)

    def choose(self, images_at: dict[int, list[int]], random: np.random.Generator) -> list[int]:
        """A random image, and others of other cameras."""
        first, others = _with_others(images_at, random)
        return [first, *_draw(others, self.num_instances - 1, random)]


class RandomMultipleGallerySampler(BalancedIdentitySampler):
    """A random image, and K - 1 of the same cluster, of other cameras if there are any (SpCL, and methods after it).

    They are drawn without replacement if there are at least K to draw from. The image of a cluster of one is repeated;
    the released programs yield it once, so that later groups of K are of two clusters. The arguments are those of
    `BalancedIdentitySampler`.
    """

    def choose(self, images_at: dict[int, list[int]], random: np.random.Generator) -> list[int]:
        """A random image, and others of other cameras."""
        first, others = _with_others(images_at, random)
        replace = len(others) < self.num_instances
        return [first, *random.choice(others, self.num_instances - 1, replace=replace).tolist()]


class ViewBalancedSampler(GroupSampler):
    """K images of each person, as equally from each view as K allows: aerial-ground pairs in every batch.

    Args:
        persons: identity per image.
        views: view per image.
        batch_size: images per step, P x K.
        num_instances: K.
        seed: seed of the order.
    """

    def __init__(
        self,
        persons: Sequence[int],
        *,
        views: Sequence[int],
        batch_size: int,
        num_instances: int,
        seed: int,
    ) -> None:
        super().__init__(persons, views, batch_size=batch_size, num_instances=num_instances, seed=seed)

    def choose(self, images_at: dict[int, list[int]], random: np.random.Generator) -> list[int]:
        """Equally many images of each view."""
        views = random.permutation(list(images_at)).tolist()  # the first views get one image more if K is no multiple
        shares = [len(range(number, self.num_instances, len(views))) for number in range(len(views))]
        drawn = (_draw(images_at[view], share, random) for view, share in zip(views, shares, strict=True))
        return [image for images in drawn for image in images]


def _with_others(images_at: dict[int, list[int]], random: np.random.Generator) -> tuple[int, list[int]]:
    """Draw an image; the others are those of other cameras, else those of its camera, else the image itself."""
    camera_of = {image: camera for camera, images in images_at.items() for image in images}
    first = int(random.choice(list(camera_of)))
    elsewhere = [image for image, camera in camera_of.items() if camera != camera_of[first]]
    return first, elsewhere or [image for image in camera_of if image != first] or [first]


def _draw(images: Sequence[int], count: int, random: np.random.Generator) -> list[int]:
    """Draw images without repeating one before all were drawn."""
    rounds = [random.permutation(images) for _ in range(-(-count // len(images)))]
    return np.concatenate(rounds)[:count].tolist() if rounds else []
