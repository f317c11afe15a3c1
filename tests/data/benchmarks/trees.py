"""Folders of empty image files in the layouts of the benchmarks, small enough to check by hand."""

from pathlib import Path

from fastreid.data.datasets import DATASET_REGISTRY, ImageDataset


def touch(home: Path, *names: str) -> Path:
    """Empty files below `home`."""
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    return home


def load(name: str, root: Path) -> ImageDataset:
    """A protocol with all its splits read."""
    dataset = DATASET_REGISTRY.get(name)(root=root)
    assert dataset.train is not None and dataset.query is not None and dataset.gallery is not None
    return dataset


def labels(images) -> list[tuple[int, int, int]]:
    """(person, camera, view) of each image, in order."""
    return [(image.person, image.camera, int(image.view)) for image in images]
