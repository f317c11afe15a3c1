"""Orders in which training images are drawn."""

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
]
