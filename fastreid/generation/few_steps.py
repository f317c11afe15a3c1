"""Pictures in few steps: latent consistency sampling, and LoRA files that were trained for it."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

from fastreid.config import ConfigError
from fastreid.modeling.diffusion.option_error import OptionError
from fastreid.utils.errors import first_line_of, sentence_of
from fastreid.utils.optional import hide_loading_bars

CONSISTENCY = "lcm"
"""The solver of latent consistency models (Luo et al., 2023)."""
_KEY, _ADAPTER = "DIFFPERSON.GEN.LORA", "file"


def consistency_solver(solver: Any, num_steps: int) -> Any:
    """Return the solver of latent consistency models with the betas of another one.

    Its steps after the first add noise, so that it needs a generator for each picture.

    Args:
        solver: a scheduler of diffusers.
        num_steps: steps that it will take.

    Raises:
        OptionError: it cannot take so many.
    """
    from diffusers import LCMScheduler

    shared = inspect.signature(LCMScheduler.__init__).parameters
    found: Any = LCMScheduler.from_config({name: value for name, value in solver.config.items() if name in shared})
    most = found.config.original_inference_steps
    if num_steps > most:
        raise OptionError(f"num_steps must be 1 … {most} for {CONSISTENCY}, got {num_steps}", "num_steps")
    return found


def add_lora_file(pipeline: Any, path: str) -> None:
    """Add the LoRA weights of a file to a pipeline of diffusers, beside adapters that it has already.

    Args:
        pipeline: the pipeline.
        path: a file of diffusers or kohya, such as LCM-LoRA.

    Raises:
        ConfigError: it is missing, damaged, or does not fit the UNet.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{_KEY}: there is no file {file}")
    hide_loading_bars()
    before = set(getattr(pipeline.unet, "peft_config", {}))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # that of the trained adapters
            pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=_ADAPTER, local_files_only=True
            )
    except Exception as error:  # diffusers and peft may raise any error for other names and shapes
        first = sentence_of(error) or first_line_of(error)
        raise ConfigError(f"{_KEY} {str(file)!r} cannot be added to this UNet: {first[:300]}") from error
    if _ADAPTER not in getattr(pipeline.unet, "peft_config", {}):
        raise ConfigError(f"{_KEY} {str(file)!r} has no LoRA weights of a UNet: is it a file of LoRA?")
    pipeline.unet.set_adapters([*sorted(before), _ADAPTER])
