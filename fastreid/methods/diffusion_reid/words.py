"""Identity words: the vectors that stand for a person in a prompt, learnt freely or made from the person's images.

The paper inserts identity information "at feature level" into the prompt and does not say how. `WordTable` is textual
inversion (Gal et al., ICLR 2023). `WordEncoder` follows ELITE (Wei et al., ICCV 2023): a small network maps features
of the images to vectors in the space of the text encoder's words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

_SPREAD = 0.01  # of the first vectors of a table, relative to the length of words


class IdentityWords(nn.Module, ABC):
    """Base class: numbers of people [B] -> vectors [B, m, D]."""

    @abstractmethod
    def forward(self, people: Tensor) -> Tensor:
        """Return the vectors of people.

        Args:
            people: numbers int64 [B].
        """


class WordTable(IdentityWords):
    """Free vectors for each person. They start near the vector of one word.

    Args:
        num_people: number of people.
        num_vectors: m, vectors of each person.
        start: vector of the word [D].
    """

    def __init__(self, num_people: int, num_vectors: int, start: Tensor) -> None:
        super().__init__()
        noise = torch.randn(num_people, num_vectors, len(start)) * (_SPREAD * start.norm() / len(start) ** 0.5)
        self.vectors = nn.Parameter(start + noise)

    def forward(self, people: Tensor) -> Tensor:
        """Return [B, m, D]."""
        return self.vectors[people]


class WordEncoder(IdentityWords):
    """Maps the mean feature of a person's images to vectors of the usual length of words.

    v = Linear(GELU(Linear(LayerNorm(a)))), scaled to the mean length of the text encoder's words. The features a are
    a buffer, which `set_features` fills before training.

    Args:
        num_people: number of people.
        num_vectors: m, vectors of each person.
        dim: D, width of a vector.
        feature_dim: width of the features.
        hidden: width between the linear layers.
        length: mean length of words.
    """

    features: Tensor

    def __init__(
        self, num_people: int, num_vectors: int, *, dim: int, feature_dim: int, hidden: int, length: float
    ) -> None:
        super().__init__()
        self.num_vectors, self.length = num_vectors, length
        self.layers = nn.Sequential(
            nn.LayerNorm(feature_dim), nn.Linear(feature_dim, hidden), nn.GELU(), nn.Linear(hidden, num_vectors * dim)
        )
        self.register_buffer("features", torch.zeros(num_people, feature_dim))

    def set_features(self, features: Tensor, people: Tensor) -> None:
        """Store the mean features of people. The order of their images does not matter.

        Args:
            features: of all images, [M, F].
            people: the person of each, int64 [M]; images with a number below 0 are left out.
        """
        is_known = people >= 0
        features, people = features[is_known].to(self.features), people[is_known].to(self.features.device)
        sums = torch.zeros_like(self.features).index_add_(0, people, features)
        counts = people.bincount(minlength=len(self.features)).clamp_min(1)
        self.features.copy_(sums / counts[:, None])

    def forward(self, people: Tensor) -> Tensor:
        """Return [B, m, D]."""
        vectors = self.layers(self.features[people]).unflatten(1, (self.num_vectors, -1))
        return nn.functional.normalize(vectors, dim=-1) * self.length
