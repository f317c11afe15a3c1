"""Orders in which training images are drawn."""

import inspect

from fastreid.data.samplers.groups import (
    BalancedIdentitySampler,
    RandomMultipleGallerySampler,
    ViewBalancedSampler,
)
from fastreid.data.samplers.identity import NaiveIdentitySampler
from fastreid.data.samplers.inference import InferenceSampler
from fastreid.data.samplers.uniform import TrainingSampler
from fastreid.data.samplers.weighted import ImbalancedDatasetSampler, SetReWeightSampler
from fastreid.utils.registry import Registry

SAMPLER_REGISTRY = Registry("training sampler")
SAMPLER_REGISTRY.register(TrainingSampler)
SAMPLER_REGISTRY.register(NaiveIdentitySampler)
SAMPLER_REGISTRY.register(BalancedIdentitySampler)
SAMPLER_REGISTRY.register(RandomMultipleGallerySampler)
SAMPLER_REGISTRY.register(ViewBalancedSampler)
SAMPLER_REGISTRY.register(ImbalancedDatasetSampler)
SAMPLER_REGISTRY.register(SetReWeightSampler)


def draws_groups(name: str) -> bool:
    """Whether a `DATALOADER.SAMPLER_TRAIN` draws `DATALOADER.NUM_INSTANCE` images of each person of a batch."""
    return "num_instances" in inspect.signature(SAMPLER_REGISTRY.get(name, key="DATALOADER.SAMPLER_TRAIN")).parameters


__all__ = [
    "SAMPLER_REGISTRY",
    "BalancedIdentitySampler",
    "ImbalancedDatasetSampler",
    "InferenceSampler",
    "NaiveIdentitySampler",
    "RandomMultipleGallerySampler",
    "SetReWeightSampler",
    "TrainingSampler",
    "ViewBalancedSampler",
    "draws_groups",
]
