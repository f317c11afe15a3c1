"""Orders in which training images are drawn."""

from fastreid.data.samplers.identity import NaiveIdentitySampler
from fastreid.data.samplers.uniform import TrainingSampler
from fastreid.utils.registry import Registry

SAMPLER_REGISTRY = Registry("training sampler")
SAMPLER_REGISTRY.register(TrainingSampler)
SAMPLER_REGISTRY.register(NaiveIdentitySampler)

__all__ = ["SAMPLER_REGISTRY", "NaiveIdentitySampler", "TrainingSampler"]
