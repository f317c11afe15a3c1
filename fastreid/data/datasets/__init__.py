"""The registry that dataset names in `DATASETS.NAMES` and `DATASETS.TESTS` are looked up in."""

from fastreid.data.datasets.bases import DatasetError, ImageDataset
from fastreid.utils.registry import Registry

# name -> callable(root=...) that returns an ImageDataset
DATASET_REGISTRY = Registry("dataset")

__all__ = ["DATASET_REGISTRY", "DatasetError", "ImageDataset"]
