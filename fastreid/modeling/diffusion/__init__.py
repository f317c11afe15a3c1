"""Diffusion over features: add noise, predict, sample and guide over a `Condition`."""

from fastreid.modeling.diffusion.assets import AssetError
from fastreid.modeling.diffusion.conditioning import ConditionLearner
from fastreid.modeling.diffusion.denoiser import Denoiser
from fastreid.modeling.diffusion.fusion import Fusion
from fastreid.modeling.diffusion.latent import LatentShape
from fastreid.modeling.diffusion.noise import NoiseSource
from fastreid.modeling.diffusion.sampling import Sampler
from fastreid.modeling.diffusion.schedule import Schedule
from fastreid.modeling.diffusion.view_refined_decoder import ViewRefinedDecoder

__all__ = [
    "AssetError",
    "ConditionLearner",
    "Denoiser",
    "Fusion",
    "LatentShape",
    "NoiseSource",
    "Sampler",
    "Schedule",
    "ViewRefinedDecoder",
]
