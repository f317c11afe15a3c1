"""Images drawn by weight: all people equally often, or data sets in given shares."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from fastreid.config import ConfigError
from fastreid.data.samplers.base import EndlessSampler
from fastreid.data.samplers.identity import check_groups


class ImbalancedDatasetSampler(EndlessSampler):
    """Images drawn with replacement so that every person is drawn equally often (fast-reid).

    Args:
        persons: identity per image.
        batch_size: images per step.
        seed: seed of the order.
    """

    def __init__(self, persons: Sequence[int], *, batch_size: int, seed: int) -> None:
        super().__init__(batch_size)
        counts = Counter(persons)
        weights = np.array([1.0 / counts[person] for person in persons])
        self._chances = weights / weights.sum()
        self.seed = seed

    def stream(self) -> Iterator[int]:
        """The indices from the beginning of the order."""
        random = np.random.default_rng(self.seed)
        while True:
            yield from random.choice(len(self._chances), self.batch_size, p=self._chances).tolist()


class SetReWeightSampler(EndlessSampler):
    """P x K batches in which each training set has its share of the people: DATALOADER.SET_WEIGHT (fast-reid).

    Args:
        persons: identity per image.
        sets: number of the training set per image, in the order of DATASETS.NAMES.
        set_weight: number of people from each set among every sum(set_weight) people.
        batch_size: images per step.
        num_instances: K.
        seed: seed of the order.

    Raises:
        ConfigError: the weights are not one positive whole number per set, do not divide the batch, or a set has too
            few people.
    """

    def __init__(
        self,
        persons: Sequence[int],
        *,
        sets: Sequence[int],
        set_weight: Sequence[int],
        batch_size: int,
        num_instances: int,
        seed: int,
    ) -> None:
        super().__init__(batch_size, num_instances)
        self.images_of: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, (person, which) in enumerate(zip(persons, sets, strict=True)):
            self.images_of[which][person].append(index)
        weights = [int(weight) for weight in set_weight]
        if len(weights) != len(self.images_of) or min(weights, default=0) < 1 or weights != list(set_weight):
            raise ConfigError(
                f"DATALOADER.SET_WEIGHT needs a positive whole number for each of the {len(self.images_of)} training "
                f"sets, got {list(set_weight)}"
            )
        people = check_groups(batch_size, num_instances, sum(map(len, self.images_of.values())))
        if people % sum(weights):
            raise ConfigError(
                f"{people} people to a batch (SOLVER.IMS_PER_BATCH / DATALOADER.NUM_INSTANCE) cannot be "
                f"shared as DATALOADER.SET_WEIGHT {weights} asks: make them a multiple of {sum(weights)}"
            )
        self.people_of = {which: people // sum(weights) * weight for which, weight in enumerate(weights)}
        for which, count in self.people_of.items():
            if len(self.images_of[which]) < count:
                raise ConfigError(
                    f"training set {which} has {len(self.images_of[which])} people, fewer than the "
                    f"{count} that DATALOADER.SET_WEIGHT {weights} takes of it for a batch"
                )
        self.num_instances, self.seed = num_instances, seed

    def stream(self) -> Iterator[int]:
        """The indices from the beginning of the order."""
        random = np.random.default_rng(self.seed)
        while True:
            for which, count in self.people_of.items():
                people = list(self.images_of[which])
                for at in random.choice(len(people), count, replace=False).tolist():
                    yield from self._images(self.images_of[which][people[at]], random)

    def _images(self, images: list[int], random: np.random.Generator) -> list[int]:
        return random.choice(images, self.num_instances, replace=len(images) < self.num_instances).tolist()
