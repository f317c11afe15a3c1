"""Benchmarks, samplers, transforms and loaders."""

from fastreid.data import benchmarks  # noqa: F401  (fills DATASET_REGISTRY)
from fastreid.data.build import (
    build_datasets,
    build_feature_loader,
    build_reid_test_loader,
    build_reid_train_loader,
    datasets_root,
)

__all__ = [
    "build_datasets",
    "build_feature_loader",
    "build_reid_test_loader",
    "build_reid_train_loader",
    "datasets_root",
]
