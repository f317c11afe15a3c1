"""Diffusion over features or latents: add noise, predict, sample and guide over a `Condition`.

It knows no method and no config: parts take plain arguments, and errors name them (`OptionError`).
"""

from fastreid.modeling.diffusion.assets import AssetError
from fastreid.modeling.diffusion.denoiser import Denoiser
from fastreid.modeling.diffusion.latent import LatentShape
from fastreid.modeling.diffusion.noise import NoiseSource
from fastreid.modeling.diffusion.option_error import OptionError
from fastreid.modeling.diffusion.sampling import Sampler
from fastreid.modeling.diffusion.schedule import Schedule

__all__ = ["AssetError", "Denoiser", "LatentShape", "NoiseSource", "OptionError", "Sampler", "Schedule"]
