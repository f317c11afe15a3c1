"""Diffusion over features: add noise, predict, sample and guide over a `Condition`."""

from fastreid.modeling.diffusion.assets import AssetError
from fastreid.modeling.diffusion.denoiser import Denoiser
from fastreid.modeling.diffusion.latent import LatentShape
from fastreid.modeling.diffusion.noise import NoiseSource
from fastreid.modeling.diffusion.sampling import Sampler
from fastreid.modeling.diffusion.schedule import Schedule

__all__ = ["AssetError", "Denoiser", "LatentShape", "NoiseSource", "Sampler", "Schedule"]
