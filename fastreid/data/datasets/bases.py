"""What a benchmark protocol hands to training and evaluation."""

from dataclasses import dataclass

from fastreid.structures import PersonImage


@dataclass(frozen=True)
class ImageDataset:
    """Three lists of images under one registered name."""

    train: list[PersonImage]
    query: list[PersonImage]
    gallery: list[PersonImage]
    name: str
