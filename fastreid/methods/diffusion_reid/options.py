"""The numbers of the generator's losses and of its schedule."""

from __future__ import annotations

from dataclasses import dataclass

ALL_PEOPLE = -1


@dataclass(frozen=True)
class GeneratorOptions:
    """Numbers of `DiffusionReID`.

    Attributes:
        template: template of prompts.
        prior_weight: lambda, the weight of the loss over the reference set.
        length_weight: weight of the mean absolute value of the identity words.
        consistency_weight: weight of the loss between the text encoder's state and the person's re-ID feature.
        reid_dim: width of the re-ID feature, which is the last part of the encoder's features; 0 if there is none.
        empty_share: share of prompts that are empty in training.
        snr_gamma: gamma of min-SNR weighting; 0 for none.
        pivot_epochs: epochs in which the identity words train alone; the UNet trains alone in the others. 0 for none.
        person: the only person that is trained on, or `ALL_PEOPLE`.
    """

    template: str
    prior_weight: float = 1.0
    length_weight: float = 0.0
    consistency_weight: float = 0.0
    reid_dim: int = 0
    empty_share: float = 0.1
    snr_gamma: float = 0.0
    pivot_epochs: int = 0
    person: int = ALL_PEOPLE
