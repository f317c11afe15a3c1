"""Prompts to pictures with diffusers' Stable Diffusion pipeline: many at a time, each with noise of its own."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastreid.generation.few_steps import add_lora_file, consistency_solver
from fastreid.generation.plans import PicturePlan
from fastreid.modeling.diffusion import Schedule
from fastreid.modeling.diffusion.text import IDENTITY_WORD, TextEncoder
from fastreid.utils.optional import shield_diffusers

_REMEMBERED = 1024  # prompts whose tokens are kept


class Painter:
    """Writes pictures with the parts of a trained generator.

    A batch always has the same number of rows, so that a picture does not depend on what else is written: the last
    batch is filled with copies.

    Args:
        text: the text encoder.
        vae: a `diffusers.AutoencoderKL`.
        unet: the UNet.
        schedule: its solver writes the pictures.
        size: (height, width) of pictures.
        num_steps: steps of the solver.
        guidance: scale of classifier-free guidance; 1 or less uses none.
        batch_size: pictures of a batch.
        lora: file of LoRA weights that are added to the UNet; "" for none.
        consistency: take the solver of latent consistency models, with the betas of the schedule.
        vectors_of: numbers of people [B] -> vectors of their identity words [B, m, D]; None if there are none.
        autocast: makes the context of mixed precision.

    Raises:
        ConfigError: `lora` is missing, damaged, or does not fit.
        OptionError: the solver cannot take so many steps.

    Attributes:
        pipeline: the pipeline of diffusers.
        options: arguments of its call that all pictures share.
        batch_size: pictures of a batch.
    """

    def __init__(
        self,
        *,
        text: TextEncoder,
        vae: Any,
        unet: Any,
        schedule: Schedule,
        size: tuple[int, int],
        num_steps: int,
        guidance: float,
        batch_size: int,
        vectors_of: Callable[[Tensor], Tensor] | None = None,
        lora: str = "",
        consistency: bool = False,
        autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        shield_diffusers()
        from diffusers import StableDiffusionPipeline

        self._text, self._vectors_of, self._autocast = text, vectors_of, autocast
        self._size, self.batch_size = size, batch_size
        self._device = next(unet.parameters()).device
        self._draws_noise, solver = consistency, schedule.make_solver()
        make: Any = StableDiffusionPipeline  # mypy sees no members of diffusers' pipelines
        self.pipeline = make(
            vae=vae,
            text_encoder=text.model,
            tokenizer=text.tokenizer,
            unet=unet,
            scheduler=consistency_solver(solver, num_steps) if consistency else solver,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        if lora:
            add_lora_file(self.pipeline, lora)
        self.options = {"num_inference_steps": num_steps, "guidance_scale": guidance}
        channels, factor = unet.config.in_channels, 2 ** (len(vae.config.block_out_channels) - 1)
        self._latent_shape = (channels, size[0] // factor, size[1] // factor)
        self._tokens: OrderedDict[tuple[int, str], Tensor] = OrderedDict()

    @torch.no_grad()
    def paint(self, plans: Sequence[PicturePlan]) -> list[Image.Image]:
        """Return the pictures of plans, at most `batch_size` of them.

        Args:
            plans: the plans.
        """
        filled = [*plans, *[plans[-1]] * (self.batch_size - len(plans))]
        generators = [torch.Generator().manual_seed(plan.seed) for plan in filled]
        latents = torch.stack([self._noise(generator) for generator in generators])
        with self._autocast():
            found = self.pipeline(
                prompt_embeds=self._embedded(filled),
                negative_prompt_embeds=self._row(-1, "").expand(len(filled), -1, -1),
                latents=latents.to(self._device),
                height=self._size[0],
                width=self._size[1],
                output_type="np",
                generator=generators if self._draws_noise else None,  # in the steps after the first
                **self.options,
            ).images
        pixels = (np.asarray(found, dtype=np.float32) * 255).round().clip(0, 255).astype(np.uint8)
        return [Image.fromarray(picture) for picture in pixels[: len(plans)]]

    def noise(self, seed: int) -> Tensor:
        """Return the latent [C, h, w] that a picture starts from."""
        return self._noise(torch.Generator().manual_seed(seed))

    def _noise(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self._latent_shape, generator=generator)

    def _embedded(self, plans: Sequence[PicturePlan]) -> Tensor:
        return torch.cat([self._row(plan.gid if IDENTITY_WORD in plan.prompt else -1, plan.prompt) for plan in plans])

    def _row(self, gid: int, prompt: str) -> Tensor:
        """Return the tokens [1, L, D] of a prompt of a person, which are computed once."""
        key = gid, prompt
        if key not in self._tokens:
            encoded = self._text.encode([prompt]).to(self._device)
            vectors = None
            if gid >= 0 and self._vectors_of is not None:
                vectors = self._vectors_of(torch.tensor([gid], device=self._device))
            self._tokens[key] = self._text(encoded, vectors)
        self._tokens.move_to_end(key)
        if len(self._tokens) > _REMEMBERED:
            self._tokens.popitem(last=False)
        return self._tokens[key]
