"""Batches of P people with K images each, so that every batch has triplets and cross-view pairs."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from fastreid.config import ConfigError
from fastreid.data.samplers.base import EndlessSampler


def check_groups(batch_size: int, num_instances: int, num_people: int) -> int:
    """Number of people in a batch.

    Raises:
        ConfigError: K does not divide the batch, or there are fewer people than that.
    """
    if num_instances < 1 or batch_size % num_instances:
        raise ConfigError(
            f"a batch of {batch_size} images cannot hold groups of "
            f"DATALOADER.NUM_INSTANCE={num_instances}; make it a multiple"
        )
    people = batch_size // num_instances
    if num_people < people:
        raise ConfigError(
            f"{num_people} training people are fewer than the {people} that one batch "
            f"needs (SOLVER.IMS_PER_BATCH / DATALOADER.NUM_INSTANCE); lower the batch or raise NUM_INSTANCE"
        )
    return people


class NaiveIdentitySampler(EndlessSampler):
    """Endless P x K batches (Hermans et al., "In Defense of the Triplet Loss", section 3.1).

    A pass divides each person's shuffled images into groups of K (further images of the person fill the last group),
    then draws P people at a time until fewer than P have groups left.

    Args:
        persons: identity per image.
        batch_size: images per step, P x K.
        num_instances: K.
        seed: seed of the order.

    Raises:
        ConfigError: K does not divide the batch, or there are fewer than P people.
    """

    def __init__(
        self,
        persons: Sequence[int],
        *,
        batch_size: int,
        num_instances: int,
        seed: int,
    ) -> None:
        super().__init__(batch_size, num_instances)
        self.images_of: dict[int, list[int]] = defaultdict(list)
        for index, person in enumerate(persons):
            self.images_of[person].append(index)
        self.people_per_batch = check_groups(batch_size, num_instances, len(self.images_of))
        self.num_instances, self.seed = num_instances, seed

    def stream(self) -> Iterator[int]:
        """The indices from the beginning of the order."""
        random = np.random.default_rng(self.seed)
        while True:
            for people, groups in self._pass(random):
                for person in people:
                    yield from groups[person].pop(0)

    def _pass(self, random: np.random.Generator) -> Iterator[tuple[list[int], dict[int, list[list[int]]]]]:
        groups = {person: self._deal(images, random) for person, images in self.images_of.items()}
        left = {person: len(deck) for person, deck in groups.items()}
        while len(left) >= self.people_per_batch:
            people = random.choice(list(left), self.people_per_batch, replace=False).tolist()
            yield people, groups
            for person in people:
                left[person] -= 1
                if not left[person]:
                    del left[person]

    def _deal(self, images: list[int], random: np.random.Generator) -> list[list[int]]:
        size = self.num_instances
        order = random.permutation(images).tolist()
        missing = -len(order) % size
        order += random.choice(images, missing).tolist()
        return [order[start : start + size] for start in range(0, len(order), size)]
