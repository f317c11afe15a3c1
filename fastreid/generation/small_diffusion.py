"""Training of a small Stable Diffusion from random weights: autoencoder, text encoder, denoiser.

It stands for published weights where none can be downloaded. The parts are those of a pipeline of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from fastreid.generation.captioned import CaptionedPictures
from fastreid.generation.simple_start import silence_residuals, start_as_mean_colours
from fastreid.modeling.diffusion.assets import PIPELINE, AssetError
from fastreid.modeling.diffusion.schedule import Schedule
from fastreid.utils.errors import ArgumentError
from fastreid.utils.optional import hide_loading_bars
from fastreid.utils.progress import progress

_WARMUP_STEPS = 40
_KL_WEIGHT = 1e-5
_COLOUR_WEIGHT = 4.0
_LARGEST_WEIGHT = 8.0
_EMA_DECAY = 0.99
_EMPTY_CAPTIONS = 0.1
_DRAW_BATCH = 32


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train.

    Attributes:
        steps: number of steps of the denoiser.
        vae_steps: number of steps of the autoencoder.
        text_steps: number of steps of the text encoder.
        batch: pictures of a step of the denoiser.
        vae_batch: pictures of a step of the autoencoder.
        text_batch: captions of a step of the text encoder.
        rate: largest learning rate of the denoiser; it rises linearly for 40 steps, a fifth of a short
            training, and then falls like a cosine.
        vae_rate: that of the autoencoder.
        text_rate: that of the text encoder.
        seed: seed of batches, noise and timesteps.

    Raises:
        ArgumentError: the seed is out of range.
    """

    steps: int = 380
    vae_steps: int = 150
    text_steps: int = 300
    batch: int = 32
    vae_batch: int = 16
    text_batch: int = 64
    rate: float = 2e-3
    vae_rate: float = 2e-3
    text_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not -(2**43) <= self.seed < 2**43:  # pictures are drawn with multiples of it
            raise ArgumentError(f"the seed must be from -2^43 to 2^43 - 1, got {self.seed}")


def train_autoencoder(vae: Any, pictures: Tensor, plan: TrainingPlan) -> list[float]:
    """Train the autoencoder, and set its `scaling_factor` so that latents have unit variance.

    The loss is the mean absolute and squared error of the pictures, the squared error of the differences between their
    colour channels, and a small Kullback-Leibler term. It begins with the mean colours of squares.

    Args:
        vae: a `diffusers.AutoencoderKL`.
        pictures: [N, 3, H, W], uint8.
        plan: how to train.

    Returns:
        The loss of each step.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    start_as_mean_colours(vae)

    def loss(chosen: Tensor) -> Tensor:
        wanted = _flipped(_floats(pictures[chosen]), generator)
        latents = vae.encode(wanted).latent_dist
        noise = torch.randn(latents.mean.shape, generator=generator)
        drawn = vae.decode(latents.mean + latents.std * noise).sample
        error = drawn - wanted
        large = error.square().mean() + _COLOUR_WEIGHT * error.diff(dim=1).square().mean()
        return error.abs().mean() + large + _KL_WEIGHT * latents.kl().mean()

    batches = _batches(len(pictures), plan.vae_batch, plan.vae_steps, generator)
    losses = _optimise(vae.parameters(), loss, batches, plan.vae_steps, plan.vae_rate, "autoencoder")
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        sample = torch.cat([vae.encode(_floats(part)).latent_dist.mean for part in pictures[:512].split(64)])
    vae.register_to_config(scaling_factor=float(1 / sample.std()))
    return losses


def train_text_encoder(pipeline: Any, data: CaptionedPictures, plan: TrainingPlan, prefix: str) -> list[float]:
    """Train the text encoder to predict the latents of pictures from their captions.

    A linear layer predicts them from the mean of the states of all tokens. It is dropped afterwards. Published text
    encoders, too, have learnt what pictures their texts describe (CLIP) before a denoiser is trained on them.

    Args:
        pipeline: a `diffusers.StableDiffusionPipeline` with a trained autoencoder.
        data: pictures and captions.
        plan: how to train.
        prefix: what each text begins with, such as "a photo of a person".

    Returns:
        The loss of each step: the mean squared error of latents with unit variance.
    """
    generator = torch.Generator().manual_seed(plan.seed + 1)
    tokens = _tokens(pipeline.tokenizer, data.captions, prefix)
    sides = [_moments(pipeline.vae, pictures).chunk(2, dim=1)[0] for pictures in (data.pictures, data.pictures.flip(3))]
    wanted = (pipeline.vae.config.scaling_factor * (sides[0] + sides[1]) / 2).flatten(1)
    encoder = pipeline.text_encoder.train()
    head = nn.Linear(encoder.config.hidden_size, wanted.shape[1])
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)

    def loss(chosen: Tensor) -> Tensor:
        return (head(encoder(tokens[chosen])[0].mean(dim=1)) - wanted[chosen]).square().mean()

    batches = _batches(len(tokens), plan.text_batch, plan.text_steps, generator)
    both = [*encoder.parameters(), *head.parameters()]
    losses = _optimise(both, loss, batches, plan.text_steps, plan.text_rate, "text encoder")
    encoder.eval().requires_grad_(False)
    return losses


def train_denoiser(pipeline: Any, data: CaptionedPictures, plan: TrainingPlan, prefix: str) -> list[float]:
    """Train the UNet to predict what its scheduler says; it ends with the averages of its weights over the steps.

    A tenth of the captions is left empty, for guidance. Errors are weighted as those of the velocity (Salimans and Ho,
    ICLR 2022, appendix D), as the colours of large areas are decided in noisy latents; for a UNet that predicts
    something else the largest weight is eight times the smallest.

    Args:
        pipeline: a `diffusers.StableDiffusionPipeline` with a trained autoencoder and text encoder.
        data: pictures and captions.
        plan: how to train.
        prefix: what each text begins with, such as "a photo of a person".

    Returns:
        The loss of each step.
    """
    generator = torch.Generator().manual_seed(plan.seed + 2)
    texts = _states(pipeline.text_encoder, _tokens(pipeline.tokenizer, data.captions, prefix))
    (nothing,) = _states(pipeline.text_encoder, tokenise(pipeline.tokenizer, [""]))
    moments = [_moments(pipeline.vae, data.pictures), _moments(pipeline.vae, data.pictures.flip(3))]
    schedule = _schedule(pipeline.scheduler.config)
    kept = schedule.kept_signal(torch.arange(schedule.num_timesteps), torch.empty(1))
    scales = {"epsilon": kept, "sample": 1 - kept, "v_prediction": torch.ones_like(kept)}
    weights = (1 / scales[schedule.prediction_type]).clamp(max=_LARGEST_WEIGHT)
    unet = pipeline.unet.train()
    silence_residuals(unet)
    average: Any = EMAModel(unet.parameters(), decay=_EMA_DECAY, foreach=True)

    def loss(chosen: Tensor) -> Tensor:
        size = len(chosen)
        mean, deviation = moments[int(torch.randint(2, (), generator=generator))][chosen].chunk(2, dim=1)
        clean = mean + deviation * torch.randn(mean.shape, generator=generator)
        clean = clean * pipeline.vae.config.scaling_factor
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(len(weights), (size,), generator=generator)
        noisy = schedule.add_noise(clean, noise, times)
        empty = torch.rand(size, 1, 1, generator=generator) < _EMPTY_CAPTIONS
        text = torch.where(empty, nothing, texts[chosen])
        error = (unet(noisy, times, text).sample - schedule.target(clean, noise, times)).square().mean(dim=(1, 2, 3))
        return (weights[times] * error).mean() / weights.mean()

    def update_average() -> None:
        average.step(unet.parameters())

    batches = _batches(len(texts), plan.batch, plan.steps, generator)
    losses = _optimise(unet.parameters(), loss, batches, plan.steps, plan.rate, "denoiser", update_average)
    average.copy_to(unet.parameters())
    unet.eval()
    return losses


def _schedule(config: Any) -> Schedule:
    """The noise schedule of a scheduler of diffusers."""
    how: dict[str, Any] = {"num_timesteps": config.num_train_timesteps, "prediction_type": config.prediction_type}
    return Schedule(dict(config), solver="ddim", timestep_spacing="leading", cubic=False, **how)


def _tokens(tokenizer: Any, captions: Sequence[str], prefix: str) -> Tensor:
    return tokenise(tokenizer, [f"{prefix}, {caption}" for caption in captions])


@torch.no_grad()
def _states(encoder: Any, tokens: Tensor) -> Tensor:
    """States [N, 77, D] of all tokens."""
    return torch.cat([encoder(part)[0] for part in tokens.split(256)])


def tokenise(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Return token ids [N, 77]; longer texts are cut.

    Args:
        tokenizer: a CLIPTokenizer.
        texts: the texts.
    """
    size = tokenizer.model_max_length
    return tokenizer(texts, padding="max_length", max_length=size, truncation=True, return_tensors="pt").input_ids


def _optimise(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    batches: Iterator[Tensor],
    steps: int,
    rate: float,
    name: str,
    after: Callable[[], None] = lambda: None,
) -> list[float]:
    """Minimise a loss over batches with AdamW; return its values."""
    kept = list(parameters)
    optimizer = torch.optim.AdamW(kept, lr=rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    rise = max(1, min(_WARMUP_STEPS, steps // 5))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=rise)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps - rise, 1), eta_min=0.05 * rate)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [rise])
    losses = []
    for batch in progress(batches, steps, f"training the {name}"):
        value = loss(batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(kept, 1.0)
        optimizer.step()
        schedule.step()
        after()
        losses.append(float(value.detach()))
    return losses


def _batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the positions of the pictures of each step: all of them in random order, again and again."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        chosen, order = order[:size], order[size:]
        yield chosen


def _floats(pictures: Tensor) -> Tensor:
    """Pictures of bytes [B, 3, H, W] in -1 … 1."""
    return pictures.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def _flipped(pictures: Tensor, generator: torch.Generator) -> Tensor:
    chosen = torch.rand(len(pictures), 1, 1, 1, generator=generator) < 0.5
    return torch.where(chosen, pictures.flip(3), pictures)


@torch.no_grad()
def _moments(vae: Any, pictures: Tensor) -> Tensor:
    """Mean and deviation of the unscaled latents [N, 2C, h, w]."""
    parts = [vae.encode(_floats(part)).latent_dist for part in pictures.split(64)]
    return torch.cat([torch.cat([part.mean, part.std], dim=1) for part in parts])


def load_pipeline(folder: Path) -> Any:
    """Read a whole Stable Diffusion.

    Args:
        folder: a folder of diffusers with `model_index.json`.

    Raises:
        AssetError: the folder is not one.
    """
    if not (folder / PIPELINE).is_file():
        raise AssetError(f"{folder} has no {PIPELINE}: name a Stable Diffusion with a text encoder")
    hide_loading_bars()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    for part in (pipeline.vae, pipeline.unet):
        part.to(memory_format=torch.channels_last)
    return pipeline


def draw(pipeline: Any, prompts: Sequence[str], seed: int = 0, steps: int = 20, guidance: float = 3.0) -> Tensor:
    """Return a picture of each prompt, uint8 [N, 3, H, W].

    Args:
        pipeline: a `diffusers.StableDiffusionPipeline`.
        prompts: N texts.
        seed: seed of the noise; each picture has its own.
        steps: steps of DDIM.
        guidance: scale of classifier-free guidance.
    """
    drawer: Any = StableDiffusionPipeline(
        **{**pipeline.components, "scheduler": DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)},
        requires_safety_checker=False,
    )
    drawer.set_progress_bar_config(disable=True)
    pictures = []
    starts = range(0, len(prompts), _DRAW_BATCH)
    for start in progress(starts, len(starts), "drawing"):
        texts = list(prompts[start : start + _DRAW_BATCH])
        noise = [torch.Generator().manual_seed(seed * 2**20 + start + number) for number in range(len(texts))]
        images = drawer(
            texts, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="np"
        ).images
        pictures.append(torch.from_numpy(images).permute(0, 3, 1, 2).mul(255).round().byte())
    return torch.cat(pictures)
