"""Diffusion over features or latents: add noise, predict, sample and guide over a `Condition`.

It knows no method and no config: parts take plain arguments, and errors name them (`OptionError`).
"""

from fastreid.modeling.diffusion.assets import AssetError
from fastreid.modeling.diffusion.autoencoder import Autoencoder
from fastreid.modeling.diffusion.denoiser import Denoiser, VectorDenoiser
from fastreid.modeling.diffusion.latent import Latent, LatentShape, VectorLatent
from fastreid.modeling.diffusion.mlp_denoiser import MLPDenoiser
from fastreid.modeling.diffusion.noise import NoiseSource
from fastreid.modeling.diffusion.option_error import OptionError, option_keys
from fastreid.modeling.diffusion.sampling import Sampler
from fastreid.modeling.diffusion.schedule import Schedule
from fastreid.modeling.diffusion.transformer_denoiser import TransformerDenoiser
from fastreid.modeling.diffusion.unet_denoiser import UNetDenoiser

__all__ = [
    "AssetError",
    "Autoencoder",
    "Denoiser",
    "Latent",
    "LatentShape",
    "MLPDenoiser",
    "NoiseSource",
    "OptionError",
    "Sampler",
    "Schedule",
    "TransformerDenoiser",
    "UNetDenoiser",
    "VectorDenoiser",
    "VectorLatent",
    "option_keys",
]
